"""Rank correlation of every signal of `fit` with the accuracy of the pools' students.

    python -m pipelines.pools.correlate

Tables the pools that have been trained and says which have not; writes signals.csv, correlation.csv, correlation.md
and correlation.png beside this file. Spearman's rho with a permutation test and a bootstrap interval over pools: with
a dozen of them the interval is wide, and it stands for pools like these alone.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.shared.program import run_study
from webdistill.core.errors import UserError
from webdistill.core.files import read_json

HERE = Path(__file__).parent
FEWEST = 8
DRAWS = 10_000
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """A pool: its students' top-1, one per seed, and every signal."""

    pool: str
    top1: Sequence[float]
    signals: Mapping[str, float]


@dataclass(frozen=True)
class Correlation:
    """Of one signal over n pools: rho, two-sided p by permutation, 95 % interval by bootstrap over pools."""

    signal: str
    rho: float
    p: float
    low: float
    high: float


def ranks(values: Doubles) -> Doubles:
    """[..., n] -> ranks from 1 along the last axis, equal values share the mean of theirs."""
    one, other = values[..., :, None], values[..., None, :]
    less, equal = (one > other).sum(axis=-1), (one == other).sum(axis=-1)
    return np.asarray(less + (equal + 1) / 2)


def spearman(one: Doubles, two: Doubles) -> Doubles:
    """Pearson's correlation of the ranks along the last axis, [..., n] -> [...]; 0 where a side does not vary."""
    a, b = ranks(one), ranks(two)
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), scale, out=np.zeros(scale.shape), where=scale > 0)


def correlate(name: str, one: Doubles, two: Doubles, seed: int = 0) -> Correlation:
    """Values [n] of two quantities of the same n pools."""
    rho, rng = float(spearman(one, two)), np.random.default_rng(seed)
    shuffled = spearman(one, np.stack([rng.permutation(two) for _ in range(DRAWS)]))
    p = (1 + int((abs(shuffled) >= abs(rho) - 1e-12).sum())) / (DRAWS + 1)
    rows = rng.integers(0, len(one), (DRAWS, len(one)))
    low, high = np.quantile(spearman(one[rows], two[rows]), [0.025, 0.975])
    return Correlation(name, rho, p, float(low), float(high))


def collect(settings: Mapping[str, list[str]]) -> tuple[list[Row], list[str]]:
    """-> pools with at least one student, and missing cells. Raises UserError when there are too few."""
    rows, missing = [], []
    for pool in settings["settings"]:
        cells = [HERE / "cells" / f"{pool}-{seed}.json" for seed in settings["seeds"]]
        missing += [path.stem for path in cells if not path.exists()]
        found = [read_json(path)["top1"] for path in cells if path.exists()]
        if found:
            rows.append(Row(pool, found, read_json(HERE / "signals" / f"{pool}.json")))
    if len(rows) < FEWEST:
        raise UserError(
            f"{len(rows)} pools have a student; ranks of fewer than {FEWEST} say nothing"
        )
    return sorted(rows, key=lambda row: -statistics.mean(row.top1)), missing


def markdown(rows: Sequence[Row], found: Sequence[Correlation], missing: Sequence[str]) -> str:
    """Pools by accuracy with their signals, then signals by the size of their correlation."""
    keys = list(rows[0].signals)
    lines = [["pool", "top-1, %", *keys], ["---"] * (len(keys) + 2)]
    for row in rows:
        top1 = f"{100 * statistics.mean(row.top1):.1f}"
        if len(row.top1) > 1:
            top1 += f" ± {100 * statistics.stdev(row.top1):.1f}"
        lines.append([row.pool, top1, *(f"{row.signals[key]:.3g}" for key in keys)])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    text += f"\nSpearman's rho with top-1 over {len(rows)} pools:\n\n"
    text += "| signal | rho | 95 % interval | p |\n| --- | --- | --- | --- |\n"
    for each in sorted(found, key=lambda c: -abs(c.rho)):
        text += f"| {each.signal} | {each.rho:+.2f} | {each.low:+.2f} to {each.high:+.2f} | {each.p:.4f} |\n"
    text += (
        "\n± is the sample standard deviation over seeds. p: two-sided, by permutation, of each signal alone; "
        f"{len(found)} are looked at, so a p below 0.05 may be chance. Intervals: bootstrap over pools.\n"
    )
    if missing:
        text += f"\nnot run: {', '.join(missing)}\n"
    return text


def picture(rows: Sequence[Row], found: Sequence[Correlation], path: Path) -> None:
    """Every signal against top-1, one panel each; PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 4
    figure = Figure(figsize=(12, 2.6 * -(-len(found) // columns)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(-(-len(found) // columns), columns, sharey=True, squeeze=False)
    top1 = [100 * statistics.mean(row.top1) for row in rows]
    for axes in panels.flat[len(found) :]:
        axes.set_axis_off()
    for axes, each in zip(panels.flat, found, strict=False):
        axes.plot([row.signals[each.signal] for row in rows], top1, "o", color="#4c72b0")
        axes.set_title(f"{each.signal}: rho {each.rho:+.2f}", fontsize=10)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for line in panels:
        line[0].set_ylabel("top-1, %")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def main(settings: Mapping[str, Any]) -> None:
    rows, missing = collect(settings)
    keys = list(rows[0].signals)
    top1 = np.array([statistics.mean(row.top1) for row in rows])
    found = [correlate(key, np.array([row.signals[key] for row in rows]), top1) for key in keys]
    values = [
        [row.pool, *(round(row.signals[key], 6) for key in keys), " ".join(map(str, row.top1))]
        for row in rows
    ]
    write_csv(HERE / "signals.csv", ["pool", *keys, "top1"], values)
    told = [[c.signal, *(round(v, 4) for v in (c.rho, c.p, c.low, c.high))] for c in found]
    write_csv(HERE / "correlation.csv", ["signal", "rho", "p", "low", "high"], told)
    (HERE / "correlation.md").write_text(markdown(rows, found, missing), encoding="utf-8")
    picture(rows, found, HERE / "correlation.png")
    print(markdown(rows, found, missing), end="")


if __name__ == "__main__":
    run_study(main)
