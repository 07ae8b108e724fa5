"""python -m stages.score"""

from __future__ import annotations

from webdistill.core.stage import Stage, run


def main(stage: Stage) -> None:
    """The teacher looks at every image of the pool once."""
    import shutil

    import torch

    from stages.score import teacher
    from webdistill.core.errors import UserError
    from webdistill.core.files import read_table
    from webdistill.models.checkpoint import load_network
    from webdistill.models.names import own_code

    task, settings = stage.task, stage.params
    torch.set_num_threads(task.threads)
    network = load_network(stage.input(task.teacher))
    card = network.card
    own = own_code(*card.built_from)
    for file in own:
        stage.input(file)
    teacher.check_card(card, task.classes, task.image_size, settings.other_image_size, task.teacher)
    pool = sorted(stage.input("data/fetch/pool").glob("*.parquet"))
    images = sum(read_table(shard, ["id"]).num_rows for shard in pool)
    if not images:
        raise UserError(
            "data/fetch/pool holds no image; "
            "data/fetch/ledger.parquet says what became of each candidate"
        )
    network.net.to("cuda" if torch.cuda.is_available() else "cpu")
    view = teacher.View(
        teacher_sha256=card.sha256,
        architecture=card.architecture,
        image_size=task.image_size,
        mean=card.mean,
        std=card.std,
        precision=settings.precision,
        batch_size=settings.batch_size,
    )

    facts = (task.threads, torch.__version__, str(network.net.fc.weight.device))
    work = stage.scratch(*facts, [stage.inputs[file] for file in (*own, task.teacher)])
    targets = {shard: work / view.name(shard) for shard in pool}
    if earlier := sum(target.exists() for target in targets.values()):
        stage.log(f"{earlier} of {len(pool)} shards were finished by an earlier run")
    steps = teacher.score_shards(network, view, targets, task.threads)
    for _ in stage.progress(steps, total=images, size=int):
        pass
    figures = teacher.Figures(len(task.classes))
    with stage.output("teacher") as folder:
        folder.mkdir()
        for shard, target in targets.items():
            figures.add(target)
            shutil.copyfile(target, folder / shard.name)
    stage.metrics(figures.metrics())
    stage.when_published(lambda: shutil.rmtree(work))  # the output holds the same files
    stage.log(f"teacher {card.architecture} has scored {images:,} images in {len(pool)} shards")


if __name__ == "__main__":
    run("score", main)
