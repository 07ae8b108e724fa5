"""What the student can do on the test set: figures, classes, confusion, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stages.report import charts
from stages.report.evidence import Evidence
from stages.report.html import Child, Html, join, section, table, tag
from stages.report.wording import count, known, percent, short

MOST_CLASSES = 24  # beyond that a matrix is unreadable: the commonest mistakes are listed instead
MOST_MISTAKES = 20
PARTS = {  # of a compensation, columns of curve.csv
    "compensation_constant": "compensation, the part that is the same for every image, rms",
    "compensation_by_image": "compensation, the part that depends on the image, rms",
}


def results(evidence: Evidence) -> Html:
    """Section `results`."""
    measured = evidence.measured
    return section(
        "results",
        "The student on the test set",
        "Test labels are read by one stage only, after training has ended.",
        tag("div", _figures(evidence), _calibration(evidence), class_="grid"),
        tag("h3", "by class"),
        _per_class(evidence),
        tag("h3", "confusion" if len(evidence.classes) <= MOST_CLASSES else "commonest mistakes"),
        charts.confusion(evidence.classes, measured.confusion)
        if len(evidence.classes) <= MOST_CLASSES
        else _mistakes(evidence),
    )


def _figures(evidence: Evidence) -> Html:
    """Side by side: the student, its int8 export, the teacher."""
    figures = evidence.measured.figures
    rows: list[list[str]] = [["top-1", *_each(figures, ("top1", "int8_top1", "teacher_top1"))]]
    if "raw_top1" in figures:
        rows += [
            ["top-1, answers without compensation", percent(figures["raw_top1"], 2)],
            ["top-1, compensated answers", percent(figures["compensated_top1"], 2)],
        ]
    if "mean_top1" in figures:
        same = "top-1, the same mean compensation for every image"
        rows.append([same, percent(figures["mean_top1"], 2), ""])
    for name, meaning in PARTS.items():
        if points := evidence.measured.curve.get(name):
            rows.append([meaning, f"{points[-1][1]:.3f}", ""])
    if "top5" in figures:
        rows.append(["top-5", percent(figures["top5"], 2)])
    rows += [
        ["same class as the teacher", percent(figures["agreement"], 2)],
        ["calibration error (ECE)", f"{figures['ece']:.4f}"],
        ["negative log-likelihood, nats", f"{figures['nll']:.4f}"],
        ["Brier score", f"{figures['brier']:.4f}"],
        [
            "parameters",
            count(figures["parameters"]),
            "",
            known(count, figures, "teacher_parameters"),
        ],
        [
            "multiply-adds per image",
            short(figures["multiply_adds"]),
            "",
            known(short, figures, "teacher_multiply_adds"),
        ],
    ]
    if "onnx_bytes" in figures:
        sizes = [figures.get(key) for key in ("onnx_bytes", "int8_bytes", "teacher_bytes")]
        rows.append(["MB", *("" if size is None else f"{size / 1e6:.2f}" for size in sizes)])
    if "onnx_agreement" in figures:
        rows.append(["ONNX export, same class as torch", percent(figures["onnx_agreement"], 2)])
    if "int8_agreement" in figures:
        rows.append(["int8, same class as float32", "", percent(figures["int8_agreement"], 2)])
    shown: list[list[Child]] = [[*row, *[""] * (4 - len(row))] for row in rows]
    header: list[Child] = ["", "student", "student, int8", "teacher"]
    if "int8_top1" not in figures:
        shown = [[*row[:2], row[3]] for row in shown]
        header = ["", "student", "teacher"]
    return table(header, shown, {1, 2, 3})


def _each(figures: Mapping[str, float], keys: Sequence[str]) -> list[str]:
    return [percent(figures[key], 2) if key in figures else "" for key in keys]


def _calibration(evidence: Evidence) -> Html:
    return tag(
        "figure",
        tag(
            "figcaption",
            "accuracy against confidence; on the diagonal confidence equals accuracy",
        ),
        charts.reliability(evidence.measured.calibration),
    )


def _per_class(evidence: Evidence) -> Html:
    rows: list[list[Child]] = []
    for row in evidence.measured.per_class:
        known = row["accuracy"] != ""
        own, other = (float(row[key]) if known else 0.0 for key in ("accuracy", "teacher_accuracy"))
        figures: list[Child] = [percent(own), percent(other)] if known else ["–", "–"]
        rows.append(
            [row["class"], charts.bar(own, mark=other if known else None), *figures, row["count"]]
        )
    header: list[Child] = ["class", "student (teacher: the tick)", "student", "teacher", "images"]
    return tag("div", table(header, rows, {2, 3, 4}), class_="bars")


def _mistakes(evidence: Evidence) -> Html:
    counts = evidence.measured.confusion
    found = [(n, a, p) for a, row in enumerate(counts) for p, n in enumerate(row) if a != p and n]
    found.sort(key=lambda item: (-item[0], item[1], item[2]))
    rows: list[list[Child]] = [
        [evidence.classes[a], evidence.classes[p], count(n), percent(n / sum(counts[a]))]
        for n, a, p in found[:MOST_MISTAKES]
    ]
    return table(["is", "taken for", "images", "of the class"], rows, {2, 3}) if rows else join([])
