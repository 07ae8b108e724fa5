"""python -m stages.score"""

from __future__ import annotations

from webdistill.harness.stage import Stage, run


def main(stage: Stage) -> None:
    """The teacher looks at every image of the pool once."""
    import shutil
    from dataclasses import asdict
    from functools import partial

    import torch

    from stages.score import teacher
    from webdistill.core.files import read_table
    from webdistill.engine import machine, running
    from webdistill.engine.jobs import Job, Task
    from webdistill.harness.wording import plural
    from webdistill.models.checkpoint import load_network

    task, settings = stage.task, stage.params
    torch.set_num_threads(task.threads)
    network = load_network(stage.input(task.teacher))
    card = network.card
    own = stage.networks(*card.built_from)
    teacher.check_card(card, task.classes, task.image_size, settings.other_image_size, task.teacher)
    pool = sorted(stage.input("data/fetch/pool").glob("*.parquet"))
    rows = {shard: read_table(shard, ["id"]).num_rows for shard in pool}
    images = sum(rows.values())
    if not images:
        stage.log(
            "warning: data/fetch/pool holds no image; data/fetch/ledger.parquet says what became of each candidate"
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

    device = network.net.fc.weight.device.type
    inputs = [stage.inputs[file] for file in (*own, task.teacher)]
    work = stage.scratch(task.threads, machine.facts(device), inputs)
    targets = {shard: work / view.name(shard) for shard in pool}
    facts = {
        "device": device,
        "teacher": task.teacher,
        "threads": task.threads,
        "view": asdict(view),
    }
    here = partial(teacher.score_shard, network, view, task.threads)
    jobs = [Job(shard, target, rows[shard]) for shard, target in targets.items()]
    running.run(stage, Task(teacher.scorer, facts, here), jobs, cpus=task.threads)
    figures = teacher.Figures(len(task.classes))
    with stage.output("teacher") as folder:
        folder.mkdir()
        for shard, target in targets.items():
            figures.add(target)
            shutil.copyfile(target, folder / shard.name)
    stage.metrics(figures.metrics())
    stage.when_published(lambda: shutil.rmtree(work))  # the output holds the same files
    stage.log(
        f"teacher {card.architecture} has scored {plural(images, 'image')} in {plural(len(pool), 'shard')}"
    )


if __name__ == "__main__":
    run("score", main)
