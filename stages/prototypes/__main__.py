"""python -m stages.prototypes"""

from __future__ import annotations

from webdistill.harness.stage import Stage, run


def main(stage: Stage) -> None:
    """Features of the selected images become prototypes with priors."""
    from stages.prototypes import dictionary, quality
    from webdistill.core.files import write_table

    settings, task = stage.params, stage.task
    selection = stage.input("data/select/selection.parquet")
    shards = sorted(stage.input("data/score/teacher").glob("*.parquet"))
    if not shards:
        dictionary.of_nothing(stage)
        return
    selected = dictionary.gather(selection, shards, settings.space, len(task.classes))
    built = dictionary.build(selected, settings, task.seed, task.threads)
    with stage.output("prototypes.safetensors") as path:
        facts = {"space": settings.space, "teacher_sha256": dictionary.teacher_of(shards[0])}
        dictionary.save(dictionary.tensors(built), path, facts)
    with stage.output("random.safetensors") as path:
        dictionary.save(dictionary.noise(built, task.seed), path, facts)
    dictionary.write_empty(stage, "constant", "drawn", "none")
    with stage.output("assignment.parquet") as path:
        write_table(dictionary.assignment(selected, built.clusters), path)
    judged = quality.judge(selected, built)
    with stage.output("clusters.csv") as path:
        quality.write_clusters(judged, task.classes, path)
    figures = quality.figures(judged, built)
    stage.metrics(figures)

    if built.clusters.moved:
        stage.log(
            f"warning: {built.clusters.moved:,} images still moved after "
            f"{built.clusters.iterations} iterations; raise prototypes.iterations"
        )
    if figures["sampled"] < figures["images"]:
        stage.log(f"learned from {figures['sampled']:,} of {figures['images']:,} images")
    stage.log(
        f"{settings.count} prototypes of {figures['smallest_cluster']:,} to "
        f"{figures['largest_cluster']:,} images; {settings.dims} dimensions keep "
        f"{figures['explained_variance']:.1%} of the variance"
    )


if __name__ == "__main__":
    run("prototypes", main)
