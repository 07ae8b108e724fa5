"""The benchmark of near-duplicates plants what it says, and its program runs from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.duplicates import LABELS, write_pool
from tests.benchmarks.programs import run

pytestmark = pytest.mark.slow


def test_copies_are_like_their_originals_and_nothing_else_is(tmp_path: Path) -> None:
    write_pool("synthetic", 150, 300, 20, tmp_path)
    pool = np.load(tmp_path / "pool.npy").astype(float)
    assert pool.shape == (300, 32, 32, 3)
    assert len(np.load(tmp_path / "tests.npy")) == 20
    flat = pool.mean(axis=3).reshape(300, -1)
    turned = pool[:, :, ::-1].mean(axis=3).reshape(300, -1)
    like = np.maximum(np.abs(np.corrcoef(flat)), np.abs(np.corrcoef(flat, turned)[:300, 300:]))
    planted = json.loads((tmp_path / "planted.json").read_text())
    assert [copy for copy, _ in planted] == [297, 298, 299]
    for copy, original in planted:
        assert like[copy, original] > 0.9
    others = like[:297, :297][~np.eye(297, dtype=bool)]
    assert np.quantile(others, 0.99) < 0.9


def test_the_program_prints_a_table_and_writes_the_same_numbers(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(
        "duplicates",
        "--originals", "300", "--images", "600", "--tests", "50", "--threads", "1", "--variants", "exact", "lists",
        "--out", str(report),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["results"]
    assert list(found) == list(LABELS)
    for name, one in found.items():
        assert one["found"] == 1
        assert one["tests_found"] >= 0.95
        line = next(line for line in done.stdout.splitlines() if f"| {LABELS[name]} |" in line)
        assert f"| {one['peak_mib']:.0f} | {one['found']:.4f} | {one['tests_found']:.4f} |" in line


def test_sizes_that_do_not_fit_are_an_error_of_one_line() -> None:
    done = run("duplicates", "--images", "200", "--tests", "101")
    assert done.returncode == 2
    assert "--tests 1 to half of them" in done.stderr.splitlines()[-1]
