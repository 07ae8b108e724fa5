"""python -m webdistill check: is params.yaml right?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from webdistill.harness import params


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`check`"""
    command = commands.add_parser("check", help="validate params.yaml, all sections")
    command.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="default: params.yaml"
    )
    command.add_argument(
        "-S",
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="as if the file said so: what `dvc exp run -S` would run; may be repeated",
    )
    command.set_defaults(run=lambda arguments: (check(arguments.params, arguments.set), 0))


def check(path: Path, overrides: Sequence[str] = ()) -> str:
    """Validate the whole file, with `section.key=value` in place of what it says. -> one line"""
    settings = params.load(path, overrides)
    return f"{path} is valid: {len(settings.flat())} parameters in {len(settings.sections) + 1} sections"
