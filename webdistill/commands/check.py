"""python -m webdistill check: is params.yaml right?"""

from __future__ import annotations

import argparse
from pathlib import Path

from webdistill.harness import params


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`check`"""
    command = commands.add_parser("check", help="validate params.yaml, all sections")
    command.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="default: params.yaml"
    )
    command.set_defaults(run=lambda arguments: (check(arguments.params), 0))


def check(path: Path) -> str:
    """Validate the whole file. -> one line"""
    settings = params.load(path)
    return f"{path} is valid: {len(settings.flat())} parameters in {len(settings.sections) + 1} sections"
