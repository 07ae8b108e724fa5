"""python -m webdistill check-teacher: will this teacher work with this task? A few seconds, before any stage runs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`check-teacher`"""
    command = commands.add_parser(
        "check-teacher",
        help="check that a teacher fits this task: weights, classes, size, normalisation, speed, and what the student "
        "will cost",
        description="Exit code 0 when nothing failed, else 2.",
    )
    add = command.add_argument
    add("folder", type=Path, nargs="?", help="of the teacher; default: task.teacher")
    add(
        "--images",
        type=Path,
        help="pool or Parquet file (id, image) of real images; default: data/fetch/pool if it is there, else "
        "task.test_images",
    )
    add(
        "--labels",
        type=Path,
        help="Parquet file (id, label) for the accuracy; default: none, the task's labels are not read unless named "
        "here. With it the default of --images is task.test_images",
    )
    add("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    command.set_defaults(run=check_teacher)


def check_teacher(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> the table of findings, and the exit code."""
    from webdistill.commands.check_teacher.command import run  # torch takes a second

    text, failed = run(arguments.folder, arguments.images, arguments.labels, arguments.params)
    return text, 2 if failed else 0
