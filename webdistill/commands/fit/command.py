"""The command `fit`: its arguments (nothing heavy is imported before it is run) and its answer."""

from __future__ import annotations

import argparse
from pathlib import Path

LARGE = 64  # px, larger images are slower to look at:
IMAGES, IMAGES_LARGE = 2000, 400
PICTURE = Path(".work/fit.png")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`fit`"""
    fit = commands.add_parser(
        "fit",
        help="compare the pool with the teacher, before any training",
        description="Runs the teacher on a sample of data/fetch/pool and, for comparison, on the test images if there "
        "are any. Test labels are not read.",
    )
    add = fit.add_argument
    add(
        "--images",
        type=int,
        help=f"sample size; default: {IMAGES:,}, above {LARGE} px {IMAGES_LARGE}",
    )
    add("--json", type=Path, metavar="FILE", help="also write all values to FILE, for programs")
    add("--picture", type=Path, metavar="FILE", default=PICTURE, help=f"default: {PICTURE}")
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=Path("data"),
        help="outputs of the stages; default: data",
    )
    add("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    fit.set_defaults(run=lambda arguments: (report(arguments), 0))


def report(arguments: argparse.Namespace) -> str:
    """-> the table. Raises UserError when the pool or the teacher is not there, or they do not fit the task."""
    import torch

    from webdistill.commands.fit import measuring, output, signals
    from webdistill.commands.fit.wording import CLOSE
    from webdistill.core.errors import UserError
    from webdistill.core.files import write_json
    from webdistill.harness import params
    from webdistill.models.checkpoint import load_network

    settings = params.load(arguments.params)
    task = settings.task
    usual = IMAGES if task.image_size <= LARGE else IMAGES_LARGE
    count = usual if arguments.images is None else arguments.images
    if count < measuring.FEWEST:
        raise UserError(f"--images {count}: at least {measuring.FEWEST} are needed")
    if not Path(task.teacher).is_dir():
        raise UserError(f"teacher folder {task.teacher} does not exist; name it in task.teacher")
    network = load_network(Path(task.teacher))
    if network.card.classes != task.classes:
        raise UserError(
            f"the classes of {task.teacher} and task.classes differ; `python -m webdistill check-teacher` says where"
        )
    sources = measuring.Sources.below(arguments.data, Path(task.test_images))
    similarity = settings.raw["filter"]["duplicate_similarity"]
    threads = torch.get_num_threads()
    torch.set_num_threads(task.threads)
    try:
        found = measuring.measure(
            network, sources, task.image_size, count, similarity, task.threads
        )
    finally:
        torch.set_num_threads(threads)
    told = signals.signals(found, task.classes)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(output.plain(found, told, task.classes), arguments.json)
    output.picture(found, task.classes, arguments.picture)
    title = (
        f"{sources.pool}: {found.pool.images:,} of {found.pool_images:,} images, seen by {task.teacher} at "
        f"{task.image_size} px"
    )
    text = output.table(title, told, signals.missing(found), CLOSE)
    return f"{text}\n\n{output.class_table(found, task.classes)}\n\npicture: {arguments.picture}"
