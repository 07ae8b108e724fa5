"""python -m webdistill"""

from __future__ import annotations

from pathlib import Path

import pytest

from webdistill.__main__ import main
from webdistill.core.files import sha256_file, write_json
from webdistill.harness import spool
from webdistill.tracking import view

ROOT = Path(__file__).parents[2]


def test_check_counts_or_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--params", str(ROOT / "params.yaml")]) == 0
    assert "is valid" in capsys.readouterr().out
    (tmp_path / "params.yaml").write_text("task: {}\n")
    assert main(["check", "--params", str(tmp_path / "params.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("distill.metod=kd", "unknown key 'distill.metod'; did you mean 'method'?"),
        ("distill.method=kdd", "distill.method = \"kdd\": input should be 'kd', 'dfnd', "),
        ("+distill.metod=kd", "expected SECTION.KEY=VALUE with a section of params.yaml"),
    ],
)
def test_check_names_what_dvc_exp_run_would_not(
    change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--params", str(ROOT / "params.yaml"), "-S", change]) == 2
    assert said in capsys.readouterr().err


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
    assert main(["results"]) == 2
    assert "metrics.json; run `dvc repro`" in capsys.readouterr().err
    figures = {"top1": 0.75, "teacher_top1": 0.9, "parameters": 1000, "teacher_parameters": 4000}
    write_json(figures, tmp_path / "data/evaluate/metrics.json")
    assert main(["results"]) == 0
    shown = capsys.readouterr().out
    assert "75.0%" in shown
    assert "int8 " not in shown
    assert f"sqlite:///{tmp_path / 'mlflow.db'}" in shown
    (tmp_path / ".work/spool").mkdir(parents=True)
    (tmp_path / ".work/spool" / spool.PAGE).write_text(view.page("7"))  # as a flush does
    assert main(["results"]) == 0
    address = "http://127.0.0.1:5000/#/experiments/7/runs?viewStateShareKey=webdistill"
    assert address in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret@example.org")
    assert main(["results"]) == 0
    assert "secret" not in capsys.readouterr().out


def test_results_name_speed_and_threads_of_this_student_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("data/evaluate", "data/report", ".work/evaluate"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/report/report.html").touch()
    graph = tmp_path / "data/evaluate/student.onnx"
    graph.write_bytes(b"graph")
    figures = {
        "top1": 0.75, "teacher_top1": 0.9, "parameters": 1000, "teacher_parameters": 4000,
        "int8_top1": 0.74, "int8_bytes": 1_500_000, "onnx_bytes": 5_000_000,
    }  # fmt: skip
    write_json(figures, tmp_path / "data/evaluate/metrics.json")
    times = {"latency_teacher_b1_ms": 4.0, "latency_torch_b1_ms": 2.0, "latency_onnx_b1_ms": 1.0}
    facts = {"student": sha256_file(graph), "threads": 2, **times, "latency_int8_b1_ms": 0.5}
    write_json(facts, tmp_path / ".work/evaluate/speed.json")
    assert main(["results"]) == 0
    shown = capsys.readouterr().out
    assert "int8     74.0%, 1.50 MB; float32 5.00 MB" in shown
    expected = "CPU, 2 threads: teacher 4.00, student 2.00, ONNX 1.00, int8 0.50"
    assert expected in shown
    graph.write_bytes(b"another student")
    assert main(["results"]) == 0
    assert "speed   " not in capsys.readouterr().out
