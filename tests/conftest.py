"""Shared fixtures: a stage that runs in an empty folder, and the switch that keeps tests off the tracking store."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from webdistill.core.determinism import spin_briefly

if TYPE_CHECKING:
    from tests.small_project import Project

spin_briefly()  # else two threads of one worker keep the other worker waiting
os.environ.setdefault("WEBDISTILL_TRACKING", "off")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background job ignores it, and so would all it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


gc.disable()  # until all tests are known: what is imported stays


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """`make(folder)` in the first of pytest-xdist's workers that needs it; the others wait. -> the folder"""
    place = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    folder, done = place / name / "project", place / name / "done"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


def pytest_collection_finish() -> None:
    """To look for garbage among a million objects that stay takes an eighth of the processor time."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that makes the small project comes first: no other worker needs it so early, so none waits for it."""
    items.sort(key=lambda item: item.path.name != "test_keys.py")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The real pipeline after `dvc repro` on a few candidates, committed. Shared: change a copy, `Project.copy`."""
    from tests.small_project import Project, create

    def make(root: Path) -> None:
        project = create(root)
        project.run("dvc", "repro")
        project.run("git", "add", "-A")
        project.run("git", "commit", "-q", "-m", "First run")

    made = Project(once(tmp_path_factory, "small_project", make))
    return made.copy(tmp_path_factory.mktemp("small") / "project")  # DVC locks the folder it is in


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow makes it at first use, which takes seconds; no experiment is in it yet. Shared: copy it."""

    def make(folder: Path) -> None:
        from mlflow import MlflowClient

        folder.mkdir()
        MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}").search_experiments()

    return once(tmp_path_factory, "blank", make) / "mlflow.db"
