"""Cells -> table, against figures worked out by hand; and the commands of a cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cell import commands
from pipelines.table import markdown, read_cells
from webdistill.core.errors import UserError
from webdistill.core.files import write_json


def cell(folder: Path, name: str, top1: float) -> None:
    for stage in ("evaluate", "distill"):
        (folder / name / stage).mkdir(parents=True)
    write_json({"top1": top1, "agreement": 0.5}, folder / name / "evaluate" / "metrics.json")
    write_json({"steps": 1200, "images": 4000}, folder / name / "distill" / "metrics.json")


def test_mean_and_sample_standard_deviation_best_first(tmp_path: Path) -> None:
    for seed, top1 in enumerate((0.70, 0.72, 0.74)):
        cell(tmp_path, f"random-{seed}", top1)
    cell(tmp_path, "top-k-0", 0.80)
    rows = markdown(read_cells(tmp_path)).splitlines()[2:]
    assert rows == [
        "| top-k | 1 | 4,000 | 1,200 | 80.00 | 50.00 |",
        "| random | 3 | 4,000 | 1,200 | 72.00 ± 2.00 | 50.00 ± 0.00 |",
    ]


def test_an_unfinished_cell_is_left_out(tmp_path: Path) -> None:
    cell(tmp_path, "a-0", 0.5)
    (tmp_path / "b-0" / "distill").mkdir(parents=True)
    assert [c.arm for c in read_cells(tmp_path)] == ["a"]


def test_a_cell_changes_what_its_arm_says_and_the_seed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        "stages: [select, distill]\narms:\n  plain: {}\n  other: {select.rule: random, distill.lr: 1e-3}\n"
    )
    first, second = commands(tmp_path, "other", 2)
    assert first[1:5] == ["-m", "stages.select", "--cell", str(tmp_path / "cells" / "other-2")]
    assert first[5:] == second[5:]
    assert first[5:] == [
        "--set",
        "task.seed=2",
        "--set",
        'select.rule="random"',
        "--set",
        "distill.lr=0.001",
    ]
    with pytest.raises(UserError, match="no arm 'nothing'; it has plain, other"):
        commands(tmp_path, "nothing", 0)
