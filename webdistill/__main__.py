"""python -m webdistill: check the parameters, or say what there is to open."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from webdistill.core import params
from webdistill.core.errors import UserError


def _check(path: Path) -> None:
    settings = params.load(path)
    print(
        f"{path} is valid: {len(settings.flat())} parameters in {len(settings.sections) + 1} sections"
    )


def _results(_path: Path) -> None:
    from webdistill.core.files import read_json

    root = Path.cwd()
    measured = read_json(root / "data" / "evaluate" / "metrics.json")
    print(
        f"student {measured['top1']:.1%}, teacher {measured['teacher_top1']:.1%} on the test images"
    )
    print(f"report    {root / 'data/report/report.html'}")
    print(f"MLflow    mlflow ui --backend-store-uri sqlite:///{root / 'mlflow.db'}")
    print("metrics   dvc metrics show")
    print("plots     dvc plots show")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m webdistill", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function, text in (
        ("check", _check, "validate params.yaml, all sections"),
        ("results", _results, "the figures of the last run and what to open"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--params", type=Path, default=Path("params.yaml"), help="default: params.yaml"
        )
        command.set_defaults(function=function)
    arguments = parser.parse_args(argv)
    try:
        arguments.function(arguments.params)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
