"""A stage ends with the DVC that runs it, whatever shell is between them; Ctrl-C is one line at any moment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
# A stage of the main pipeline under its own name whose work is to wait.
STAGE = """
import sys, time
from webdistill.harness.stage import run
def main(stage):
    print("works", flush=True)
    time.sleep(600)
run("select", main, ["--params", sys.argv[1]])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "wait.py").write_text(STAGE)
    cmd = f"{sys.executable} wait.py {ROOT / 'params.yaml'} >> said.txt 2>&1"
    (tmp_path / "dvc.yaml").write_text(
        f"stages:\n  select:\n    cmd: {cmd}\n    deps: [wait.py]\n    outs: [out.txt]\n"
    )
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True
    )
    return tmp_path


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "WEBDISTILL_TRACKING": "off", **changes}


def wait_for(text: str, path: Path) -> None:
    limit = time.monotonic() + 120
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < limit, path.read_text() if path.exists() else "nothing was said"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_when_dvc_alone_is_killed(
    project: Path, shell: str, number: signal.Signals
) -> None:
    """With the redirection in the command, both shells stay between DVC and the stage."""
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"], cwd=project, env=environment(SHELL=shell),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_for("works", project / "said.txt")
    below = psutil.Process(dvc.pid).children(recursive=True)
    (stage,) = [each for each in below if "wait.py" in each.cmdline()]
    assert len(below) == 2, "a shell is between them"
    dvc.send_signal(number)
    dvc.wait(60)
    gone, alive = psutil.wait_procs([stage], timeout=60)
    assert gone
    assert not alive


CLEANING = """
import time
from webdistill.harness.lifetime import die_with_parent
die_with_parent()
try:
    print("works", flush=True)
    time.sleep(600)
finally:
    print("cleans", flush=True)
    time.sleep(0.5)
    print("cleaned", flush=True)
"""


def test_a_second_sigterm_does_not_cut_the_cleaning_up_short() -> None:
    """Two come when a parent ends: from the kernel and from the thread that waits for DVC."""
    with subprocess.Popen(
        [sys.executable, "-c", CLEANING], env=environment(), stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        for said in ("works\n", "cleans\n"):
            assert program.stdout.readline() == said
            program.send_signal(signal.SIGTERM)
        assert program.stdout.readline() == "cleaned\n"
    assert program.returncode == 143


def contained(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as process 1 of a new PID namespace: that of a container."""
    new = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*new, "true"], check=False).returncode:
        pytest.skip("no PID namespaces here")
    return subprocess.run(
        [*new, *command], capture_output=True, text=True, timeout=120, check=False, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_dvc_may_be_the_first_process_of_a_container(project: Path, shell: str) -> None:
    (project / "wait.py").write_text(STAGE.replace("time.sleep(600)", "open('out.txt', 'w')"))
    done = contained(
        [sys.executable, "-m", "dvc", "repro"], cwd=project, env=environment(SHELL=shell)
    )
    assert done.returncode == 0, done.stderr + (project / "said.txt").read_text()


def test_a_stage_may_be_the_first_process_of_a_container(tmp_path: Path) -> None:
    """Then its parent has no number that it could know: `docker run IMAGE python -m stages.select`, `docker exec`."""
    (tmp_path / "wait.py").write_text(STAGE.replace("time.sleep(600)", "pass"))
    program = [sys.executable, "wait.py", str(ROOT / "params.yaml")]
    done = contained(program, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr


IMPORTING = """
import os, runpy, signal, sys
wanted, program = sys.argv[1:]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = [program]
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "importing"),
    [
        ("stages.select", "stages.select.params"),
        ("stages.select", "ruamel.yaml"),
        ("stages.distill", "torch"),
        ("stages.evaluate", "pydantic.main"),
        ("webdistill", "webdistill.commands.fit.command"),
        ("webdistill.tracking.flush", "mlflow"),
        ("pipelines.shared.cell", "webdistill.harness.params"),
    ],
)
def test_ctrl_c_while_importing_is_one_line(tmp_path: Path, program: str, importing: str) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / ".work/spool").mkdir(parents=True)
    (tmp_path / ".work/spool/record.json").touch()  # for the flush to begin with
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, importing, program],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "stopped" in done.stderr
