"""How the pool fits the teacher: counts against a plain loop, entropies against SciPy, what is drawn."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from stages.report import charts
from stages.report.columns import Columns
from stages.report.evidence import read_teacher
from stages.report.gather import gather
from stages.report.sections.fit import BINS, effective_number, fit, histogram, measure
from tests.stages.report_project import FATES, FETCHED_NOT
from tests.stages.report_stage import Stage
from webdistill.core.files import write_table


def test_counts_equal_those_of_the_rows_the_project_was_made_of(project: Path) -> None:
    evidence = gather(Stage(project))
    found = measure(evidence.collected, evidence.classes)
    pooled = [i for i, fate in enumerate(FATES) if fate not in FETCHED_NOT]
    clip = {i: 0 if i % 4 == 1 else i % 3 for i in pooled}
    assert found.images == len(pooled)
    for label, row in enumerate(found.classes):
        # the teacher's class of image i is i % 3; image 0 has equal logits, whose first is 0
        mine = [i for i in pooled if i % 3 == label]
        assert row.seen == len(mine)
        assert row.clip == sum(clip[i] == label for i in mine)
        assert row.named == sum(i % 2 for i in mine), "where no keyword is, none can agree"
        assert row.keyword == sum(i % 2 == 1 and label == 0 for i in mine)
        assert row.searched == (sum(i % 2 for i in pooled) if label == 0 else 0)
        assert row.selected == sum(FATES[i] == "selected" for i in mine)
        mean = np.mean([1 / (1 + 2 * math.exp(-float(np.float16(i / 20)))) for i in mine])
        assert row.confidence == pytest.approx(mean, rel=1e-6)
    assert found.agreeing == sum(clip[i] == i % 3 for i in pooled)
    sure = [1 / (1 + 2 * math.exp(-float(np.float16(i / 20)))) for i in pooled]
    assert (found.sure, found.unsure) == (sum(p >= 0.9 for p in sure), sum(p < 0.5 for p in sure))


def test_entropy_equals_scipy_and_survives_extreme_logits(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(0, 8, (50, 7)).astype(np.float16)
    logits[0] = [60000, -60000, 0, 0, 0, 0, 0]
    logits[1] = 1.5
    flat = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), 7)
    names = [str(i) for i in range(50)]
    write_table(pa.table({"id": names, "logits": flat}), tmp_path / "a.parquet")
    found = read_teacher([tmp_path / "a.parquet"])
    expected = softmax(logits.astype(np.float64), axis=1)
    assert found.ids.tolist() == [name.encode() for name in names]
    entropies = found["entropy"].tolist()
    assert entropies == pytest.approx(entropy(expected, axis=1).tolist(), abs=1e-9)
    assert entropies[:2] == pytest.approx([0.0, math.log(7)])
    assert found["confidence"].tolist() == pytest.approx(expected.max(axis=1).tolist(), rel=1e-9)


def test_effective_number_of_classes() -> None:
    assert effective_number([5, 5, 5, 5]) == pytest.approx(4)
    assert effective_number([9, 0, 0]) == pytest.approx(1)
    assert effective_number([3, 1]) == pytest.approx(4 / 3**0.75)  # 2^H with H in bits
    assert effective_number([0, 0]) == 0


def test_histogram_equals_numpy() -> None:
    values = np.random.default_rng(1).uniform(0, 2.3, 500)
    expected, _ = np.histogram(values, BINS, (0, 2.3))
    assert histogram(values, 0, 2.3) == expected.tolist()
    assert histogram(np.array([1.0, 1.0 + 1e-12, -1e-12]), 0, 1) == [1, *[0] * (BINS - 2), 2]


def test_columns_of_a_histogram_stay_inside_and_stand_on_the_axis() -> None:
    drawn = charts.bars({"pool": [0, 3, 12], "selected": [0, 1, 12]}, 0.0, 1.0, "confidence")
    boxes = re.findall(r'<rect x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', drawn)
    assert len(boxes) == 4, "an empty bin has no column"
    for box in boxes:
        x, y, width, height = map(float, box)
        assert charts.LEFT <= x < x + width <= charts.WIDTH - charts.RIGHT
        assert y >= charts.TOP - 0.1
        assert y + height == pytest.approx(charts.HEIGHT - charts.BOTTOM, abs=0.11)
    heights = [float(box[3]) for box in boxes]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.3)
    assert charts.bars({"pool": [0, 0]}, 0.0, 1.0, "confidence") == ""


def test_of_many_classes_those_with_the_least_agreement_are_shown(project: Path) -> None:
    evidence = gather(Stage(project))
    names = [f"class {i}" for i in range(30)]
    rows = [(c, k) for c in range(30) for k in range(10)]
    ids = np.array([f"{c}/{k}".encode() for c, k in rows])
    labels, sure = np.array([c for c, _ in rows]), np.full(len(rows), 0.9)
    clip = np.array([c if k < c % 10 else -1 for c, k in rows])
    nobody = Columns(ids[:0], label=labels[:0], confidence=sure[:0])
    collected = replace(
        evidence.collected,
        teacher=Columns(ids, label=labels, confidence=sure, entropy=sure / 9),
        scores=Columns(ids, clip_class=clip, query_class=np.full(len(rows), -1)),
        selected=nobody,
    )
    changed = type(evidence)(**{**vars(evidence), "classes": names, "collected": collected})
    text = fit(changed)
    assert "The 24 of 30 classes with the least agreement." in text
    shown = re.findall(r"<td>(class \d+)</td>", text)
    assert len(shown) == 24
    assert {"class 0", "class 10", "class 20"} == set(shown[:3]), "no image agrees"
    assert "class 29" not in shown, "nine of ten agree"
