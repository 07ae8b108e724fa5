"""A stage on a real disk that is full (promise S5)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Mounts a disk that nobody else sees, runs a stage on it while it is full and once more when there is room.
PROGRAM = """
import contextlib, io, json, os, shutil, subprocess, sys
from pathlib import Path
from webdistill.harness.stage import run

at = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=64", "tmpfs", "small"], check=True)
shutil.copy("params.yaml", "small")
os.chdir("small")
ballast = Path("ballast")
ballast.mkdir()

def fill():
    with contextlib.suppress(OSError), (ballast / "bytes").open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass
    with contextlib.suppress(OSError):
        for number in range(64):
            (ballast / str(number)).touch()

def main(stage):
    with stage.output("a.txt") as path:
        path.write_text("a")
        if at != "before" and ballast.exists():
            fill()
        if at == "main" and ballast.exists():
            path.write_bytes(bytes(100_000))
    stage.metrics({"count": 1})

def code():
    try:
        run("select", main, [])
    except SystemExit as error:
        return error.code

if at == "before":
    fill()
with contextlib.redirect_stderr(io.StringIO()) as said:
    full = code()
made = Path("data/select/a.txt").exists()
shutil.rmtree(ballast)
print(json.dumps([full, said.getvalue(), made, code(), Path("data/select/a.txt").read_text()]))
"""


@pytest.fixture(scope="module")
def mounting(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What to put before a command that mounts something."""
    folder = tmp_path_factory.mktemp("empty")
    for prefix in (["unshare", "-Urm"], ["unshare", "-m"]):
        mount = [*prefix, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
        if shutil.which("unshare") and not subprocess.run(mount, capture_output=True).returncode:
            return prefix
    pytest.skip("this user may not mount a small disk")


@pytest.mark.parametrize("at", ["before", "main", "publish"])
def test_a_full_disk_is_one_line_and_the_next_run_succeeds(
    tmp_path: Path, mounting: list[str], at: str
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "small").mkdir()
    done = subprocess.run(
        [*mounting, sys.executable, "-c", PROGRAM, at],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    full, said, made, again, text = json.loads(done.stdout)
    assert (full, made) == (2, False)
    (line,) = said.splitlines()
    assert line.startswith("select: error: the disk of ")
    assert "is full (No space left on device); make room and run the same command again" in line
    assert (again, text) == (0, "a")
