"""The benchmark of steps: what it compares, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.method_steps import main, ratio, table

pytestmark = pytest.mark.slow


def test_a_ratio_is_of_all_rounds_together() -> None:
    assert ratio([1.0, 5.0], [1.0, 2.0]) == (2.0, 1.0, 2.5)


def test_the_table_puts_each_method_beside_the_first_and_beside_its_networks() -> None:
    seconds = {"kd": [1.0, 1.0], "kd: networks alone": [0.9, 0.9], "dfnd": [2.0, 3.0]}
    assert table(seconds, "kd").splitlines()[2:] == [
        "| kd | 1.00 | 1.00 - 1.00 | 90% |",
        "| dfnd | 2.50 | 2.00 - 3.00 |  |",
    ]


def test_it_runs_for_real(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "steps.json"
    words = "--methods simkd kd3 dafl --teacher resnet8 --student resnet8 --batch 4 --steps 1 --repeat 1 --threads 1"
    assert main([*words.split(), "--out", str(out)]) == 0
    assert "| kd3 |" in capsys.readouterr().out
    found = json.loads(out.read_text())["seconds_per_step"]
    assert set(found) == {
        "simkd", "simkd: networks alone", "kd3", "kd3: networks alone", "dafl", "dafl: networks alone",
    }  # fmt: skip
    assert all(len(each) == 1 and each[0] > 0 for each in found.values())
