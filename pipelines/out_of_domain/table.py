"""Cells of all settings -> results.md, cells.csv, results.png, and one tracked comparison.

    python -m pipelines.out_of_domain.table

The figure that counts is the mean over the settings, seed by seed: its mean and standard deviation over seeds, and its
difference to the arm `baseline`. A seed counts in it when all settings have been run. What is missing is named.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipelines.shared import track
from pipelines.shared.cell import flat, in_setting
from pipelines.shared.plot import dot_plot
from pipelines.shared.program import run_study
from pipelines.shared.table import Cell, Comparison, compare, markdown
from webdistill.core.errors import UserError
from webdistill.core.files import read_json
from webdistill.harness.spool import submit_all

HERE = Path(__file__).parent
PUBLISHED = """\
As published for AuG-KD (ICLR 2024, arXiv 2403.07030): ResNet-34 -> MobileNetV3-Small, 5 seeds. **Other data sets and
networks**: these figures show the sizes of the effects, they are not comparable with those above.

| teacher's domains -> student's | AuG-KD, % | best other method, % |
| --- | --- | --- |
| Office-31 Amazon, Webcam -> DSLR, top-1 | 84.3 ± 3.1 | 79.9 ± 2.2 |
| Office-Home Art, Clipart, Product -> Real World, top-1 | 35.2 ± 2.5 | about 5 points less |
| VisDA-2017, top-5 | 91.3 ± 0.1 | |
"""


@dataclass(frozen=True)
class Row:
    """The figures of one cell, or of one arm and seed over all settings."""

    setting: str
    arm: str
    seed: int
    top1: float
    top3: float | None
    top5: float | None
    agreement: float
    steps: int
    images: int
    teacher_top1: float


@dataclass(frozen=True)
class Results:
    """All finished cells, the means of complete seeds, and what has not been run."""

    settings: Sequence[str]
    arms: Sequence[str]
    cells: list[Row]
    means: list[Row]
    missing: list[str]


def read(pipeline: Path, settings: Mapping[str, Any]) -> Results:
    """What is there of the settings, arms and seeds. Raises UserError when it cannot be compared."""
    names, arms, seeds = settings["settings"], list(settings["arms"]), settings["seeds"]
    cells, missing = [], []
    for name in names:
        folders = [f"{name}-{arm}-{seed}" for arm in arms for seed in seeds]
        if not any(
            (pipeline / "cells" / f / "evaluate" / "metrics.json").exists() for f in folders
        ):
            missing += folders
            continue
        own = {
            "arms": [f"{name}-{arm}" for arm in arms],
            "unequal": [f"{name}-{arm}" for arm in settings["unequal"]],
            "seeds": seeds,
            "baseline": {},
        }
        found = compare(pipeline, own)
        cells += [_row(pipeline, name, cell) for cell in found.cells]
        missing += found.missing
    if not cells:
        raise UserError(
            f"no finished cell in {pipeline / 'cells'}; run `dvc --cd {pipeline.parent} repro {pipeline.name}/dvc.yaml`"
        )
    if len({cell.steps for cell in cells if cell.arm not in settings["unequal"]}) > 1:
        raise UserError("the settings' cells were not trained for equally many optimiser steps")
    groups = [
        [cell for cell in cells if (cell.arm, cell.seed) == (arm, seed)]
        for arm in arms
        for seed in seeds
    ]
    means = [_mean(group) for group in groups if len(group) == len(names)]
    return Results(names, arms, cells, means, missing)


def _row(pipeline: Path, setting: str, cell: Cell) -> Row:
    measured = read_json(pipeline / "cells" / cell.name / "evaluate" / "metrics.json")
    return Row(
        setting=setting,
        arm=cell.arm.removeprefix(f"{setting}-"),
        seed=cell.seed,
        top1=cell.top1,
        top3=measured.get("top3"),
        top5=measured.get("top5"),
        agreement=cell.agreement,
        steps=cell.steps,
        images=cell.images,
        teacher_top1=cell.teacher_top1,
    )


def _mean(group: Sequence[Row]) -> Row:
    """Of one arm and seed over all settings; images are added up."""

    def mean(name: str) -> float | None:
        values = [getattr(row, name) for row in group]
        return None if None in values else statistics.mean(values)

    shares = {name: mean(name) for name in ("top1", "top3", "top5", "agreement", "teacher_top1")}
    return replace(group[0], setting="mean", images=sum(row.images for row in group), **shares)


def text(results: Results, baseline: str) -> str:
    """results.md: arms by settings, the means with their differences, the published figures."""
    parts = [_by_setting(results)]
    if results.means:
        parts.append(f"Means of all {len(results.settings)} domains; `images` are added up:")
        parts.append(_means(results, baseline))
    parts.append(PUBLISHED)
    if results.missing:
        parts.append(f"not yet run: {', '.join(results.missing)}\n")
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _by_setting(results: Results) -> str:
    lines = [["top-1, %", *results.settings, "mean", "top-3, mean", "top-5, mean"]]
    lines.append(["---"] * len(lines[0]))
    for arm in results.arms:
        cells = [row for row in results.cells if row.arm == arm]
        means = [row for row in results.means if row.arm == arm]
        shown = [_spread([c.top1 for c in cells if c.setting == s]) for s in results.settings]
        shown += [_spread([getattr(m, top) for m in means]) for top in ("top1", "top3", "top5")]
        if cells:
            lines.append([arm, *shown])
    teacher = {cell.setting: cell.teacher_top1 for cell in results.cells}
    known = [[teacher[s]] if s in teacher else [] for s in results.settings]
    whole = [statistics.mean(teacher.values())] if len(teacher) == len(results.settings) else []
    lines.append(["the teacher", *map(_spread, known), _spread(whole), "", ""])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _means(results: Results, baseline: str) -> str:
    """The table of pipelines/shared/table.py, best first, with every complete seed as one cell."""
    groups: dict[str, list[Cell]] = {}
    for row in results.means:
        cell = Cell(
            row.arm, row.seed, row.top1, row.agreement, row.steps, row.images, row.teacher_top1
        )
        groups.setdefault(row.arm, []).append(cell)
    order = sorted(groups, key=lambda arm: -statistics.mean(cell.top1 for cell in groups[arm]))
    bases = {arm: baseline for arm in groups if baseline in groups}
    return markdown(Comparison({arm: groups[arm] for arm in order}, [], bases, {}))


def _spread(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return ""
    mean = f"{statistics.mean(known):.2f}"
    return f"{mean} ± {statistics.stdev(known):.2f}" if len(known) > 1 else mean


def write(results: Results, baseline: str, folder: Path) -> list[Path]:
    """cells.csv and results.md; results.png of the means, once there are any."""
    paths = [folder / name for name in ("cells.csv", "results.md", "results.png")]
    with paths[0].open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row) for row in results.cells)
    paths[1].write_text(text(results, baseline), encoding="utf-8")
    if not results.means:
        return paths[:2]
    points: dict[str, list[float]] = {}
    for row in sorted(results.means, key=lambda row: results.arms.index(row.arm)):
        points.setdefault(row.arm, []).append(100 * row.top1)
    dot_plot(points, baseline, paths[2])
    return paths


def submit(
    pipeline: Path, settings: Mapping[str, Any], results: Results, files: Sequence[Path]
) -> None:
    """To MLflow: every cell as a run `<setting>-<arm>-<seed>`, the means in the run above them."""
    common = dict(flat(settings["common"]))
    arms: dict[str, dict[str, Any]] = {}
    for name in settings["settings"]:
        own = in_setting(settings, name)
        placed = {k: v for k, v in flat(own["common"]) if v != common[k]}
        for arm, change in own["arms"].items():
            arms[f"{name}-{arm}"] = placed | dict(flat(change))
    cells = [f"{row.setting}-{row.arm}-{row.seed}" for row in results.cells]
    whole, rest = track.records(pipeline, {**settings, "arms": arms}, cells, files)
    tops: dict[str, list[float]] = {}
    for row in results.means:
        tops.setdefault(f"{row.arm}.top1", []).append(row.top1)
    means = {key: statistics.mean(values) for key, values in tops.items()}
    whole = replace(whole, metrics={**whole.metrics, **means})
    submit_all([whole, *rest], Path(".work") / "spool")


def main(settings: Mapping[str, Any]) -> None:
    results = read(HERE, settings)
    files = write(results, settings["baseline"], HERE)
    print(files[1].read_text(encoding="utf-8"), end="")
    submit(HERE, settings, results, files)


if __name__ == "__main__":
    run_study(main)
