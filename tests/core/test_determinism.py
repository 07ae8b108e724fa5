"""What a stage's numerical libraries are told before they are loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from webdistill.core.determinism import SPINS

ROOT = Path(__file__).parents[2]
STAGE = """
import sys
from webdistill.harness.stage import run
def main(stage):
    assert "torch" not in sys.modules
    import torch
run("select", main, ["--params", sys.argv[1]])
"""


@pytest.mark.parametrize(
    ("wish", "policy", "spins"),
    [(None, "PASSIVE", str(SPINS)), ("ACTIVE", "ACTIVE", None), ("PASSIVE", "PASSIVE", "0")],
)
def test_threads_of_a_stage_spin_briefly_while_they_wait_unless_asked_otherwise(
    tmp_path: Path, wish: str | None, policy: str, spins: str | None
) -> None:
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
    if wish is not None:
        environment["OMP_WAIT_POLICY"] = wish
    done = subprocess.run(
        [sys.executable, "-c", STAGE, str(ROOT / "params.yaml")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(re.findall(r"OMP_WAIT_POLICY = '(\w+)'", done.stderr)) == {policy}
    if spins is not None:
        assert set(re.findall(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)) == {spins}
    assert set(re.findall(r"OMP_NUM_THREADS = '(\w+)'", done.stderr)) == {"2"}, "task.threads"
