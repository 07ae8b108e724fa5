"""python -m webdistill"""

from __future__ import annotations

from pathlib import Path

import pytest

from webdistill.__main__ import main
from webdistill.core.files import write_json

ROOT = Path(__file__).parents[2]


def test_check_counts_or_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--params", str(ROOT / "params.yaml")]) == 0
    assert "is valid" in capsys.readouterr().out
    (tmp_path / "params.yaml").write_text("task: {}\n")
    assert main(["check", "--params", str(tmp_path / "params.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_results_say_what_to_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["results"]) == 2
    assert "report.html; run `dvc repro`" in capsys.readouterr().err
    (tmp_path / "data/evaluate").mkdir(parents=True)
    (tmp_path / "data/report").mkdir()
    (tmp_path / "data/report/report.html").touch()
    figures = {"top1": 0.75, "teacher_top1": 0.9, "parameters": 1000, "teacher_parameters": 4000}
    write_json(figures, tmp_path / "data/evaluate/metrics.json")
    assert main(["results"]) == 0
    shown = capsys.readouterr().out
    assert "75.0%" in shown
    assert f"sqlite:///{tmp_path / 'mlflow.db'}" in shown
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret@example.org")
    assert main(["results"]) == 0
    assert "secret" not in capsys.readouterr().out
