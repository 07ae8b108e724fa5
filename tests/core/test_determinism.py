"""What a stage's numerical libraries are told before they are loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from webdistill.core.determinism import SPINS, VARIABLES, prepare

ROOT = Path(__file__).parents[2]
STAGE = """
import sys
from webdistill.harness.stage import run
def main(stage):
    assert "torch" not in sys.modules
    import torch
run("select", main, ["--params", sys.argv[1]])
"""


def test_threads_of_a_stage_spin_briefly_while_they_wait(tmp_path: Path) -> None:
    """OpenMP itself says what it has read, when torch loads it."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WEBDISTILL_TRACKING": "off",
        "OMP_DISPLAY_ENV": "verbose",
        "OMP_NUM_THREADS": "7",
    }
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", STAGE, str(ROOT / "params.yaml")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(re.findall(r"OMP_WAIT_POLICY = '(\w+)'", done.stderr)) == {"PASSIVE"}
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)) == {str(SPINS)}
    assert set(re.findall(r"OMP_NUM_THREADS = '(\w+)'", done.stderr)) == {"2"}, "task.threads"


def test_threads_of_a_command_spin_briefly_as_well() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose"}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "webdistill", "doctor", "--engine", "local"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)) == {str(SPINS)}


@pytest.mark.parametrize("wish", ["ACTIVE", "PASSIVE"])
def test_a_user_may_ask_for_threads_that_wait_otherwise(
    monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")  # and back to what it was
    monkeypatch.setenv("OMP_WAIT_POLICY", wish)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    prepare(1, 0)
    assert os.environ["OMP_WAIT_POLICY"] == wish
    assert "GOMP_SPINCOUNT" not in os.environ
