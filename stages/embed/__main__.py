"""python -m stages.embed"""

from __future__ import annotations

from webdistill.harness.stage import Stage, run


def main(stage: Stage) -> None:
    """Pool -> embeddings shard by shard -> scores against the class names."""
    import json
    import shutil

    import pyarrow as pa

    from stages.embed import embedding, scoring
    from webdistill.core import files
    from webdistill.engine import machine, running
    from webdistill.engine.jobs import Job
    from webdistill.models import clip

    task, settings = stage.task, stage.params
    shards = sorted(stage.input("data/fetch/pool").glob("*.parquet"))
    for path in clip.local_files(settings.model, settings.pretrained):
        stage.input(str(path))
    model = clip.load(settings.model, settings.pretrained, precision=settings.precision)
    texts = scoring.class_embeddings(model, task.classes, settings.templates)
    unsafe = scoring.unsafe_texts(model, settings.unsafe_texts, texts)

    own = {name: sha for name, sha in stage.inputs.items() if name != "data/fetch/pool"}
    scratch = stage.scratch(own, machine.facts(model.device.type))  # shards have keys of their own
    made = {shard: embedding.target(model, shard, scratch) for shard in shards}
    jobs = [
        Job(shard, path, files.read_table(shard, ["id"]).num_rows) for shard, path in made.items()
    ]
    running.run(stage, embedding.task(model, settings, task.threads), jobs)
    tables = []
    for shard, path in made.items():
        labels = files.read_table(shard, ["id", "query"])
        vectors = embedding.read_embeddings(path)
        tables.append(scoring.score_shard(labels, vectors, texts, task.classes, unsafe))

    with stage.output("embeddings") as folder:
        folder.mkdir()
        for shard, path in made.items():
            shutil.copyfile(path, folder / shard.name)
    scores = pa.concat_tables(tables) if tables else scoring.EMPTY
    header = {
        name: json.dumps(value)
        for name, value in (
            ("classes", task.classes),
            ("templates", settings.templates),
            ("unsafe_texts", settings.unsafe_texts),
        )
    }
    with stage.output("scores.parquet") as path:
        files.write_table(scores, path, {**model.header, **header})
    for stale in set(scratch.iterdir()) - set(made.values()):
        files.remove(stale)

    figures = {"dimensions": texts.shape[1], **scoring.figures(scores)}
    stage.metrics(figures)
    agrees = figures.get("clip_agrees_with_query")
    stage.log(
        f"{figures['images']:,} images embedded with {settings.model} in {model.header['precision']}; "
        + (
            "no keyword names a class, so CLIP's opinion is compared with none"
            if agrees is None
            else f"CLIP agrees with {100 * agrees:.1f} % of the queries"
        )
    )


if __name__ == "__main__":
    run("embed", main)
