"""Accuracy against steps and against time, for every method of the comparison.

    python -m benchmarks.method_steps --teacher resnet20 --student resnet8 --threads 1 --out steps.json
    mv steps.json pipelines/compare/
    python -m pipelines.compare.ladder

Reads the finished cells and steps.json; writes pipelines/compare/ladder.png. Left: agreement with the teacher on
held-out pool images over the steps of a run, mean of the seeds. Right: top-1 on the test images after the last step,
mean and standard deviation over seeds, against the time of the run as a multiple of the first method's in steps.json.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.shared.program import run_study
from pipelines.shared.table import Comparison, compare
from webdistill.core.files import read_json

HERE = Path(__file__).parent


def step_costs(measured: Mapping[str, Any]) -> dict[str, float]:
    """Method -> time of its step as a multiple of the first method's, all rounds of steps.json together."""
    methods = measured["setting"]["methods"]
    seconds = {name: sum(measured["seconds_per_step"][name]) for name in methods}
    return {name: value / seconds[methods[0]] for name, value in seconds.items()}


def mean_curve(paths: Sequence[Path]) -> list[float]:
    """Held-out agreement in per cent after every epoch, mean over the runs."""
    curves = []
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            curves.append([100 * float(row["holdout_agreement"]) for row in csv.DictReader(file)])
    return [statistics.mean(values) for values in zip(*curves, strict=True)]


def draw(
    comparison: Comparison, costs: Mapping[str, float], methods: Mapping[str, str], folder: Path
) -> None:
    """ladder.png. `methods`: of each arm; arms that choose other images are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, (arm, group) in enumerate(comparison.arms.items()):
        if methods.get(arm) not in costs:
            continue
        colour = f"C{number}"
        paths = [folder / "cells" / cell.name / "distill" / "curve.csv" for cell in group]
        curve = mean_curve(paths)
        steps = [(at + 1) * group[0].steps / len(curve) for at in range(len(curve))]
        left.plot(steps, curve, color=colour, label=arm)
        values = [100 * cell.top1 for cell in group]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        at = (costs[methods[arm]], statistics.mean(values))
        right.errorbar(*at, yerr=spread, fmt="o", color=colour, capsize=3)
    left.set_xlabel("optimiser steps")
    left.set_ylabel("agreement on held-out images, %")
    left.legend(frameon=False, fontsize="small")
    right.set_xlabel(f"time of the run, {next(iter(costs))} = 1")
    right.set_ylabel("top-1 on test images, %")
    right.set_xscale("log")
    ticks = [1, 2, 5, 10]
    right.set_xticks(ticks, [str(tick) for tick in ticks])
    right.minorticks_off()
    for axes in (left, right):
        axes.grid(color="#e6e6e6")
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(folder / "ladder.png", dpi=150, metadata={"Software": None})


def main(settings: Mapping[str, Any]) -> None:
    comparison = compare(HERE, settings)
    measured = read_json(HERE / "steps.json")
    methods = {
        arm: own["distill"]["method"]
        for arm, own in settings["arms"].items()
        if "select" not in own
    }
    draw(comparison, step_costs(measured), methods, HERE)


if __name__ == "__main__":
    run_study(main)
