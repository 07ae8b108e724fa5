"""python -m webdistill results --keep: what is written, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from webdistill.__main__ import main
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, sha256_file, write_json
from webdistill.experiments import FOLDER, differences, keep, read_kept
from webdistill.harness.params import read_yaml

ROOT = Path(__file__).parents[2]
FIGURES = {
    "top1": 0.75,
    "agreement": 0.8,
    "teacher_top1": 0.9,
    "parameters": 1000,
    "teacher_parameters": 4000,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project after a run, as far as keeping it goes."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    for name in ("data/evaluate", "data/distill/student", "data/quickstart/test", "data/report"):
        Path(name).mkdir(parents=True)
    Path("data/report/report.html").touch()
    write_json(FIGURES, Path("data/evaluate/metrics.json"))
    write_json({"architecture": "wrn-16-1"}, Path("data/distill/student/config.json"))
    Path("data/quickstart/test/images.parquet").write_bytes(b"pictures")
    return tmp_path


def test_a_run_is_kept_whole_and_read_back(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["results", "--keep", "first.try-1"]) == 0
    path = project / FOLDER / "first.try-1.json"
    assert str(path) in capsys.readouterr().out
    (found,) = read_kept(project / FOLDER)
    assert found.name == "first.try-1"
    assert found.figures == FIGURES
    assert found.params["distill.method"] == "simkd"
    assert found.params["distill.weight_decay"] == "null"
    assert found.student == "wrn-16-1"
    assert found.tests == sha256_file(project / "data/quickstart/test/images.parquet")
    assert str(project) not in path.read_text()


def test_parameters_that_did_not_run_are_not_kept(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text()
    ran = {"params.yaml": {"distill": read_yaml(Path("params.yaml"))["distill"]}}
    write_json({"stages": {"distill": {"params": ran}}}, Path("dvc.lock"))  # JSON is YAML
    Path("params.yaml").write_text(text.replace("  epochs: 54\n", "  epochs: 999\n"))
    assert main(["results", "--keep", "one"]) == 2
    assert (
        "distill.epochs = 999, but stage 'distill' last ran with 54; run `dvc repro` first"
        in capsys.readouterr().err
    )
    assert not (project / FOLDER).exists()
    Path("params.yaml").write_text(text)
    assert main(["results", "--keep", "one"]) == 0


def test_nothing_is_overwritten(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(project, "one")
    before = read_json(project / FOLDER / "one.json")
    write_json(FIGURES | {"top1": 0.1}, project / "data/evaluate/metrics.json")
    assert main(["results", "--keep", "one"]) == 2
    assert "one.json is there already" in capsys.readouterr().err
    assert read_json(project / FOLDER / "one.json") == before


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 65, "é"])
def test_a_name_that_is_no_file_name_is_refused(project: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name an experiment"):
        keep(project, name)
    assert not (project / FOLDER).exists()


@pytest.mark.parametrize("lost", ["data/evaluate/metrics.json", "data/report/report.html"])
def test_without_a_run_nothing_is_kept(project: Path, lost: str) -> None:
    (project / lost).unlink()
    assert main(["results", "--keep", "one"]) == 2
    assert not (project / FOLDER).exists()


def test_differences_are_those_that_matter() -> None:
    mine = {"a": "1", "b": "2", "report.hosts": "3", "c": "4"}
    other = {"a": "1", "b": "5", "report.hosts": "9", "d": "6"}
    assert differences(mine, other) == {"b": "5", "c": "", "d": "6"}
    assert differences(mine, mine) == {}


def test_the_committed_folder_is_readable() -> None:
    assert (ROOT / FOLDER / "README.md").is_file()
    read_kept(ROOT / FOLDER)
