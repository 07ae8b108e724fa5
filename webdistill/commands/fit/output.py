"""The table on the terminal, the JSON for programs, the picture."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from webdistill.commands.fit.measuring import Measured
from webdistill.commands.fit.signals import Signal

WIDTH = 110
CLASSES = 20  # rows of the table of classes
LONGEST = 40  # characters of a class's name
BARS, OTHERS, MARK = "#4c72b0", "#dd8452", "#1a1a1a"


def table(title: str, found: Sequence[Signal], absent: Sequence[str], close: str) -> str:
    """A signal a line, its meaning below, and what is worth a look marked with `->`."""
    about, shown, test = (
        max(map(len, column), default=0)
        for column in zip(*((s.about, s.shown, s.test) for s in found), strict=True)
    )
    test = max(test, len("test images"))
    lines = [title, "", f"{'':<{about}}  {'pool':<{shown}}  test images"]
    for each in found:
        lines.append(f"{each.about:<{about}}  {each.shown:<{shown}}  {each.test}".rstrip())
        lines += _wrapped(each.meaning, "    ")
        lines += _wrapped(each.look, " -> ") if each.look else []
    if absent:
        lines += ["", "not measured", *(line for text in absent for line in _wrapped(text, "    "))]
    return "\n".join([*lines, "", *_wrapped(close, "")])


def class_table(found: Measured, classes: Sequence[str]) -> str:
    """Images, the teacher's mean confidence and CLIP's agreement per class; the rarest first when there are many."""
    pool, clip = found.pool, found.clip
    order: Sequence[int] = range(len(classes))
    if len(classes) > CLASSES:
        order = sorted(order, key=lambda k: (pool.counts[k], k))[:CLASSES]
    names = [_shortened(name) for name in classes]
    name = max(5, *(len(names[k]) for k in order))
    heads = ["images", "confidence", *(["CLIP agrees"] if clip is not None else [])]
    lines = ["  ".join([f"{'class':<{name}}", *(f"{head:>11}" for head in heads)])]
    for k in order:
        own = pool.labels == k
        cells = [f"{pool.counts[k]:,}", f"{pool.top[own].mean():.0%}" if own.any() else ""]
        if clip is not None:
            cells.append("" if math.isnan(clip.per_class[k]) else f"{clip.per_class[k]:.0%}")
        lines.append("  ".join([f"{names[k]:<{name}}", *(f"{cell:>11}" for cell in cells)]))
    if len(classes) > CLASSES:
        lines.append(f"(the {CLASSES} rarest of {len(classes)} classes; --json has all)")
    return "\n".join(lines)


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def _wrapped(text: str, head: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def plain(found: Measured, told: Sequence[Signal], classes: Sequence[str]) -> dict[str, Any]:
    """For `--json`: values rounded to 6 digits, classes and layers in full."""
    pool, clip = found.pool, found.clip
    return {
        "images": pool.images,
        "pool_images": found.pool_images,
        "test_images": 0 if found.test is None else found.test.images,
        "signals": {each.key: {"value": round(each.value, 6), "look": each.look} for each in told},
        "classes": {
            name: {
                "images": int(pool.counts[k]),
                "clip_agreement": None
                if clip is None or math.isnan(clip.per_class[k])
                else round(float(clip.per_class[k]), 6),
            }
            for k, name in enumerate(classes)
        },
        "layers": {
            layer.name: {
                "shift": round(layer.shift, 6),
                "log_ratio": round(layer.log_ratio, 6),
                "divergence": round(layer.divergence, 6),
            }
            for layer in pool.layers
        },
    }


def picture(found: Measured, classes: Sequence[str], path: Path) -> None:
    """Images per class, the teacher's confidence, and the distance of every BatchNorm layer; PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pool, test = found.pool, found.test
    shown = np.argsort(-pool.counts, kind="stable")[:CLASSES]
    figure = Figure(figsize=(12.0, 1.6 + 0.22 * max(len(shown), 10)), layout="constrained")
    FigureCanvasAgg(figure)
    bars, sure, layers = figure.subplots(1, 3, width_ratios=(3, 3, 4))
    rows, names = range(len(shown)), [_shortened(classes[k]) for k in shown]
    bars.barh(rows, 100 * pool.counts[shown] / pool.images, color=BARS)
    bars.set_yticks(rows, names, parse_math=False)  # a name may hold $
    bars.axvline(100 / len(classes), color=MARK, linestyle=":", linewidth=1)
    bars.invert_yaxis()
    bars.set_xlabel("images per class of the teacher, %\n(dotted: equal shares)")
    edges = np.linspace(0, 1, 21)
    for seen, name, colour in ((pool, "pool", BARS), (test, "test images", OTHERS)):
        if seen is not None:
            weights = np.full(seen.images, 100 / seen.images)
            sure.hist(seen.top, edges, weights=weights, histtype="step", color=colour, label=name)
    sure.set_xlabel("the teacher's largest probability")
    sure.set_ylabel("images, %")
    sure.legend(frameon=False, loc="upper left")
    for seen, name, colour in ((pool, "pool", BARS), (test, "test images", OTHERS)):
        if seen is not None and seen.layers:
            shifts = [layer.shift for layer in seen.layers]
            layers.plot(shifts, "o-", markersize=3, color=colour, label=name)
    if pool.layers:
        layers.set_xlabel("BatchNorm layer, from input to output")
        layers.set_ylabel("shift of the means, sd")
        layers.set_ylim(bottom=0)
        layers.legend(frameon=False)
    else:
        layers.set_axis_off()
        layers.text(0.5, 0.5, "the teacher has no BatchNorm", ha="center", transform=layers.transAxes)  # fmt: skip
    for axes in (bars, sure, layers):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph"
        )  # of names in scripts that the font lacks; the table has them
        figure.savefig(path, dpi=110, metadata={"Software": None})  # same figures, same bytes
