"""The benchmark of shared steps: what it compares, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.ddp_step import main, table


def test_the_table_puts_each_layout_beside_the_first_of_its_method() -> None:
    seconds = {
        "kd": {
            "1x1": [(1.0, 1.0), (3.0, 1.0), (2.0, 2.0)],
            "2x1": [(0.5, 1.5), (2.0, 1.25), (1.0, 2.0)],
        },
        "kd3": {"1x2": [(1.0, 2.0)]},
    }
    assert table(seconds).splitlines()[2:] == [
        "| kd | 1 x 1 | 1.00 | 1.00 - 1.00 | 1.00 |",
        "| kd | 2 x 1 | 2.00 | 1.50 - 2.00 | 1.25 |",
        "| kd3 | 1 x 2 | 1.00 | 1.00 - 1.00 | 1.00 |",
    ]


@pytest.mark.slow
def test_it_runs_for_real(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "steps.json"
    words = "--methods simkd --teacher resnet8 --student resnet8 --batch 4 --steps 1 --repeat 2"
    assert main([*words.split(), "--layouts", "1x1", "2x1", "--out", str(out)]) == 0
    assert "| simkd | 2 x 1 |" in capsys.readouterr().out
    found = json.loads(out.read_text())["seconds_per_step"]["simkd"]
    assert {name: len(each) for name, each in found.items()} == {"1x1": 2, "2x1": 2}
