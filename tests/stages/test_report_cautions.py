"""What stands above all figures, on the page and in the card."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stages.report.card import card
from stages.report.columns import Columns
from stages.report.evidence import Collected, Evidence
from stages.report.gather import gather
from stages.report.ledger import host
from stages.report.page import page
from stages.report.sections.cautions import at_chance, cautions, rare
from tests.stages.report_project import CLASSES
from tests.stages.report_stage import Stage


@pytest.fixture(scope="module")
def evidence(project: Path) -> Evidence:
    return gather(Stage(project))


def changed(evidence: Evidence, **collected: object) -> Evidence:
    return dataclasses.replace(
        evidence, collected=dataclasses.replace(evidence.collected, **collected)
    )


def test_a_student_at_chance_is_told_from_one_that_is_a_little_better() -> None:
    assert at_chance(0.2, 100, 10) == ""
    assert at_chance(0.15, 100, 10).startswith("The student is at chance: 15.0\u00a0% right")
    assert at_chance(0.11, 10_000, 10) == ""


def test_a_student_is_not_blamed_for_a_test_set_that_can_tell_nothing() -> None:
    assert at_chance(1.0, 5, 2) == ""
    for share in (0.0, 1.0):
        assert at_chance(share, 4, 2).startswith("The test set has too few images, 4, to tell")


def test_page_and_card_begin_with_what_is_wrong(evidence: Evidence) -> None:
    figures = {**evidence.measured.figures, "top1": 0.3}
    measured = dataclasses.replace(evidence.measured, figures=figures)
    poor = dataclasses.replace(evidence, measured=measured)
    for text, figures_begin in ((page(poor), 'class="glance"'), (card(poor), "## Accuracy")):
        assert "The student is at chance: 30.0" in text
        assert text.index("at chance") < text.index(figures_begin)
    assert "at chance" not in page(evidence)


def test_classes_without_a_test_image_are_named(evidence: Evidence) -> None:
    rows = [row["class"] for row in evidence.measured.per_class if row["count"] == "0"]
    assert rows == [CLASSES[2]]
    (line,) = [line for line in cautions(evidence) if line.startswith("No test image shows")]
    assert CLASSES[2] in line


def test_a_pool_without_web_addresses_is_local(evidence: Evidence) -> None:
    assert "with images from the web</title>" in page(evidence)
    ledger = evidence.collected.ledger
    at = ledger.schema.get_field_index("host")
    own = pa.array([host("", f"pictures/cat/{i}.jpg") for i in range(ledger.num_rows)])
    mine = changed(evidence, ledger=ledger.set_column(at, "host", own))
    assert "with local images</title>" in page(mine)
    assert "The pool is local: no image of it has a web address" in page(mine)
    assert "images from the web. Its teacher" not in card(mine)


def test_classes_with_hardly_any_picture_are_named(evidence: Evidence) -> None:
    def selected(*counts: int) -> Collected:
        labels = [label for label, n in enumerate(counts) for _ in range(n)]
        ids = np.array([f"{i:032x}".encode() for i in range(len(labels))])
        chosen = Columns(ids, label=np.array(labels), confidence=np.full(len(labels), 0.9))
        return dataclasses.replace(evidence.collected, selected=chosen)

    assert rare(selected(20, 10, 10), "abc") == ""
    line = rare(selected(20, 9, 0), "abc")
    assert line == "Classes with hardly any selected picture: b (9), c (0)."
    assert rare(selected(2000, 2000, 100), "abc").endswith("c (100).")
