"""The report's verdicts on planted truth."""

from __future__ import annotations

from pathlib import Path

from stages.report.gather import gather
from stages.report.sections.truth import Fate, fates, judge, judge_duplicates, verdicts
from tests.stages.report_stage import Stage


def test_verdicts_on_the_planted_truth(project: Path) -> None:
    evidence = gather(Stage(project, True))
    assert evidence.truth is not None
    rows = fates(evidence.collected, evidence.truth.to_pylist())
    found = {item.rule: item for item in verdicts(rows)}
    for item in found.values():
        assert item.caught == item.planted > 0, item
        assert item.false_alarms == 0, item
    assert found["leak guard"].planted == 4
    assert found["broken and oversized files"].planted == 7


def _fate(row: int, end: str, kind: str = "clean", parent: int = -1) -> Fate:
    return Fate(row, kind, "", 0, True, parent, end, 0)


def test_a_rule_is_judged_by_the_rows_that_reached_it() -> None:
    rows = [
        _fate(0, "leak", "test_leak"),
        _fate(1, "kept", "test_leak"),
        _fate(2, "low_score", "test_leak"),  # passed the leak guard, so it is a miss
        _fate(6, "opted_out", "test_leak"),  # never reached it
        _fate(3, "leak"),
        _fate(4, "selected"),
        _fate(5, "corrupt", "broken"),
    ]
    found = judge("leak guard", rows, ("leak",), lambda f: f.kind == "test_leak")
    assert (found.planted, found.caught, found.flagged, found.right) == (3, 1, 2, 1)
    assert (found.false_alarms, found.harmless) == (1, 2)
    found = judge(
        "leak guard", rows, ("leak",), lambda f: f.kind == "test_leak", lambda f: f.row == 3
    )
    assert (found.planted, found.right, found.false_alarms, found.harmless) == (3, 2, 0, 1)


def test_a_pair_is_caught_whichever_of_the_two_was_dropped() -> None:
    rows = [
        _fate(0, "duplicate"),
        _fate(1, "kept", "near_duplicate", parent=0),
        _fate(2, "selected"),
        _fate(3, "kept", "near_duplicate", parent=2),
        _fate(4, "same_pixels"),
        _fate(5, "low_score"),
        _fate(6, "kept", "near_duplicate", parent=5),
    ]
    found = judge_duplicates(rows)
    assert (found.planted, found.caught) == (2, 1)
    assert (found.flagged, found.right, found.false_alarms) == (2, 1, 1)
