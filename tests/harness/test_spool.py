"""What is written for tracking: whole files without MLflow (K1), no secret (K2), names and keys."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.harness.records import CURVE, KEY, record
from webdistill.harness import closure, spool
from webdistill.harness.params import read_yaml
from webdistill.harness.records import ComparisonCell, ComparisonTable, Record, StageRun, Workspace

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".work" / "spool"


def test_spool_needs_no_mlflow_and_leaves_whole_files(tmp_path: Path, folder: Path) -> None:
    code = "import sys, webdistill.harness.spool; assert not {'mlflow', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)
    picture = tmp_path / "a.png"
    picture.write_bytes(b"png")
    (tmp_path / "b").mkdir()
    twin = picture.rename(tmp_path / "b" / "a.png")
    picture.write_bytes(b"other")
    path = spool.write(record(artifacts=[picture, twin, tmp_path / "never-made"]), folder)
    picture.unlink()  # the stage's next run does this
    back = spool.load(path)
    assert isinstance(back, StageRun)
    assert [each.read_bytes() for each in back.artifacts] == [b"other", b"png"]
    assert back.curves == {"loss": [list(point) for point in CURVE]}
    assert (back.started, back.status) == (1_700_000_000.25, "FINISHED")
    assert {each.name for each in folder.iterdir()} == {path.name, path.with_suffix(".files").name}


def test_no_secret_reaches_the_spool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:pa55word@track.example/x")
    shown = "https://ann:pa55word@host.example/a?size=3&access_token=t0psecret&key=k3yk3y#end"
    path = spool.write(
        record(params={shown: [shown]}, tags={"note": "hunter2hunter2"}, inputs={shown: "d"}),
        folder,
    )
    text = path.read_text()
    for secret in ("pa55word", "t0psecret", "k3yk3y", "hunter2", "track.example"):
        assert secret not in text
    assert "https://host.example/a?size=3&access_token=***&key=***#end" in text


@pytest.mark.parametrize(
    "key",
    ["sid", "session", "pwd", "pass", "jwt", "hmac", "api_sig", "token[]", "user%5Bpassword%5D"],
)
def test_what_no_stored_address_has_no_record_has_either(key: str) -> None:
    assert (
        spool.redact(f"https://a.example/x?w=1&{key}=s3cr3t#b")
        == f"https://a.example/x?w=1&{key}=***#b"
    )
    assert spool.redact(f"https://a.example/x#{key}=s3cr3t") == f"https://a.example/x#{key}=***"


@pytest.mark.parametrize(
    "address",
    [
        "https://a.example/x?sides=3&passage=4&keys=5&author=b",
        "https://www.flickr.com/photos/1@N00/2",
        "https://x.example/?q=a@b.example",
        "data/a@b.parquet",
    ],
)
def test_harmless_addresses_stay(address: str) -> None:
    assert spool.redact(address) == address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("refused: Authorization: Bearer s3cr3t", "refused: Authorization: ***"),
        ("{'authorization': 'Basic czNjcjN0', 'Accept': '*/*'}", "{'authorization': '***', 'Accept': '*/*'}"),
        ("curl -H 'Authorization: token s3cr3t' x", "curl -H 'Authorization: ***' x"),
        ("X-Api-Key: s3cr3t\nnext", "X-Api-Key: ***\nnext"),
        ('"PRIVATE-TOKEN": "s3cr3t"', '"PRIVATE-TOKEN": "***"'),
        ("sent Bearer s3.cr-3t_/+== and failed", "sent Bearer *** and failed"),
        ("a cup bearer statue, bearer bonds", "a cup bearer statue, bearer bonds"),
        ("?authorization=s3cr3t&size=3", "?authorization=***&size=3"),
        ("?apikey=s3cr3t&size=3", "?apikey=***&size=3"),
        ("api-key and x-rays: none\nAuthorization:\nnext", "api-key and x-rays: none\nAuthorization:\nnext"),
    ],
)  # fmt: skip
def test_no_header_with_a_secret_is_shown(text: str, shown: str) -> None:
    assert spool.redact(text) == shown == spool.redact(shown)


@pytest.mark.parametrize(
    "part", ["token", "api_", "sig", "x-", "&", "authorization: ", "bearer ", "://a@"]
)
def test_a_text_of_any_length_costs_no_square(part: str) -> None:
    long = "?" + part * (1_000_000 // len(part))  # was half an hour of `token`
    assert len(spool.redact(long)) <= len(long)


BASE: dict[str, Any] = {"parent_key": KEY, "started": 1.0, "ended": 2.0, "name": "named"}
ALL_KINDS = [
    record(name="named", curves={"loss": [[1, 0.5]]}, tags={"cell": "x"}, lock="stages:"),
    Workspace(**BASE, parent_params={"task.seed": "0"}, lock="stages:", measured={"filter": "{}"}),
    ComparisonTable(**BASE, parent_params={"task.seed": "0"}, metrics={"kd.top1": 0.5}),
    ComparisonCell(**BASE, cell="kd-0", key="k", params={"seed": 0}, metrics={"top1": 0.5}),
]


@pytest.mark.parametrize("told", ALL_KINDS, ids=lambda told: str(told.kind))
def test_each_kind_comes_back_and_so_does_what_an_earlier_version_left(
    told: Record, folder: Path
) -> None:
    path = spool.write(told, folder)
    assert told.subject in path.name
    assert spool.load(path) == replace(told, artifacts=[])
    earlier = {
        "stage": "", "key": "", "parent_params": {}, "params": {}, "status": "FINISHED", "task": {}, "inputs": {},
        "outputs": {}, "metrics": {}, "track_metrics": {}, "curves": {}, "tags": {}, "lock": "", "measured": {},
    }  # fmt: skip
    content = json.loads(path.read_text())
    del content["kind"]
    if "cell" in content:
        content["stage"] = content.pop("cell")
    if told.kind == "stage":
        content["task"] = {"task.seed": content["params"].pop("task.seed")}
    assert content.keys() <= earlier.keys() | {
        "parent_key",
        "started",
        "ended",
        "name",
        "artifacts",
    }
    path.write_text(json.dumps({**earlier, **content}))
    assert spool.load(path) == replace(told, artifacts=[])
    path.write_text(json.dumps({"kind": "poem"}))
    with pytest.raises(KeyError):
        spool.load(path)


def test_a_key_holds_the_code_that_decides_bytes_and_no_other(tmp_path: Path) -> None:
    """A copy of the project's own code, with a comment here and there."""
    for room in ("webdistill", "stages"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, tmp_path / room, ignore=ignored)
    key = spool.experiment_key({}, tmp_path)
    assert key == spool.experiment_key({}, ROOT)
    for room in closure.WATCHING:
        for path in (tmp_path / room).rglob("*.py"):
            path.write_text(f"{path.read_text()}\n# a comment\n")
        (tmp_path / room).mkdir(exist_ok=True)
        (tmp_path / room / "new.py").write_text("# a new file\n")
    assert spool.experiment_key({}, tmp_path) == key
    keys = {key}
    for room in (
        "stages/distill",
        "webdistill/models/families",
        "webdistill/core",
        "webdistill/web",
    ):
        (tmp_path / room / "new.py").write_text("# a new file\n")
        keys.add(spool.experiment_key({}, tmp_path))
    assert len(keys) == 5


def test_a_key_holds_all_code_that_a_stage_depends_on() -> None:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"].values()
    code = {
        dep for spec in stages for dep in spec["deps"] if dep.startswith(("stages", "webdistill"))
    }
    assert code
    assert not [dep for dep in code if not any(Path(dep).is_relative_to(c) for c in spool.CODE)]


def test_name_key_and_project_root(tmp_path: Path) -> None:
    params = record().parent_params
    assert spool.run_name(record()) == "3fa2c1 · kd wrn-16-1"
    key = spool.experiment_key(params, tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "a.py").write_text("pass")
    assert key == spool.experiment_key(dict(reversed(params.items())), tmp_path / "stages")
    assert key != spool.experiment_key(params, tmp_path)
    assert spool.project_root(tmp_path / ".dvc" / "tmp" / "exps" / "tmpx1") == tmp_path.resolve()
    assert spool.project_root(tmp_path) == tmp_path.resolve()
