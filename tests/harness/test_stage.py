"""The harness: outputs whole or absent, exit codes, locks, cells."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from webdistill.core import files
from webdistill.core.errors import UserError
from webdistill.harness import params, spool
from webdistill.harness.dvc_hash import dvc_hash
from webdistill.harness.records import StageRun
from webdistill.harness.stage import Stage, run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("webdistill.harness.stage.die_with_parent", lambda: None)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def code(main: Callable[[Stage], None], *argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run("select", main, list(argv))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_outputs_appear_together_at_the_end(place: Path) -> None:
    def main(stage: Stage) -> None:
        with stage.output("a.txt") as path:
            path.write_text("a")
        with stage.output("folder") as path:
            path.mkdir()
            (path / "b").write_text("b")
        assert not (place / "data").exists()
        stage.metrics({"count": 2})

    assert code(main) == 0
    assert (place / "data/select/a.txt").read_text() == "a"
    assert "b" in json.loads((place / "data/select/folder/manifest.json").read_text())
    assert json.loads((place / "data/select/metrics.json").read_text()) == {"count": 2}


@pytest.mark.parametrize(
    "error", [UserError("bad key"), ValueError("a defect"), KeyboardInterrupt()]
)
def test_a_failure_leaves_nothing_half_written(
    place: Path, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def main(stage: Stage) -> None:
        with stage.output("a.txt") as path:
            path.write_text("a")
        raise error

    assert code(main) == {UserError: 2, ValueError: 1, KeyboardInterrupt: 130}[type(error)]
    assert not (place / "data").exists()
    assert not (place / ".work/select/out").exists()
    if isinstance(error, UserError):
        assert capsys.readouterr().err == "select: error: bad key\n"
    if isinstance(error, KeyboardInterrupt):
        assert capsys.readouterr().err == "select: stopped; the same command resumes from here\n"


@pytest.mark.parametrize("refused", ["mkdir", "open"])
def test_a_disk_that_is_full_beforehand_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: str
) -> None:
    allowed = getattr(Path, refused)

    def full(path: Path, *args: Any, **named: Any) -> Any:
        if ".work" in path.absolute().parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return allowed(path, *args, **named)

    ran: list[Stage] = []
    with monkeypatch.context() as patch:
        patch.setattr(Path, refused, full)
        assert code(ran.append) == 2
    assert not ran
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("select: error: the disk of ")
    assert "is full (No space left on device)" in said
    assert code(ran.append) == 0


def test_missing_inputs_say_which_stage_makes_them(place: Path) -> None:
    stage = Stage("select", params.load(Path("params.yaml")), None)
    with pytest.raises(UserError, match=r"kept\.parquet does not exist; run `dvc repro filter`"):
        stage.input("data/filter/kept.parquet")
    with pytest.raises(
        UserError, match=r"mine\.csv does not exist; check the path in params\.yaml"
    ):
        stage.input("mine.csv")


def test_an_input_that_dvc_yaml_does_not_name_stops_the_stage(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "dvc.yaml", place)
    for name in ("mine.csv", "data/filter/kept.parquet", "data/score/teacher/a", "tests.parquet"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("a")
    files.write_manifest(place / "data/score/teacher")

    def reading(*names: str) -> Callable[[Stage], None]:
        return lambda stage: [stage.input(name) for name in names] and None

    monkeypatch.setenv("DVC_STAGE", "select")
    assert code(reading("data/filter/kept.parquet", "data/score/teacher/a")) == 0
    capsys.readouterr()
    assert code(reading("data/filter/kept.parquet", "mine.csv")) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("select: error: stage 'select' reads mine.csv, which is none of its")
    assert code(reading("tests.parquet")) == 2
    monkeypatch.delenv("DVC_STAGE")  # by hand a stage may read what it likes
    assert code(reading("mine.csv")) == 0

    monkeypatch.setenv("DVC_STAGE", "filter")  # which names its test images by a parameter
    named = params.load(Path("params.yaml"), ["task.test_images=tests.parquet"])
    Stage("filter", named, None).input("tests.parquet")
    with pytest.raises(UserError, match=r"stage 'filter' reads mine\.csv"):
        Stage("filter", named, None).input("mine.csv")


def test_a_cell_prefers_its_own_inputs_and_keeps_its_outputs(place: Path) -> None:
    for base, text in (("data", "main"), ("cells/x", "own")):
        (place / base / "filter").mkdir(parents=True)
        (place / base / "filter/kept.parquet").write_text(text)
    (place / "data/score").mkdir()
    (place / "data/score/only").write_text("main")

    def main(stage: Stage) -> None:
        assert stage.input("data/filter/kept.parquet").read_text() == "own"
        assert stage.input("data/score/only").read_text() == "main"
        assert stage.task.seed == 5

    assert code(main, "--cell", "cells/x", "--set", "task.seed=5") == 0
    assert (place / "cells/x/select/metrics.json").exists()
    assert not (place / "data/select").exists()
    assert not (place / "cells/x/.work").exists()


def test_a_cell_takes_earlier_outputs_from_the_folder_named(place: Path) -> None:
    for base in ("data", "pool", "cells/x"):
        (place / base / "filter").mkdir(parents=True)
        (place / base / "filter/kept.parquet").write_text(base)
    (place / "cells/x/filter/kept.parquet").rename(place / "cells/x/filter/dropped.parquet")
    (place / "data/quickstart").mkdir()
    (place / "data/quickstart/card").write_text("the user's own")
    seen: dict[str, str] = {}

    def main(stage: Stage) -> None:
        assert stage.input("data/filter/kept.parquet").read_text() == "pool"
        assert stage.input("data/filter/dropped.parquet").read_text() == "cells/x"
        assert stage.input("data/quickstart/card").read_text() == "the user's own"
        seen.update(stage.inputs)

    assert code(main, "--cell", "cells/x", "--from", "pool") == 0
    read = ["pool/filter/kept.parquet", "cells/x/filter/dropped.parquet", "data/quickstart/card"]
    assert list(seen) == read


def test_what_the_folder_named_lacks_is_not_taken_from_the_main_pipeline(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "data/filter").mkdir(parents=True)
    (place / "data/filter/kept.parquet").write_text("main")

    def main(stage: Stage) -> None:
        stage.input("data/filter/kept.parquet")

    assert code(main, "--cell", "cells/x", "--from", "pool") == 2
    expected = "pool/filter/kept.parquet does not exist; make it first, or check --from"
    assert capsys.readouterr().err == f"select: error: {expected}\n"
    assert code(main, "--from", "pool") == 2
    assert "--from is for cells" in capsys.readouterr().err


def test_a_folder_from_elsewhere_is_checked_against_its_manifest(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "pool/score/teacher").mkdir(parents=True)
    (place / "pool/score/teacher/a").write_text("a")
    files.write_manifest(place / "pool/score/teacher")

    def main(stage: Stage) -> None:
        stage.input("data/score/teacher")

    assert code(main, "--cell", "cells/x", "--from", "pool") == 0
    (place / "pool/score/teacher/a").write_text("b")
    assert code(main, "--cell", "cells/x", "--from", "pool") == 2
    assert "pool/score/teacher/a was altered" in capsys.readouterr().err


def test_a_manifest_in_a_folder_of_the_users_is_not_believed(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine/a").write_text("a")
    files.write_manifest(place / "mine")
    (place / "mine/a").write_text("b")
    stage = Stage("select", params.load(Path("params.yaml")), None)
    stage.input("mine")
    assert stage.hashes["mine"] == dvc_hash(place / "mine", place, afresh=True)
    assert stage.hashes["mine"] != dvc_hash(place / "mine", place)


def test_two_runs_of_one_stage_do_not_share_a_folder(place: Path) -> None:
    def inner(_stage: Stage) -> None:
        raise AssertionError("must not start")

    def outer(_stage: Stage) -> None:
        assert code(inner) == 2

    assert code(outer) == 0


def test_a_published_output_can_be_an_artifact(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[StageRun] = []
    monkeypatch.setattr(spool, "submit", lambda record, _folder: records.append(record))

    def main(stage: Stage) -> None:
        stage.input("params.yaml")
        with stage.output("page.html") as path:
            path.write_text("x")
            stage.artifact(path)
        stage.picture("sheet.png", b"png")
        stage.curve("loss", 0.5, 1)
        stage.track_metrics({"rate": 3.0})

    assert code(main) == 0
    (record,) = records
    assert [p.read_bytes() for p in record.artifacts] == [b"x", b"png"]
    assert record.status == "FINISHED"
    assert set(record.inputs) == {"params.yaml"}
    assert set(record.outputs) == {"data/select/page.html", "data/select/metrics.json"}
    assert record.curves == {"loss": [(1, 0.5)]}
    assert record.track_metrics["rate"] == 3
    assert all(key.split(".")[0] in ("select", "task") for key in record.params)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_stage_dies_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    child = (
        "import time, pathlib, os\n"
        "from webdistill.harness.stage import run\n"
        "def main(stage):\n"
        "    pathlib.Path('pid').write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "run('select', main, [])\n"
    )
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent, child],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    while _alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
