"""The command line that all stages have: `python -m stages.NAME [--params FILE] [--cell FOLDER] [--set KEY=VALUE]`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path


def parse(name: str, argv: Sequence[str] | None, *, dry: bool) -> argparse.Namespace:
    """The arguments of stage `name`; exits with `--help` or a mistake.

    Arguments:
        argv: command line; None: that of the process.
        dry: the stage has `--dry-run`.

    Returns:
        `params`, `cell`, `source` (of `--from`), `set`, and `dry_run` where there is one.
    """
    package = importlib.import_module(f"stages.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="default: params.yaml"
    )
    parser.add_argument(
        "--cell",
        type=Path,
        metavar="FOLDER",
        help="write to FOLDER/<stage>/ instead of data/<stage>/, and prefer inputs found in FOLDER",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FOLDER",
        help="with --cell: take outputs of earlier stages that the cell lacks from FOLDER/<stage>/; default: data",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one parameter for this run (value in YAML)",
    )
    if dry:
        parser.add_argument(
            "--dry-run", action="store_true", help="show what would be found, write nothing"
        )
    return parser.parse_args(argv)
