"""A real MLflow server on this machine, with artifacts and model registry."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def starting(home: Path, blank: Path) -> Iterator[Callable[[], str]]:
    """Start it in the folder `home` on a copy of an empty database. -> what waits until it answers, for its address"""
    port = free_port()
    shutil.copy(blank, home / "server.db")
    options = ["--backend-store-uri", f"sqlite:///{home}/server.db", "--port", str(port)]
    options += ["--artifacts-destination", str(home / "artifacts"), "--workers", "1"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            cwd=home,
            env={**os.environ, **QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield lambda: _answering(f"http://127.0.0.1:{port}", process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answering(address: str, process: subprocess.Popen[bytes]) -> str:
    limit = time.monotonic() + 90
    while time.monotonic() < limit and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return address
        except OSError:
            time.sleep(0.2)
    pytest.fail("the tracking server did not start")
