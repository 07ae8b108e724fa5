"""What evaluate measures, against naive loops, and the tables it makes of it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from stages.evaluate import measures, results
from webdistill.core.errors import UserError

CLASSES = tuple(f"class {i}" for i in range(7))


def _logits(seed: int = 0, count: int = 60, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, classes)).astype(np.float32) * 3
    values[::9] = np.round(values[::9])  # ties
    return values, random.integers(0, classes, count)


def _softmax(row: np.ndarray) -> list[float]:
    exponents = [math.exp(float(v) - float(max(row))) for v in row]
    return [e / sum(exponents) for e in exponents]


def test_top_k_is_the_naive_loop() -> None:
    values, labels = _logits()
    for k in (1, 5):
        hits = 0
        for row, label in zip(values, labels, strict=True):
            order = sorted(range(len(row)), key=lambda c: (-row[c], c))
            hits += label in order[:k]
        assert measures.top_k(values, labels, k) == hits / len(labels)
    assert measures.top_k(values, labels, 1) == (values.argmax(1) == labels).mean()


def test_nll_and_brier_are_the_naive_loop() -> None:
    values, labels = _logits(1)
    nll, brier = 0.0, 0.0
    for row, label in zip(values, labels, strict=True):
        p = _softmax(row)
        nll -= math.log(p[label]) / len(labels)
        brier += sum((q - (c == label)) ** 2 for c, q in enumerate(p)) / len(labels)
    logs = measures.log_softmax(values)
    assert measures.negative_log_likelihood(logs, labels) == pytest.approx(nll, abs=1e-12)
    assert measures.brier(np.exp(logs), labels) == pytest.approx(brier, abs=1e-12)


def test_calibration_is_the_naive_loop() -> None:
    values, labels = _logits(2, count=300)
    probabilities = np.exp(measures.log_softmax(values))
    error = 0.0
    for b in range(15):
        inside = [i for i, p in enumerate(probabilities) if b / 15 < max(p) <= (b + 1) / 15]
        if inside:
            accuracy = sum(int(probabilities[i].argmax()) == labels[i] for i in inside) / len(
                inside
            )
            confidence = sum(max(probabilities[i]) for i in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    found = measures.calibration(probabilities, labels, 15)
    assert found.error == pytest.approx(error, abs=1e-12)
    assert found.count.sum() == 300


def test_calibration_of_a_certain_and_right_classifier_is_zero() -> None:
    probabilities = np.eye(4)[[0, 1, 2, 3, 3]]
    assert measures.calibration(probabilities, np.array([0, 1, 2, 3, 3]), 15).error == 0.0


def test_class_accuracy_survives_a_class_without_images() -> None:
    accuracy, count = measures.class_accuracy(np.array([0, 0, 2]), np.array([0, 2, 2]), 4)
    assert accuracy.tolist() == [1.0, 0.0, 0.5, 0.0]
    assert count.tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize(
    ("share", "images", "classes", "expected"),
    [(0.12, 100, 10, True), (0.2, 100, 10, False), (0.12, 10_000, 10, False), (0.0, 50, 2, True)],
)
def test_at_chance(share: float, images: int, classes: int, expected: bool) -> None:
    assert measures.at_chance(share, images, classes) is expected


def test_non_finite_logits_are_refused() -> None:
    values, labels = _logits()
    broken = values.copy()
    broken[3, 2] = np.nan
    with pytest.raises(
        UserError, match="student gives non-finite logits for 1 test images, first 3"
    ):
        results.Outcome([str(i) for i in range(60)], labels, broken, values)


def test_confusion_has_one_row_per_image(tmp_path: Path) -> None:
    values, labels = _logits(3)
    outcome = results.Outcome([str(i) for i in range(60)], labels, values, values[:, ::-1])
    results.write_confusion(outcome, CLASSES, tmp_path / "confusion.csv")
    with (tmp_path / "confusion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert [r["actual"] for r in rows] == [CLASSES[i] for i in labels]
    assert [r["predicted"] for r in rows] == [CLASSES[i] for i in values.argmax(1)]


@pytest.mark.parametrize(("classes", "known"), [(3, []), (5, [3]), (7, [3, 5])])
def test_top3_and_top5_are_there_when_there_are_more_classes(
    classes: int, known: list[int]
) -> None:
    values, labels = _logits(4, classes=classes)
    outcome = results.Outcome([str(i) for i in range(60)], labels, values, values)
    figures = results.figures(outcome, 15)
    assert {key for key in figures if key.startswith("top")} == {f"top{k}" for k in (1, *known)}
    for k in known:
        hits = 0
        for row, label in zip(values, labels, strict=True):
            hits += label in sorted(range(classes), key=lambda c: (-row[c], c))[:k]
        assert figures[f"top{k}"] == pytest.approx(hits / len(labels), abs=1e-6)
    assert figures["agreement"] == 1.0


def test_mistakes_come_surest_first() -> None:
    logits = np.array([[5, 0], [0, 9], [1, 0], [0, 2]], np.float32)
    outcome = results.Outcome(list("abcd"), np.array([1, 0, 0, 0]), logits, logits)
    assert results.mistakes(outcome).tolist() == [1, 0, 3]
