"""Cells of all settings -> cells.csv, gain.png and results.md: an arm a line, labelled images per class a column.

    python -m pipelines.office_caltech.table

A figure is the share of right answers to the test images of all folds that have been run, and how many folds these are;
a difference to the arm `baseline` is the mean over the folds that both have, with a paired 95 % t interval from three
folds on. Folds share their teacher and most labelled images, which no interval allows for.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from pipelines.office_caltech.settings import parsed
from pipelines.shared.program import run_study
from pipelines.shared.welch import t_quantile
from webdistill.core.errors import UserError
from webdistill.core.files import read_json

HERE = Path(__file__).parent
LEAST = 3  # folds from which there is an interval
NAMED_MISSING = 12  # cells that were not run, in results.md


@dataclass(frozen=True)
class Row:
    """The figures of one cell. `labels`: labelled images per class, "all" or a number."""

    labels: str
    fold: int
    arm: str
    seed: int
    top1: float
    tested: int
    agreement: float
    steps: int
    teacher_top1: float
    anchor_spread: float | None
    mask_mean: float | None
    mask_moved: float | None


def read(pipeline: Path, settings: Mapping[str, Any]) -> tuple[list[Row], list[str]]:
    """-> the cells that are there, and the names of those that are not. Raises UserError when there is none."""
    rows, missing = [], []
    for setting in settings["settings"]:
        per_class, fold = parsed(setting, settings["prepare"]["folds"])
        for arm in settings["arms"]:
            for seed in settings["seeds"]:
                name = f"{setting}-{arm}-{seed}"
                folder = pipeline / "cells" / name
                if not (folder / "evaluate" / "metrics.json").exists():
                    missing.append(name)
                    continue
                rows.append(_row(folder, str(per_class or "all"), fold, arm, seed))
    if not rows:
        raise UserError(
            f"no finished cell in {pipeline / 'cells'}; run `dvc --cd {pipeline.parent} repro {pipeline.name}/dvc.yaml`"
        )
    return rows, missing


def _row(folder: Path, labels: str, fold: int, arm: str, seed: int) -> Row:
    measured = read_json(folder / "evaluate" / "metrics.json")
    trained = read_json(folder / "distill" / "metrics.json")
    return Row(
        labels=labels,
        fold=fold,
        arm=arm,
        seed=seed,
        top1=measured["top1"],
        tested=measured["test_images"],
        agreement=measured["agreement"],
        steps=trained["steps"],
        teacher_top1=measured["teacher_top1"],
        anchor_spread=trained.get("anchor_spread"),
        mask_mean=trained.get("mask_mean"),
        mask_moved=trained.get("mask_moved"),
    )


def whole(rows: Sequence[Row]) -> tuple[float, int]:
    """Cells of one arm -> (share of right answers to all their test images, number of folds)."""
    right = sum(row.top1 * row.tested for row in rows)
    return right / sum(row.tested for row in rows), len({row.fold for row in rows})


def gain(own: Sequence[Row], base: Sequence[Row]) -> tuple[float, float | None, int] | None:
    """(mean over folds of top-1 minus the baseline's, half its 95 % interval, number of folds).

    There is an interval from LEAST folds on, and no result without a fold that both have. Seeds of a fold are averaged
    first.
    """
    mine, theirs = _by_fold(own), _by_fold(base)
    found = [mine[fold] - theirs[fold] for fold in mine if fold in theirs]
    if not found:
        return None
    half = None
    if len(found) >= LEAST:
        half = t_quantile(0.975, len(found) - 1) * statistics.stdev(found) / math.sqrt(len(found))
    return statistics.mean(found), half, len(found)


def _by_fold(rows: Sequence[Row]) -> dict[int, float]:
    folds = {row.fold for row in rows}
    return {f: statistics.mean(row.top1 for row in rows if row.fold == f) for f in sorted(folds)}


def text(rows: Sequence[Row], missing: Sequence[str], baseline: str) -> str:
    """results.md."""
    numbers = list(dict.fromkeys(row.labels for row in rows))
    head = [f"{number} labels per class" for number in numbers]
    lines = [["top-1, % (folds)", *head], ["---"] * (len(numbers) + 1)]
    lines += [
        [arm, *(_shown(rows, arm, number, baseline) for number in numbers)]
        for arm in dict.fromkeys(row.arm for row in rows)
    ]
    folds = {(row.fold, row.teacher_top1, row.tested) for row in rows}
    tested = {fold: count for fold, _, count in folds}
    teacher = sum(top1 * count for _, top1, count in folds) / sum(c for _, _, c in folds)
    note = (
        f"In brackets: folds; then the difference to `{baseline}` in points, with a paired 95 % interval where there "
        f"are {LEAST} folds or more; without one it is a single look. {sum(tested.values())} test images in "
        f"{len(tested)} folds; the teacher is right for {100 * teacher:.1f} % of them."
    )
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    rest = f"\nnot yet run: {_brief(missing)}\n" if missing else ""
    return f"{table}\n{note}\n{rest}"


def _brief(missing: Sequence[str]) -> str:
    """Names of cells, few of them in full."""
    more = len(missing) - NAMED_MISSING
    return ", ".join(missing[:NAMED_MISSING]) + (f" and {more} more" if more > 0 else "")


def _shown(rows: Sequence[Row], arm: str, number: str, baseline: str) -> str:
    same = [row for row in rows if row.labels == number]
    own = [row for row in same if row.arm == arm]
    if not own:
        return ""
    share, count = whole(own)
    shown = f"{100 * share:.1f} ({count})"
    found = gain(own, [row for row in same if row.arm == baseline])
    if found is None or arm == baseline:
        return shown
    mean, half, _ = found
    shown += f" {100 * mean:+.1f}"
    return (
        shown
        if half is None
        else f"{shown} [{100 * (mean - half):+.1f}, {100 * (mean + half):+.1f}]"
    )


def gains(rows: Sequence[Row], baseline: str) -> dict[str, list[tuple[str, float, float | None]]]:
    """Per arm but the baseline: (labels per class, gain over the baseline, half its interval), as `gain` has them."""
    numbers = list(dict.fromkeys(row.labels for row in rows))
    found: dict[str, list[tuple[str, float, float | None]]] = {}
    for arm in dict.fromkeys(row.arm for row in rows if row.arm != baseline):
        for number in numbers:
            same = [row for row in rows if row.labels == number]
            own = [row for row in same if row.arm == arm]
            if got := gain(own, [row for row in same if row.arm == baseline]):
                found.setdefault(arm, []).append((number, got[0], got[1]))
    return {arm: points for arm, points in found.items() if len(points) > 1}


def draw(rows: Sequence[Row], baseline: str, path: Path) -> None:
    """Gain over the baseline against labelled images per class; arms need two numbers of them at least. PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    numbers = list(dict.fromkeys(row.labels for row in rows))
    arms = gains(rows, baseline)
    for place, (arm, points) in enumerate(arms.items()):
        beside = 0.08 * (place - (len(arms) - 1) / 2)
        axes.errorbar(
            [numbers.index(number) + beside for number, _, _ in points],
            [100 * mean for _, mean, _ in points],
            yerr=[100 * (half or 0.0) for _, _, half in points],
            marker="o",
            capsize=3,
            linewidth=1.2,
            label=arm,
        )
    axes.axhline(0, color="#1a1a1a", linewidth=0.8)
    axes.set_xticks(range(len(numbers)), numbers)
    axes.set_xlabel("labelled images per class")
    axes.set_ylabel(f"top-1 minus `{baseline}`, points")
    axes.grid(axis="y", color="#e6e6e6")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if arms:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=150, metadata={"Software": None})  # same cells, same bytes


def write(rows: Sequence[Row], missing: Sequence[str], baseline: str, folder: Path) -> None:
    """cells.csv, gain.png and results.md."""
    with (folder / "cells.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row) for row in rows)
    draw(rows, baseline, folder / "gain.png")
    (folder / "results.md").write_text(text(rows, missing, baseline), encoding="utf-8")


def main(settings: Mapping[str, Any]) -> None:
    rows, missing = read(HERE, settings)
    write(rows, missing, settings["baseline"], HERE)
    print((HERE / "results.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    run_study(main)
