"""A dvc.lock that another DVC is writing is read when it is whole."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from webdistill.core.errors import UserError
from webdistill.harness.dvc_lock import read_lock
from webdistill.harness.recorded import check_recorded

TEXT = "schema: '2.0'\nstages: {}\n"
WRITER = """
import sys, time
import zc.lockfile
lock = zc.lockfile.LockFile(sys.argv[1])
with open(sys.argv[2], "w") as file:
    file.write("schema: '2.0'")
    file.flush()
    print("half", flush=True)
    time.sleep(0.5)
    file.write("\\nstages: {}\\n")
lock.close()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / ".dvc" / "tmp" / "lock").touch()
    return tmp_path


def test_half_a_file_is_never_seen(root: Path) -> None:
    """With the lock that DVC itself takes."""
    paths = [str(root / ".dvc" / "tmp" / "lock"), str(root / "dvc.lock")]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, *paths], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer, writer.stdout:
        assert writer.stdout.readline() == "half\n"
        assert read_lock(root / "dvc.lock", root) == TEXT


def test_patience_has_an_end(root: Path) -> None:
    (root / "dvc.lock").write_text("half")
    with (root / ".dvc" / "tmp" / "lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        begun = time.monotonic()
        assert read_lock(root / "dvc.lock", root, 0.2) == "half"
        assert 0.2 <= time.monotonic() - begun < 10


def test_readers_do_not_wait_for_each_other(root: Path) -> None:
    (root / "dvc.lock").write_text(TEXT)
    with (root / ".dvc" / "tmp" / "lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        found: list[str] = []
        reader = threading.Thread(
            target=lambda: found.append(read_lock(root / "dvc.lock", root, 60.0))
        )
        reader.start()
        reader.join(10)
        assert found == [TEXT]


def test_where_dvc_never_ran_nothing_is_waited_for(tmp_path: Path) -> None:
    assert not read_lock(tmp_path / "dvc.lock", tmp_path)
    (tmp_path / "dvc.lock").write_text(TEXT)
    assert read_lock(tmp_path / "dvc.lock", tmp_path) == TEXT


def test_a_lock_that_is_no_yaml_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "filter")
    (root / "dvc.lock").write_text("stages: {a: [\n")
    (root / "input").touch()
    with pytest.raises(UserError, match=r"dvc\.lock is no YAML .*; git has the last good one"):
        check_recorded(root, root / "input")
