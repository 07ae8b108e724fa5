"""K1: a dead, slow or failing tracking server costs nothing and loses nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.harness.records import record
from tests.tracking_server import free_port, starting
from webdistill.harness import spool
from webdistill.tracking import flush, store

ROOT = Path(__file__).resolve().parents[2]
# MLflow 3.17 beside SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flusher sets variables; these return to what they were."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_TRACKING_USERNAME": "",
        "MLFLOW_TRACKING_PASSWORD": "",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WEBDISTILL_TRACKING"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".work" / "spool"


@pytest.fixture
def local(folder: Path, blank: Path) -> Path:
    """A spool folder in a project whose store exists."""
    folder.mkdir(parents=True)
    target = folder.parent.parent / "mlflow.db"
    with closing(sqlite3.connect(blank)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    return folder


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Iterator[Callable[[], str]]:
    """A real server, which starts while other tests run."""
    with starting(tmp_path_factory.mktemp("server"), blank) as answering:
        yield answering


@pytest.fixture
def server(answering: Callable[[], str]) -> str:
    return answering()


def run_flush(folder: Path) -> int:
    return flush.main(["--folder", str(folder), "--wait", "300"])


def runs(folder: Path) -> tuple[Any, list[Any], list[Any]]:
    """-> client, parent runs, child runs"""
    place = store.connect(folder.parent.parent)
    client = place.client
    every = client.search_runs([place.experiment])
    parents = [run for run in every if store.PARENT_TAG not in run.data.tags]
    return client, parents, [run for run in every if run not in parents]


@pytest.mark.slow
def test_two_may_make_the_database_at_the_same_time(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from webdistill.tracking import store;"
        "print(store.connect(Path.cwd()).experiment)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert len({output for output, _ in answers}) == 1


def test_a_flush_cut_short_is_completed_without_duplicates(
    local: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = spool.write(record(), local)
    with monkeypatch.context() as patch:
        patch.setattr(store, "log_data", lambda *_, **__: 1 / 0)
        assert run_flush(local) == 1
    assert path.exists()
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert run_flush(local) == 0
    client, (parent,), (child,) = runs(local)
    assert child.info.status == parent.info.status == "FINISHED"
    assert len(client.get_metric_history(child.info.run_id, "loss")) == 1500


@pytest.mark.slow
def test_a_kill_while_the_database_is_made_breaks_no_later_flush(folder: Path) -> None:
    """MLflow makes it in many steps, and cannot go on from between two of them."""
    path = spool.write(record(), folder)
    command = [sys.executable, "-m", "webdistill.tracking.flush", "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while tables(folder.parent.parent) < 20:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert path.exists()
    assert run_flush(folder) == 0
    _, (parent,), (child,) = runs(folder)
    assert child.info.status == parent.info.status == "FINISHED"
    assert not list(folder.parent.parent.glob("mlflow.db?*"))


def tables(root: Path) -> int:
    """Of the fullest database in a folder."""
    found = [0]
    for file in root.glob("mlflow.db*"):
        with contextlib.suppress(sqlite3.Error):
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as base:
                found += base.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return max(found)


@pytest.fixture(params=["database", pytest.param("server", marks=pytest.mark.slow)])
def live(request: pytest.FixtureRequest, tmp_path: Path, blank: Path) -> str:
    """Address of a store that answers."""
    if request.param == "server":
        return str(request.getfixturevalue("server"))
    shutil.copy(blank, tmp_path / "elsewhere.db")
    return f"sqlite:///{tmp_path / 'elsewhere.db'}"


class Failing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_failing_server_keeps_the_spool(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = spool.write(record(), folder)
    kept = path.read_text()
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as failing:
        threading.Thread(target=failing.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{failing.server_address[1]}")
        assert run_flush(folder) == 1
        failing.shutdown()
    assert path.read_text() == kept
    assert "1 record waits" in capfd.readouterr().err


def test_dead_server_keeps_the_spool_then_a_live_one_gets_it_once(
    folder: Path, live: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    artifact = folder.parent / "picture.png"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(b"png")
    path = spool.write(record(artifacts=[artifact]), folder)
    kept = path.read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:pa55word@127.0.0.1:{free_port()}")
    assert run_flush(folder) == 1
    assert path.read_text() == kept
    message = capfd.readouterr().err
    assert "1 record waits" in message
    assert "pa55word" not in message
    monkeypatch.setenv("MLFLOW_TRACKING_URI", live)
    for _ in range(2):
        assert run_flush(folder) == 0
        client, (parent,), (child,) = runs(folder)
        assert len(client.get_metric_history(child.info.run_id, "loss")) == 1500
        assert parent.data.metrics["distill.loss-_end"] == 0.5
        assert len(child.inputs.dataset_inputs) == 2
        assert [each.path for each in client.list_artifacts(child.info.run_id)] == ["picture.png"]
        path.write_text(kept)
    assert not (folder.parent.parent / "mlflow.db").exists()


def test_a_hanging_server_costs_a_stage_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # accepts, never answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{hanging.getsockname()[1]}")
        path = spool.write(record(), folder)
        process = spool.launch_flush(folder, seconds=2)
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "nobody has waited for it"
        assert os.waitpid(process, 0)[1] != 0, "it has ended itself"
    assert path.exists()
    assert "out of time" in (folder / "flush.log").read_text()


def test_a_flush_at_work_is_not_cut_short(local: Path) -> None:
    """Its seconds are those of waiting for a server: on a busy machine its own work takes longer."""
    for stage in ["distill", "report"] * 2:
        spool.write(record(stage), local)
    begun = time.monotonic()
    process = spool.launch_flush(local, seconds=1)
    status, took = os.waitpid(process, 0)[1], time.monotonic() - begun
    assert status == 0, (local / "flush.log").read_text()
    assert took > 1
    assert not list(local.glob("*.json"))


def test_submit_never_raises_and_can_be_switched_off(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(spool, "launch_flush", started.append)
    spool.submit(record(), folder)
    assert started == [folder]
    assert len(list(folder.glob("*.json"))) == 1
    spool.submit_all([record(), record("report")], folder)
    assert started == [folder] * 2
    assert len(list(folder.glob("*.json"))) == 3
    (tmp_path / "file").write_text("in the way")
    spool.submit(record(), tmp_path / "file" / ".work" / "spool")
    assert "not tracked" in capsys.readouterr().err
    monkeypatch.setenv("WEBDISTILL_TRACKING", "off")
    spool.submit(record(), folder)
    assert len(list(folder.glob("*.json"))) == 3


def test_only_one_flush_at_a_time(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spool.write(record(), folder)
    with flush.locked(folder, 0) as mine, flush.locked(folder, 0.2) as other:
        assert (mine, other) == (True, False)
        assert flush.main(["--folder", str(folder), "--wait", "0"]) == 1
    assert "another flush is at work" in capfd.readouterr().err
