"""python -m webdistill pool-page: the pool on one page as soon as `select` has run, before any training."""

from __future__ import annotations

import argparse
from pathlib import Path

PAGE = Path(".work/pool.html")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`pool-page`"""
    command = commands.add_parser(
        "pool-page",
        help="the pool on one page, to choose thresholds before any training",
        description="Needs what `dvc repro select` makes. Funnel, fit, pictures at each threshold and at others, "
        "licences; the report shows it again with the student.",
    )
    add = command.add_argument
    add("--output", type=Path, metavar="FILE", default=PAGE, help=f"default: {PAGE}")
    add("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    command.set_defaults(run=pool_page)


def pool_page(arguments: argparse.Namespace) -> tuple[str, int]:
    """Write the page. -> what to open"""
    from webdistill.commands.pool_page.command import write

    write(arguments.params, arguments.output)
    return f"open {arguments.output} in a browser", 0
