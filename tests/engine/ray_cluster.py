"""A Ray cluster of this machine: a head with one CPU, and further raylets that come and go.

It lives in a network of its own, which has a loopback device and nothing else. Where this user may make none, it lives
on the loopback addresses 127.0.0.2 and 127.0.0.3. A token is asked of whoever speaks to it in any case.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

HEAD, SECOND = "127.0.0.2", "127.0.0.3"
PORT = 6399
STARTS = 5
SECONDS = 240  # for anything to happen; this machine may be busy
SMALL = ["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", "--block"]
NETWORK = """
import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
print("up", flush=True)
sys.stdin.read()
"""


def wait_for(what: str, come: object, seconds: float = SECONDS) -> None:
    assert callable(come)
    end = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < end, what
        time.sleep(0.05)


class RayCluster:
    """A context manager; everything that it started ends with it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self._started: list[subprocess.Popen[bytes]] = []
        self._network = subprocess.Popen(
            ["unshare", "-Urn", sys.executable, "-c", NETWORK],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) if shutil.which("unshare") else None  # fmt: skip
        self.inside: list[str] = []  # before a command: runs it in the cluster's network
        if self._network and self._network.stdout and self._network.stdout.readline():
            pid = str(self._network.pid)
            self.inside = ["nsenter", "-t", pid, "-U", "-n", "--preserve-credentials"]
        self.environment = {
            **environment,
            "RAY_ADDRESS": f"{HEAD}:{PORT}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # 15 by default, which starves them beside other programs
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "20000",
        }

    def __enter__(self) -> RayCluster:
        where = [f"--port={PORT}", f"--node-ip-address={HEAD}", f"--temp-dir={self._folder}"]
        try:
            self.start("--head", "--include-dashboard=false", *where)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started):
            self.stop(process)
        if self._network:
            self._network.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def second(
        self, before: tuple[str, ...] = (), environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Another raylet."""
        where = f"--address={HEAD}:{PORT}", f"--node-ip-address={SECOND}"
        return self.start(*where, before=before, environment=environment)

    def start(
        self,
        *arguments: str,
        before: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Again where Ray gives up, which it does after 30 seconds."""
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *SMALL]
        log = self._folder.with_suffix(".log")
        for _ in range(STARTS):
            with log.open("wb") as file:
                process = subprocess.Popen(
                    [*self.inside, *before, *ray], stdout=file, stderr=file, start_new_session=True,
                    env={**self.environment, **(environment or {})},
                )  # fmt: skip
            self._started.append(process)
            while process.poll() is None and "Ray runtime started" not in log.read_text():
                time.sleep(0.2)
            said = log.read_text()
            log.unlink()
            if process.poll() is None:
                return process
        raise AssertionError(said)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """`ray start --block` ends what it has started."""
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
        for child in descendants(process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *descendants(child)]
    return found


def named(pid: int, name: str) -> list[int]:
    """Descendants that run this program."""
    return [child for child in descendants(pid) if _name(child) == name]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
