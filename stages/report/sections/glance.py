"""The one glance on top."""

from __future__ import annotations

from stages.report.evidence import Evidence
from stages.report.html import Html, tag
from stages.report.wording import count, half_width, percent, short


def glance(evidence: Evidence) -> Html:
    """Student, teacher, size and images as large figures."""
    figures, collected = evidence.measured.figures, evidence.collected
    margin = half_width(figures["top1"], int(figures["test_images"]))
    times = figures["teacher_parameters"] / figures["parameters"]
    operations = figures.get("teacher_multiply_adds", 0) / figures["multiply_adds"]
    return tag(
        "div",
        _tile(
            "Student",
            percent(figures["top1"]),
            f"± {100 * margin:.1f} points (95 %), {count(figures['test_images'])} test images",
            "main",
        ),
        _tile(
            "Teacher",
            percent(figures["teacher_top1"]),
            f"same class on {percent(figures['agreement'])} of images",
        ),
        _tile(
            "Size",
            f"1 / {times:.1f}",
            f"{short(figures['parameters'])} of {short(figures['teacher_parameters'])} parameters"
            + (f", 1 / {operations:.1f} of the operations" if operations else ""),
        ),
        _tile(
            "Images used",
            count(len(collected.selected)),
            f"of {count(collected.ledger.num_rows)} candidates from the search",
        ),
        class_="glance",
    )


def _tile(title: str, value: str, note: str, kind: str | None = None) -> Html:
    return tag(
        "div",
        tag("h3", title),
        tag("strong", value),
        tag("p", note),
        class_=f"tile {kind}" if kind else "tile",
    )
