"""The benchmark of de-confounding runs from end to end and compares a step with the plug-in to one without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import kdci_step

pytestmark = pytest.mark.slow

SETTING = {
    "host": "kd", "student": "resnet8", "teacher": "resnet8", "attention": "additive", "batch": 4,
    "steps": 1, "repeat": 1, "threads": 1,
}  # fmt: skip


@pytest.mark.parametrize("count", [0, 3])
def test_a_run_has_as_many_prototypes_as_asked(count: int) -> None:
    compensation = kdci_step.make_run(SETTING, count).method.student().compensation
    assert (len(compensation.prototypes) if compensation is not None else 0) == count


def test_the_program_prints_a_row_per_host_and_keeps_its_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    small = ["--hosts", "kd", "--teacher", "resnet8", "--prototypes", "3", "--batch", "4"]
    pace = ["--steps", "1", "--repeat", "2", "--threads", "1", "--out", str(out)]
    assert kdci_step.main([*small, *pace]) == 0
    (row,) = json.loads(out.read_text())
    pairs = [b / a - 1 for a, b in zip(row["seconds_without"], row["seconds_with"], strict=True)]
    assert row["lowest"] == min(pairs)
    assert row["overhead"] == pytest.approx(sum(pairs) / 2)
    assert capsys.readouterr().out.count("\n| kd | resnet8 |") == 1


def test_the_table_has_shares_in_per_cent() -> None:
    row = {
        "host": "kd", "student": "resnet8", "attention": "dot", "prototypes": 64, "overhead": 0.02,
        "lowest": -0.01, "highest": 0.05, "peak_mib_without": 200.0, "peak_mib_with": 206.0,
    }  # fmt: skip
    last = kdci_step.table([row]).splitlines()[-1]
    assert last == "| kd | resnet8 | dot | 64 | +2.0 | -1.0 - +5.0 | +3.0 |"
