"""What the student can do on the test set: figures, classes, confusion, calibration."""

from __future__ import annotations

from stages.report import charts
from stages.report.evidence import Evidence
from stages.report.html import Child, Html, join, section, table, tag
from stages.report.wording import count, percent, short

MOST_CLASSES = 24  # beyond that a matrix is unreadable: the commonest mistakes are listed instead
MOST_MISTAKES = 20


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
    figures = evidence.measured.figures
    rows: list[list[Child]] = [
        ["top-1", percent(figures["top1"], 2), percent(figures["teacher_top1"], 2)]
    ]
    if "raw_top1" in figures:
        rows += [
            ["top-1, answers without compensation", percent(figures["raw_top1"], 2), ""],
            ["top-1, compensated answers", percent(figures["compensated_top1"], 2), ""],
        ]
    if "top5" in figures:
        rows.append(["top-5", percent(figures["top5"], 2), ""])
    rows += [
        ["same class as the teacher", percent(figures["agreement"], 2), ""],
        ["calibration error (ECE)", f"{figures['ece']:.4f}", ""],
        ["negative log-likelihood, nats", f"{figures['nll']:.4f}", ""],
        ["Brier score", f"{figures['brier']:.4f}", ""],
        ["parameters", count(figures["parameters"]), count(figures["teacher_parameters"])],
        [
            "multiply-adds per image",
            short(figures["multiply_adds"]),
            short(figures["teacher_multiply_adds"]) if "teacher_multiply_adds" in figures else "",
        ],
    ]
    if "onnx_agreement" in figures:
        rows.append(["ONNX export, same class as torch", percent(figures["onnx_agreement"], 2), ""])
    return table(["", "student", "teacher"], rows, {1, 2})


def _calibration(evidence: Evidence) -> Html:
    return tag(
        "figure",
        tag(
            "figcaption",
            "accuracy against confidence; on the diagonal it is as sure as it is right",
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
