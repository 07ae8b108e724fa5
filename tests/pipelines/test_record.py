"""A record holds what a claim rests on, and nothing of the machine's names."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path

import pytest

from pipelines.shared import record


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    names = ("params.yaml", "dvc.lock", "cells.csv", "comparison.md", "comparison.png")
    (tmp_path / "matrix").mkdir()
    for name in names:
        (tmp_path / "matrix" / name).write_text(f"matrix {name}")
    (tmp_path / "extra.json").write_text("{}")
    return tmp_path


def test_a_matrix_pipeline_is_recorded_with_its_own_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "record mine extra.json --pipeline matrix --claim better --command run --measured seconds=3"
    )
    monkeypatch.setattr(sys, "argv", words.split())
    record.main()
    out = folder / "records" / f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}-mine"
    assert (out / "comparison.md").read_text() == "matrix comparison.md"
    assert (out / "dvc.lock").read_text() == "matrix dvc.lock"
    assert (out / "extra.json").exists()
    assert not (out / "metrics").exists()
    written = json.loads((out / "record.json").read_text())
    assert written["claim"] == "better"
    assert written["measured"] == {"seconds": 3.0}
    assert written["hardware"]["cores"] >= 1
    assert str(folder) not in (out / "record.json").read_text()
