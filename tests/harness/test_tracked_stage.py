"""K1, seen from a stage: the outputs are the same and nobody waits for the tracking server.

What the flush does about servers that are gone or fail stands in test_tracking: the stage only starts it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.stages.test_select import make_cell, make_ids, make_logits

ROOT = Path(__file__).parents[2]
SELECT = [
    sys.executable, "-m", "stages.select", "--set", "task.classes=[cat, dog, eel]", "--set", "select.budget=12",
    "--set", "select.allow_empty_classes=true", "--set", "distill.batch_size=8", "--set", "prototypes.count=4",
]  # fmt: skip
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_TIMEOUT": "200"}


@contextmanager
def hanging() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, never answers
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    dropped = dict.fromkeys(make_ids(5), "low_score")
    make_cell(tmp_path / "data", make_logits(60), np.arange(60), 25, dropped)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def selected(project: Path, **variables: str) -> dict[str, bytes]:
    """Run the stage. -> its outputs, which are removed"""
    done = subprocess.run(
        SELECT,
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), **QUIET, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    outputs = {path.name: path.read_bytes() for path in (project / "data/select").iterdir()}
    for name in outputs:
        (project / "data/select" / name).unlink()
    return outputs


def flushes(project: Path) -> list[psutil.Process]:
    """What a stage of the project has started in the background; with a hanging server it lives for two minutes."""
    folder = str((project / ".work" / "spool").resolve())
    return [
        each for each in psutil.process_iter(["cmdline"]) if folder in (each.info["cmdline"] or [])
    ]


def test_whatever_the_server_does_a_stage_has_the_same_outputs_and_does_not_wait(
    project: Path,
) -> None:
    expected = selected(project, WEBDISTILL_TRACKING="off")
    assert set(expected) == {"selection.parquet", "metrics.json"}
    with hanging() as address:
        try:
            found = selected(project, WEBDISTILL_TRACKING="", MLFLOW_TRACKING_URI=address)
            assert found == expected
            assert flushes(project), "the stage has waited for the flush"
        finally:
            for process in flushes(project):
                process.kill()
    assert len(list((project / ".work" / "spool").glob("*.json"))) == 1
