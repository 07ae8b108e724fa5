"""What is written for tracking: whole files without MLflow (K1), no secret (K2), names and keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.records import CURVE, record
from webdistill.core import tracking

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".work" / "spool"


def test_spool_needs_no_mlflow_and_leaves_whole_files(tmp_path: Path, folder: Path) -> None:
    code = "import sys, webdistill.core.tracking; assert not {'mlflow', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)
    picture = tmp_path / "a.png"
    picture.write_bytes(b"png")
    (tmp_path / "b").mkdir()
    twin = picture.rename(tmp_path / "b" / "a.png")
    picture.write_bytes(b"other")
    path = tracking.spool(record(artifacts=[picture, twin, tmp_path / "never-made"]), folder)
    picture.unlink()  # the stage's next run does this
    back = tracking.load(path)
    assert [each.read_bytes() for each in back.artifacts] == [b"other", b"png"]
    assert back.curves == {"loss": [list(point) for point in CURVE]}
    assert (back.started, back.status) == (1_700_000_000.25, "FINISHED")
    assert {each.name for each in folder.iterdir()} == {path.name, path.with_suffix(".files").name}


def test_no_secret_reaches_the_spool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:pa55word@track.example/x")
    shown = "https://ann:pa55word@host.example/a?size=3&access_token=t0psecret&key=k3yk3y#end"
    path = tracking.spool(
        record(params={shown: [shown]}, tags={"note": "hunter2hunter2"}, inputs={shown: "d"}),
        folder,
    )
    text = path.read_text()
    for secret in ("pa55word", "t0psecret", "k3yk3y", "hunter2", "track.example"):
        assert secret not in text
    assert "https://host.example/a?size=3&access_token=***&key=***#end" in text


@pytest.mark.parametrize(
    "address",
    [
        "https://www.flickr.com/photos/1@N00/2",
        "https://x.example/?q=a@b.example",
        "data/a@b.parquet",
    ],
)
def test_harmless_addresses_stay(address: str) -> None:
    assert tracking.redact(address) == address


def test_name_key_and_project_root(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text(json.dumps({"architecture": "wrn-16-2"}))
    params = {**record().parent_params, "task.teacher": "teacher"}
    named = record(parent_params=params)
    assert tracking.run_name(named, tmp_path) == "3fa2c1 · kd wrn-16-2->wrn-16-1"
    key = tracking.experiment_key(params, tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "a.py").write_text("pass")
    assert key == tracking.experiment_key(dict(reversed(params.items())), tmp_path / "stages")
    assert key != tracking.experiment_key(params, tmp_path)
    assert tracking.project_root(tmp_path / ".dvc" / "tmp" / "exps" / "tmpx1") == tmp_path.resolve()
    assert tracking.project_root(tmp_path) == tmp_path.resolve()
