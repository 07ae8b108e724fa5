"""python -m webdistill: check the parameters, or say what there is to open."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from webdistill.core import params
from webdistill.core.errors import UserError
from webdistill.core.files import read_json


def check(path: Path) -> str:
    """Validate the whole file. -> one line"""
    settings = params.load(path)
    return f"{path} is valid: {len(settings.flat())} parameters in {len(settings.sections) + 1} sections"


def results(root: Path) -> str:
    """The figures of the last run below `root` and what to open. Raises UserError when there was none."""
    measured = read_json(root / "data" / "evaluate" / "metrics.json")
    if os.environ.get("MLFLOW_TRACKING_URI"):
        tracked = "the server that MLFLOW_TRACKING_URI names"
    else:
        store = f"sqlite:///{root / 'mlflow.db'}"
        tracked = (
            f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri '{store}'"
        )
    return "\n".join(
        (
            (
                f"student  {measured['top1']:.1%} on the test images, teacher {measured['teacher_top1']:.1%}; "
                f"{measured['parameters']:,} of {measured['teacher_parameters']:,} parameters"
            ),
            f"report   {root / 'data' / 'report' / 'report.html'}",
            f"MLflow   {tracked}",
            "metrics  dvc metrics show",
            "plots    dvc plots show",
        )
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m webdistill", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="validate params.yaml, all sections")
    checking.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="default: params.yaml"
    )
    commands.add_parser("results", help="the figures of the last run and what to open")
    arguments = parser.parse_args(argv)
    try:
        text = check(arguments.params) if arguments.command == "check" else results(Path.cwd())
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
