"""From logits and labels to the tables and figures this stage writes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.evaluate import measures
from webdistill.core.errors import UserError

DIGITS = 6  # of every written figure: beyond that it is rounding of the machine


@dataclass(frozen=True)
class Outcome:
    """What both networks said about the N test images."""

    ids: list[str]
    labels: NDArray[np.int64]  # [N]
    student: NDArray[np.float32]  # logits [N, K]
    teacher: NDArray[np.float32]  # logits [N, K]

    def __post_init__(self) -> None:
        for name in ("student", "teacher"):
            bad = ~np.isfinite(getattr(self, name)).all(axis=1)
            if bad.any():
                raise UserError(
                    f"the {name} gives non-finite logits for {int(bad.sum())} test images, first "
                    f"{self.ids[int(bad.argmax())]}; its weights are damaged or training diverged"
                )


def figures(outcome: Outcome, bins: int) -> dict[str, float]:
    """The quality figures of metrics.json; shares between 0 and 1, nll in nats."""
    labels, student = outcome.labels, outcome.student
    logs = measures.log_softmax(student)
    found = {
        "test_images": len(labels),
        "top1": measures.top_k(student, labels, 1),
        "teacher_top1": measures.top_k(outcome.teacher, labels, 1),
        "agreement": measures.agreement(student.argmax(1), outcome.teacher.argmax(1)),
        "ece": measures.calibration(np.exp(logs), labels, bins).error,
        "nll": measures.negative_log_likelihood(logs, labels),
        "brier": measures.brier(np.exp(logs), labels),
    }
    for k in (3, 5):
        if student.shape[1] > k:
            found[f"top{k}"] = measures.top_k(student, labels, k)
    accuracy, count = measures.class_accuracy(student.argmax(1), labels, student.shape[1])
    found["worst_class_top1"] = float(accuracy[count > 0].min())
    return {key: round(value, DIGITS) for key, value in found.items()}


def mistakes(outcome: Outcome) -> NDArray[np.int64]:
    """Places of the wrongly classified images, the surest mistake first."""
    sure = np.exp(measures.log_softmax(outcome.student)).max(1)
    wrong = np.flatnonzero(outcome.student.argmax(1) != outcome.labels)
    return wrong[np.argsort(-sure[wrong], kind="stable")]


def predictions(outcome: Outcome) -> pa.Table:
    """One row per test image, in file order; `confidence` is the student's softmax maximum."""
    confidence = np.exp(measures.log_softmax(outcome.student)).max(axis=1)
    return pa.table(
        {
            "id": pa.array(outcome.ids, pa.string()),
            "label": pa.array(outcome.labels, pa.int32()),
            "prediction": pa.array(outcome.student.argmax(1), pa.int32()),
            "confidence": pa.array(confidence, pa.float32()),
            "teacher_prediction": pa.array(outcome.teacher.argmax(1), pa.int32()),
        }
    )


def write_confusion(outcome: Outcome, classes: Sequence[str], path: Path) -> None:
    """One row per test image, as DVC's confusion template wants it."""
    pairs = zip(outcome.labels, outcome.student.argmax(1), strict=True)
    _write(path, ("actual", "predicted"), ((classes[a], classes[p]) for a, p in pairs))


def write_per_class(outcome: Outcome, classes: Sequence[str], path: Path) -> None:
    """class, accuracy, count, teacher_accuracy; accuracies are empty for a class without test images."""
    own, count = measures.class_accuracy(outcome.student.argmax(1), outcome.labels, len(classes))
    other, _ = measures.class_accuracy(outcome.teacher.argmax(1), outcome.labels, len(classes))

    def row(index: int) -> tuple[object, ...]:
        known = count[index] > 0
        return (
            classes[index],
            round(float(own[index]), DIGITS) if known else "",
            int(count[index]),
            round(float(other[index]), DIGITS) if known else "",
        )

    _write(path, ("class", "accuracy", "count", "teacher_accuracy"), map(row, range(len(classes))))


def write_calibration(outcome: Outcome, bins: int, path: Path) -> None:
    """confidence, accuracy, count of every bin that holds an image, in order of confidence."""
    probabilities = np.exp(measures.log_softmax(outcome.student))
    found = measures.calibration(probabilities, outcome.labels, bins)
    rows = (
        (round(float(c), DIGITS), round(float(a), DIGITS), int(n))
        for c, a, n in zip(found.confidence, found.accuracy, found.count, strict=True)
        if n
    )
    _write(path, ("confidence", "accuracy", "count"), rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
