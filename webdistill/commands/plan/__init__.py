"""python -m webdistill plan: what the run of params.yaml will cost, before it starts."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

SECONDS = 10.0  # of trial, at most but for two steps


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`plan`"""
    command = commands.add_parser(
        "plan",
        help="what the run will cost: steps, hours on this machine, memory, disk",
        description="Counts pictures by the last stage that has run, and tries a few steps of the training, with the "
        "networks of params.yaml and random pictures. Writes nothing.",
    )
    add = command.add_argument
    add("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    add("--pictures", type=int, metavar="N", help="in the pool; default: counted")
    add(
        "--seconds",
        type=float,
        metavar="S",
        default=SECONDS,
        help="of trial; 0: none, and hours stay unknown (%(default)g)",
    )
    command.set_defaults(run=plan)


def plan(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> the table. Raises UserError for a teacher that does not load and for a count below one."""
    from webdistill.commands.plan.command import table
    from webdistill.core.errors import UserError
    from webdistill.harness import params

    if arguments.pictures is not None and arguments.pictures < 1:
        raise UserError(f"--pictures = {arguments.pictures}: expected 1 or more")
    check_seconds("--seconds", arguments.seconds)
    return table(params.load(arguments.params), arguments.pictures, arguments.seconds), 0


def check_seconds(flag: str, seconds: float) -> None:
    """Raises UserError for a trial of less than no time or without end."""
    from webdistill.core.errors import UserError

    if not 0 <= seconds < math.inf:
        raise UserError(f"{flag} = {seconds:g}: expected 0 or more")
