"""The study of KDCI: which classes its teacher knows, and how its pool is thinned."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.deconfound.prepare import thinned, wanted
from pipelines.deconfound.teacher import CLASSES, HERE, known_labels
from webdistill.harness.params import read_yaml


def test_classes_go_down_geometrically_from_the_most_frequent() -> None:
    counts = np.array([1000, 5000, 900, 4000, 3000])
    found = wanted(counts, 160, 16)
    assert found.tolist() == [20, 160, 10, 80, 40]
    assert found.max() / found.min() == 16
    assert wanted(np.array([7, 5000, 0]), 160, 16).tolist() == [7, 160, 0], "what there is"


def test_rows_are_kept_by_lot_in_their_order() -> None:
    predicted = np.random.default_rng(0).integers(0, 5, 3000) // 2
    rows = thinned(predicted, 3, 200, 4, 1)
    kept = np.bincount(predicted[rows], minlength=3)
    assert sorted(kept.tolist()) == [50, 100, 200]
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == thinned(predicted, 3, 200, 4, 1).tolist()
    assert rows.tolist() != thinned(predicted, 3, 200, 4, 2).tolist()
    assert rows.mean() == pytest.approx(1500, rel=0.1), "not the first ones"


def test_the_teacher_knows_half_of_the_classes() -> None:
    known = known_labels(0)
    assert len(set(known)) == CLASSES // 2
    assert known == sorted(known) == known_labels(0) != known_labels(1)
    assert len(read_yaml(HERE / "params.yaml")["common"]["task"]["classes"]) == len(known)
