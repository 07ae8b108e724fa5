"""The stage `distill` with two processes: its outputs, a kill of either, and its one run in MLflow."""

from __future__ import annotations

import json
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
import torch

from stages.distill.processes import of_this_machine
from tests.stages import test_distill_phases as phases
from webdistill.core.errors import UserError
from webdistill.core.files import remove
from webdistill.tracking import flush, store

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader:DeprecationWarning",  # MLflow 3.17 beside SQLAlchemy 2.1
    "ignore:Operation with range:DeprecationWarning",
)
finished, project = phases.finished, phases.project
ROOT = phases.YAML.parent
TWO: dict[str, Any] = {"method": "kd3", "epochs": 4, "batch_size": 8, "processes": 2}
# `python -m stages.distill` with a state after every epoch; its other process is killed after the second.
KILLED = """
import os, signal
import psutil
from stages.distill import training
from stages.distill.__main__ import main
from webdistill.harness.stage import run

training.SAVE_EVERY = 0.0
save, saved = training.checkpoint.save, []

def noted(run, place):
    save(run, place)
    saved.append(place)
    if len(saved) == 2:
        (other,) = [each for each in psutil.Process().children() if "stages.distill.rank" in each.cmdline()]
        other.send_signal(signal.SIGKILL)

training.checkpoint.save = noted
run("distill", main)
"""


def command(*program: str, **changes: Any) -> list[str]:
    named = phases.SETTINGS | {f"distill.{key}": value for key, value in changes.items()}
    chosen = [f"--set={key}={json.dumps(value)}" for key, value in named.items()]
    return [sys.executable, *program, f"--params={phases.YAML}", *chosen]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "WEBDISTILL_TRACKING": "off", **variables}


def outputs() -> dict[str, bytes]:
    found = sorted(path for path in Path("data/distill").rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found}


def trained(**changes: Any) -> dict[str, bytes]:
    phases.run_stage(**changes)
    return outputs()


@pytest.mark.usefixtures("project")
@pytest.mark.slow
def test_a_killed_process_ends_the_stage_in_one_line_and_the_next_run_resumes_bit_for_bit(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, blank: Path
) -> None:
    """Two runs have equal bytes, and encoded images give those of images in memory. MLflow has one run of the stage."""
    whole = trained(**TWO, images="encoded")
    one = trained(**TWO | {"processes": 1})
    student = str(phases.STUDENT)
    assert whole[student] != one[student], "float32 sums over two processes round otherwise"
    remove(Path("data/distill"))
    begun = time.monotonic()
    Path(".work/spool").mkdir(parents=True)
    with flush.locked(
        Path(".work/spool"), 60
    ):  # what the stage starts in the background finds nothing to do
        done = subprocess.run(
            command("-c", KILLED, **TWO), env=environment(WEBDISTILL_TRACKING=""), capture_output=True, text=True
        )  # fmt: skip
    assert time.monotonic() - begun < 60
    assert done.returncode == 2, done.stderr
    (line,) = [each for each in done.stderr.splitlines() if "error" in each]
    assert line == (
        "distill: error: process 2 of 2 has ended by SIGKILL, perhaps for want of memory; the same command resumes "
        "from the last saved epoch"
    )
    assert "Traceback" not in done.stderr
    assert not outputs()
    monkeypatch.delenv("WEBDISTILL_TRACKING")
    shutil.copy(blank, "mlflow.db")
    assert flush.flush(Path(".work/spool")) == 0
    place = store.connect(Path.cwd())
    runs = place.client.search_runs([place.experiment])
    found = [
        (run.info.run_name, run.info.status) for run in runs if store.PARENT_TAG in run.data.tags
    ]
    assert [status for name, status in found if name == "distill"] == ["FAILED"]
    (run,) = [run for run in runs if run.info.run_name == "distill"]
    assert run.data.params["distill.processes"] == "2"
    capfd.readouterr()
    assert trained(**TWO) == whole
    told = capfd.readouterr().err
    assert told.count("continues after epoch 2 of 4") == 1, "one process speaks"
    assert told.count("2 processes train together, 4 images each") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_the_others_end_with_the_stage(how: signal.Signals, code: int) -> None:
    stage = subprocess.Popen(
        command("-m", "stages.distill", **TWO | {"epochs": 5000}),
        env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert stage.stderr is not None
    others: list[psutil.Process] = []
    while not others:
        assert stage.poll() is None, stage.stderr.read()
        others = psutil.Process(stage.pid).children()
        time.sleep(0.05)
    (other,) = others
    while stage.poll() is None and not other.num_threads() > 1:  # it has begun to work
        time.sleep(0.05)
    for each in (stage.pid, other.pid) if how == signal.SIGINT else (stage.pid,):
        os.kill(each, how)  # a Ctrl-C reaches all
    assert stage.wait(timeout=30) == code
    _, alive = psutil.wait_procs([other], timeout=30)
    assert not alive
    told = stage.communicate()[1]
    assert "Traceback" not in told
    assert ("stopped; the same command resumes" in told) == (how == signal.SIGINT)


def test_as_many_processes_as_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = phases.stage_of(**TWO | {"processes": "gpus"}).params
    with pytest.raises(UserError, match="processes = gpus, but training is on the CPU"):
        of_this_machine(settings, torch.device("cpu"))
    for present in (1, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda it=present: it)
        assert of_this_machine(settings, torch.device("cuda")) == present
    for present, fault in (
        (3, "batch_size = 8 does not divide by processes = 3"),
        (8, "kd3.contrast_share"),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda it=present: it)
        with pytest.raises(UserError, match=fault):
            of_this_machine(settings, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    two = phases.stage_of(**TWO).params
    with pytest.raises(
        UserError, match="distill.processes = 2, but torch sees 1 CUDA device, one for each"
    ):
        of_this_machine(two, torch.device("cuda"))
