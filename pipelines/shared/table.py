"""Cells of a matrix pipeline -> one CSV row per cell, a Markdown table, a picture, and one tracked comparison.

    python -m pipelines.shared.table pipelines/compare

Tables the arms and seeds that the pipeline's params.yaml names and says which of them have not been run; writes
cells.csv, comparison.md and comparison.png beside it. Further keys of params.yaml:

    baseline     arm from which differences are taken, or arm -> its own such arm; then arms stay in their order
    unequal      arms that may differ from the others in optimiser steps
    references   name -> JSON file with `top1` (and `sd`, `agreement`), shown below the arms when it exists
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from pipelines.shared import track
from pipelines.shared.plot import dot_plot
from pipelines.shared.program import argument, run
from pipelines.shared.welch import interval
from webdistill.core.errors import UserError
from webdistill.core.files import read_json
from webdistill.harness.params import read_yaml

NOTE = (
    "± is the sample standard deviation over seeds; brackets hold Welch's 95 % confidence interval of the difference "
    "of two means, which allows for seeds only."
)


@dataclass(frozen=True)
class Cell:
    """The figures of one arm and seed."""

    arm: str
    seed: int
    top1: float
    agreement: float
    steps: int
    images: int
    teacher_top1: float
    raw_top1: float | None = None  # of a de-confounded student: its answers without compensation
    compensated_top1: float | None = None

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"

    def answers(self, kind: str) -> float:
        """Top-1 of `raw` or `compensated` answers; where there is no such choice, of all there are."""
        found = {"raw": self.raw_top1, "compensated": self.compensated_top1}.get(kind)
        return self.top1 if found is None else found


@dataclass(frozen=True)
class Comparison:
    """The finished cells by arm in the order shown, and what has not been run."""

    arms: dict[str, list[Cell]]
    missing: list[str]
    baselines: Mapping[str, str]  # arm -> the arm its difference is taken to
    references: dict[str, Mapping[str, float]]

    @property
    def cells(self) -> list[Cell]:
        return [cell for group in self.arms.values() for cell in group]


def read_cell(folder: Path) -> Cell:
    """`<arm>-<seed>/` with evaluate/metrics.json and distill/metrics.json."""
    arm, _, seed = folder.name.rpartition("-")
    measured = read_json(folder / "evaluate" / "metrics.json")
    trained = read_json(folder / "distill" / "metrics.json")
    return Cell(
        arm=arm,
        seed=int(seed),
        top1=measured["top1"],
        agreement=measured["agreement"],
        steps=int(trained["steps"]),
        images=int(trained["images"]),
        teacher_top1=measured["teacher_top1"],
        raw_top1=measured.get("raw_top1"),
        compensated_top1=measured.get("compensated_top1"),
    )


def compare(pipeline: Path, settings: Mapping[str, Any]) -> Comparison:
    """Read what is there of the arms and seeds. Raises UserError when it cannot be compared."""
    wanted = [
        pipeline / "cells" / f"{arm}-{seed}"
        for arm in settings["arms"]
        for seed in settings["seeds"]
    ]
    done = [folder for folder in wanted if (folder / "evaluate" / "metrics.json").exists()]
    if not done:
        raise UserError(
            f"no finished cell in {pipeline / 'cells'}; run `dvc --cd {pipeline.parent} repro {pipeline.name}/dvc.yaml`"
        )
    groups: dict[str, list[Cell]] = {}
    for folder in done:
        cell = read_cell(folder)
        groups.setdefault(cell.arm, []).append(cell)
    baseline = settings.get("baseline")
    if not isinstance(baseline, Mapping):
        best = sorted(groups.items(), key=lambda item: -statistics.mean(c.top1 for c in item[1]))
        groups, baseline = dict(best), {arm: baseline for arm in groups if baseline in groups}
    found = {name: Path(path) for name, path in settings.get("references", {}).items()}
    comparison = Comparison(
        arms=groups,
        missing=[folder.name for folder in wanted if folder not in done]
        + [name for name, path in found.items() if not path.exists()],
        baselines={arm: base for arm, base in baseline.items() if {arm, base} <= set(groups)},
        references={name: read_json(path) for name, path in found.items() if path.exists()},
    )
    unequal = settings.get("unequal", ())
    alike = [cell for cell in comparison.cells if cell.arm not in unequal]
    _check_equal(alike, "steps", "were not trained for equally many optimiser steps")
    _check_equal(comparison.cells, "teacher_top1", "differ in teacher or test set (teacher_top1)")
    return comparison


def _check_equal(cells: Sequence[Cell], field: str, problem: str) -> None:
    values: dict[float, list[str]] = {}
    for cell in cells:
        values.setdefault(getattr(cell, field), []).append(cell.name)
    if len(values) > 1:
        told = "; ".join(f"{value:,}: {', '.join(names)}" for value, names in values.items())
        raise UserError(f"the cells {problem} and cannot be compared: {told}")


def markdown(comparison: Comparison) -> str:
    """An arm a line: n, mean and sample standard deviation, difference to its baseline; then the references.

    Where students were de-confounded, their answers without and with compensation stand side by side.
    """
    both = any(cell.raw_top1 is not None for cell in comparison.cells)
    kinds = ("raw", "compensated") if both else ("",)
    named = set(comparison.baselines.values())
    bases = "its baseline" if len(named) > 1 else "".join(named)
    columns = ["arm", "seeds", "images", "steps"]
    for kind in kinds:
        name = f"top-1 {kind}".strip()
        columns += [f"{name}, %"] + ([f"{name} minus {bases}, points"] if bases and both else [])
    columns.append("agreement with the teacher, %")
    if bases and not both:
        columns.append(f"top-1 minus {bases}, points")
    rows = [_row(comparison, arm, kinds, bool(bases)) for arm in comparison.arms]
    shown = {**comparison.references, "teacher": {"top1": comparison.cells[0].teacher_top1}}
    for name, figures in shown.items():
        top1 = _percent(figures["top1"])
        if figures.get("sd"):
            top1 += f" ± {_percent(figures['sd'])}"
        row = [""] * len(columns)
        row[0], row[4] = name, top1
        if "agreement" in figures:
            row[columns.index("agreement with the teacher, %")] = _percent(figures["agreement"])
        rows.append(row)
    lines = [columns, ["---"] * len(columns), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{NOTE}\n"
    if comparison.missing:
        text += f"\nnot yet run: {', '.join(comparison.missing)}\n"
    return text


def _row(comparison: Comparison, arm: str, kinds: Sequence[str], differences: bool) -> list[str]:
    group, base = comparison.arms[arm], comparison.baselines.get(arm, arm)
    several = len(set(comparison.baselines.values())) > 1 and base != arm
    row = [f"{arm}, against {base}" if several else arm, str(len(group))]
    row += [f"{group[0].images:,}", f"{group[0].steps:,}"]
    told = []
    for kind in kinds:
        known = kind != "compensated" or group[0].compensated_top1 is not None
        row.append(_spread([cell.answers(kind) for cell in group]) if known else "")
        told = [""]
        if base != arm and known:
            other = [cell.answers(kind) for cell in comparison.arms[base]]
            told = [_difference([cell.answers(kind) for cell in group], other)]
        if differences and len(kinds) > 1:
            row += told
    row.append(_spread([cell.agreement for cell in group]))
    return row + told if differences and len(kinds) == 1 else row


def _spread(values: Sequence[float]) -> str:
    mean = _percent(statistics.mean(values))
    return f"{mean} ± {_percent(statistics.stdev(values))}" if len(values) > 1 else mean


def _difference(own: Sequence[float], other: Sequence[float]) -> str:
    text = f"{100 * (statistics.mean(own) - statistics.mean(other)):+.2f}"
    between = interval(own, other)
    return f"{text} [{100 * between[0]:+.2f}, {100 * between[1]:+.2f}]" if between else text


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """cells.csv, comparison.md, comparison.png."""
    paths = [folder / name for name in ("cells.csv", "comparison.md", "comparison.png")]
    with paths[0].open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Cell)])
        writer.writerows(astuple(cell) for cell in comparison.cells)
    paths[1].write_text(markdown(comparison), encoding="utf-8")
    values = {arm: [100 * c.top1 for c in group] for arm, group in comparison.arms.items()}
    bases = set(comparison.baselines.values())
    dot_plot(values, bases.pop() if len(bases) == 1 else None, paths[2])
    return paths


def main(pipeline: Path) -> None:
    settings = read_yaml(pipeline / "params.yaml")
    comparison = compare(pipeline, settings)
    written = write(comparison, pipeline)
    print(markdown(comparison), end="")
    track.submit(pipeline, settings, [cell.name for cell in comparison.cells], written)


if __name__ == "__main__":
    run(main, argument("pipeline", type=Path, help="folder of the pipeline"))
