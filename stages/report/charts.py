"""Small charts: bars as table cells, lines and reliability as inline SVG. Colours come from the style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from stages.report.html import EMPTY, Child, Html, join, tag, text

WIDTH, HEIGHT = 360.0, 210.0
SMALL = (250.0, 150.0)  # of the charts of which many stand side by side
LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 12.0, 34.0
Point = tuple[float, float]


def bar(
    share: float, kind: str = "", mark: float | None = None, inner: float | None = None
) -> Html:
    """A horizontal bar of `share` of the cell, with an optional part of it and a mark (another share) across it."""
    parts = [tag("i", style=f"width:{_percent(share)}", class_=kind or None)]
    if inner is not None:
        parts.append(tag("i", style=f"width:{_percent(inner)}", class_="inner"))
    if mark is not None:
        parts.append(tag("b", style=f"left:{_percent(mark)}"))
    return tag("span", *parts, class_="bar")


def stack(shares: Sequence[float]) -> Html:
    """One bar cut into shares, darkest first."""
    shades = [
        tag("i", style=f"width:{_percent(share)};opacity:{max(0.12, 1 - 0.22 * i):.2f}")
        for i, share in enumerate(shares)
    ]
    return tag("span", *shades, class_="bar stack")


def lines(
    series: dict[str, Sequence[Point]], x_label: str, size: tuple[float, float] = (WIDTH, HEIGHT)
) -> Html:
    """A line chart over whole numbers; the first series has the accent colour, the others are grey.

    Points that are not finite are left out.
    """
    wide, high = size
    points = {
        name: [p for p in values if math.isfinite(p[0]) and math.isfinite(p[1])]
        for name, values in series.items()
    }
    everything = [p for values in points.values() for p in values]
    if not everything:
        return EMPTY
    x_low, x_high = _range([x for x, _ in everything])
    y_ticks = _ticks(*_range([y for _, y in everything]))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> Point:
        across = LEFT + (x - x_low) / (x_high - x_low) * (wide - LEFT - RIGHT)
        return across, high - BOTTOM - (y - y_low) / (y_high - y_low) * (high - TOP - BOTTOM)

    x_ticks = [t for t in _ticks(x_low, x_high, least=1.0) if x_low <= t <= x_high]
    parts = _axes(place, x_ticks, y_ticks, x_low, x_high)
    for index, values in enumerate(points.values()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in values))
        parts.append(tag("polyline", points=path, class_="line" if index == 0 else "line other"))
        if values and index == 0:
            x, y = place(*values[-1])
            parts.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3", class_="dot"))
    parts.append(_label(x_label, (wide + LEFT - RIGHT) / 2, high - 3, "middle"))
    return _svg(parts, wide, high, ", ".join(points))


def bars(layers: Mapping[str, Sequence[int]], low: float, high: float, x_label: str) -> Html:
    """Histograms of equal bins over [low, high]: all images in grey, in front of them a part of these in colour."""
    most = max((n for counts in layers.values() for n in counts), default=0)
    if not most:
        return EMPTY
    y_ticks = _ticks(0.0, float(most), least=1.0)

    def place(x: float, y: float) -> Point:
        across = LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - y / y_ticks[-1] * (HEIGHT - TOP - BOTTOM)

    parts = _axes(place, [t for t in _ticks(low, high) if low <= t <= high], y_ticks, low, high)
    for index, counts in enumerate(layers.values()):
        step = (high - low) / len(counts)
        for number, value in enumerate(counts):
            x1, y1 = place(low + number * step, value)
            x2, y2 = place(low + (number + 1) * step, 0.0)
            style = "column" if index else "column other"
            if value:
                parts.append(
                    tag(
                        "rect",
                        tag("title", f"{value:,} images"),
                        x=_f(x1 + 0.5),
                        y=_f(y1),
                        width=_f(x2 - x1 - 1),
                        height=_f(y2 - y1),
                        class_=style,
                    )
                )
    parts.append(_label(x_label, (WIDTH + LEFT - RIGHT) / 2, HEIGHT - 3, "middle"))
    keys = [
        tag("span", tag("i", class_=None if index else "other"), name)
        for index, name in enumerate(layers)
    ]
    drawn = _svg(parts, WIDTH, HEIGHT, f"images by {x_label}: {', '.join(layers)}")
    return join((drawn, tag("span", *keys, class_="key")))


def reliability(bins: Sequence[tuple[float, float, int]]) -> Html:
    """Confidence against accuracy with the diagonal; a dot's area is its number of images."""
    side = 260.0
    most = max((count for _, _, count in bins), default=1)

    def place(x: float, y: float) -> Point:
        span = side - LEFT - RIGHT
        return LEFT + x * span, TOP + (1 - y) * span

    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = _axes(place, ticks, ticks, 0.0, 1.0)
    (x1, y1), (x2, y2) = place(0, 0), place(1, 1)
    parts.append(tag("line", x1=_f(x1), y1=_f(y1), x2=_f(x2), y2=_f(y2), class_="diagonal"))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(c, a) for c, a, _ in bins))
    parts.append(tag("polyline", points=path, class_="line"))
    for confidence, accuracy, count in bins:
        x, y = place(confidence, accuracy)
        title = tag(
            "title", f"{count:,} images: confidence {confidence:.1%}, accuracy {accuracy:.1%}"
        )
        parts.append(
            tag(
                "circle",
                title,
                cx=_f(x),
                cy=_f(y),
                r=_f(2 + 6 * math.sqrt(count / most)),
                class_="dot",
            )
        )
    parts.append(_label("confidence", (side + LEFT - RIGHT) / 2, side - 4, "middle"))
    return _svg(parts, side, side, "accuracy against confidence")


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Html:
    """Rows are true classes, columns predictions; a cell's shade is its share of the row."""
    header: list[Child] = [tag("th", "")]
    header += [tag("th", tag("span", name, class_="turned"), scope="col") for name in classes]
    body = []
    for actual, row in enumerate(counts):
        total = max(sum(row), 1)
        cells = [
            tag(
                "td",
                f"{count}" if count else "",
                class_="hit" if actual == predicted else "miss",
                style=f"--share:{_percent(math.sqrt(count / total))}",
                title=f"{classes[actual]} taken for {classes[predicted]}: {count}",
            )
            for predicted, count in enumerate(row)
        ]
        body.append(tag("tr", tag("th", classes[actual], scope="row"), *cells))
    inner = tag(
        "table",
        tag("thead", tag("tr", *header)),
        tag("tbody", join(body, "\n")),
        class_="confusion",
    )
    return tag("div", inner, class_="scroll")


