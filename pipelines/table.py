"""Cells of a matrix pipeline -> one CSV row per cell and a Markdown table with mean and standard deviation.

    python -m pipelines.table pipelines/selection/cells --out pipelines/selection

A cell is a folder `<arm>-<seed>` that holds evaluate/metrics.json and distill/metrics.json.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

from webdistill.core.errors import UserError
from webdistill.core.files import read_json


@dataclass(frozen=True)
class Cell:
    """The figures of one arm and seed."""

    arm: str
    seed: int
    top1: float
    agreement: float
    steps: int
    images: int


def read_cells(folder: Path) -> list[Cell]:
    """All finished cells, by arm and seed."""
    cells = []
    for path in sorted(folder.glob("*/evaluate/metrics.json")):
        name = path.parents[1].name
        arm, _, seed = name.rpartition("-")
        measured, trained = read_json(path), read_json(path.parents[1] / "distill" / "metrics.json")
        cells.append(
            Cell(
                arm, int(seed), measured["top1"], measured["agreement"],
                int(trained["steps"]), int(trained["images"]),
            )
        )  # fmt: skip
    return sorted(cells, key=lambda c: (c.arm, c.seed))


def markdown(cells: list[Cell]) -> str:
    """Best mean first; n, mean and sample standard deviation of top-1 and of agreement with the teacher.

    Raises UserError when the arms were not trained for equally many steps.
    """
    if len({cell.steps for cell in cells}) > 1:
        odd = {f"{cell.arm}-{cell.seed}": cell.steps for cell in cells}
        raise UserError(f"the arms differ in optimiser steps and cannot be compared: {odd}")
    arms: dict[str, list[Cell]] = {}
    for cell in cells:
        arms.setdefault(cell.arm, []).append(cell)
    lines = [
        "| arm | seeds | images | steps | top-1, % | agreement with the teacher, % |",
        "|---|---|---|---|---|---|",
    ]
    for arm, group in sorted(
        arms.items(), key=lambda item: -statistics.mean(c.top1 for c in item[1])
    ):
        lines.append(
            f"| {arm} | {len(group)} | {group[0].images:,} | {group[0].steps:,} "
            f"| {_spread([c.top1 for c in group])} | {_spread([c.agreement for c in group])} |"
        )
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cells", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    cells = read_cells(arguments.cells)
    with (arguments.out / "cells.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["arm", "seed", "top1", "agreement", "steps", "images"])
        for cell in cells:
            writer.writerow(
                [cell.arm, cell.seed, cell.top1, cell.agreement, cell.steps, cell.images]
            )
    (arguments.out / "comparison.md").write_text(markdown(cells))


if __name__ == "__main__":
    main()
