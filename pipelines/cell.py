"""Run one cell of a matrix pipeline: some stages of the main pipeline with changed parameters, in a folder of its own.

    python -m pipelines.cell pipelines/selection balanced 0

The pipeline's params.yaml names the `stages` to run and, per arm, the `section.key: value` pairs that differ from the
main params.yaml. Outputs go to <pipeline>/cells/<arm>-<seed>/; other inputs come from the main pipeline's data/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from webdistill.core.errors import UserError
from webdistill.core.params import read_yaml


def commands(pipeline: Path, arm: str, seed: int) -> list[list[str]]:
    """The stage commands of a cell. Raises UserError for an arm that the pipeline does not have."""
    settings = read_yaml(pipeline / "params.yaml")
    if arm not in settings["arms"]:
        raise UserError(
            f"{pipeline / 'params.yaml'} has no arm '{arm}'; it has {', '.join(settings['arms'])}"
        )
    changes = [f"task.seed={seed}"]
    changes += [f"{key}={json.dumps(value)}" for key, value in settings["arms"][arm].items()]
    flags = [part for change in changes for part in ("--set", change)]
    cell = ["--cell", str(pipeline / "cells" / f"{arm}-{seed}")]
    return [
        [sys.executable, "-m", f"stages.{stage}", *cell, *flags] for stage in settings["stages"]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("arm")
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    try:
        for command in commands(arguments.pipeline, arguments.arm, arguments.seed):
            code = subprocess.call(command)
            if code:
                return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