def _axes(
    place: object, x_ticks: list[float], y_ticks: list[float], x_low: float, x_high: float
) -> list[Html]:
    assert callable(place)
    parts = []
    for tick in y_ticks:
        x1, y = place(x_low, tick)
        x2, _ = place(x_high, tick)
        parts.append(tag("line", x1=_f(x1), y1=_f(y), x2=_f(x2), y2=_f(y), class_="grid"))
        parts.append(_label(_number(tick, y_ticks), x1 - 6, y + 3.5, "end"))
    for tick in x_ticks:
        x, y = place(tick, y_ticks[0])
        parts.append(_label(_number(tick, x_ticks), x, y + 14, "middle"))
    return parts


def _svg(parts: list[Html], width: float, height: float, label: str) -> Html:
    return tag(
        "svg",
        join(parts, "\n"),
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        class_="chart square" if width == height else "chart",
    )


def _label(value: str, x: float, y: float, anchor: str) -> Html:
    return tag("text", text(value), x=_f(x), y=_f(y), text_anchor=anchor)


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * size:  # else there are no numbers between them to name
        return low, high
    margin = max(0.5, size / 1000)
    return low - margin, high + margin


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """4-7 round numbers that enclose [low, high], fewer where they would be nearer to each other than `least`."""
    raw = max((high - low) / 4, least)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _number(tick: float, ticks: list[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits < 6 and abs(step * 10**digits - round(step * 10**digits)) > 1e-6:
        digits += 1  # steps of 2.5
    return f"{tick:,.{digits}f}" if digits <= 5 else f"{tick:.1e}"


def _f(value: float) -> str:
    return f"{value:.1f}"


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"
