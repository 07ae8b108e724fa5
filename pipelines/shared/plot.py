"""The picture of a comparison: every seed a dot, mean and sample standard deviation of each arm."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

DOTS, MEANS, GUIDE = "#4c72b0", "#1a1a1a", "#b0b0b0"


def dot_plot(arms: Mapping[str, Sequence[float]], baseline: str | None, path: Path) -> None:
    """Top-1 in per cent per arm, the first arm on top; a dotted line at the baseline's mean. PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.9 + 0.36 * len(arms)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if baseline in arms:
        axes.axvline(statistics.mean(arms[baseline]), color=GUIDE, linestyle=":", zorder=1)
    for row, values in enumerate(arms.values()):
        mean = statistics.mean(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.errorbar(
            mean,
            row,
            xerr=spread,
            fmt="|",
            color=MEANS,
            markersize=14,
            linewidth=1,
            capsize=3,
            zorder=2,
        )
        axes.plot(values, [row] * len(values), "o", color=DOTS, alpha=0.8, markersize=5, zorder=3)
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel("top-1, %   (dots: seeds; bar: mean ± sample standard deviation)")
    axes.grid(axis="x", color="#e6e6e6")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=150, metadata={"Software": None})  # same cells, same bytes
