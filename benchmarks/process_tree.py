"""A program and all its descendants, measured from outside: wall clock, processor time, peak of memory (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from webdistill.core.errors import UserError

LOOK = 0.02  # seconds between two looks whether the program has ended
WEIGH = 25  # every so many looks its memory is read
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


class Tree:
    """Started as a process group of its own; whoever starts it calls `end`, whatever happens.

    `log` gets what the program says. Orphans come to this process, which reaps them: no processor time is lost.
    Memory is the highest sum over the processes: resident, and with shared pages counted once (PSS).
    """

    def __init__(
        self, command: Sequence[str | Path], folder: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        if sys.platform != "linux":
            raise UserError("process trees are measured through /proc; run this benchmark on Linux")
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
        self.log = log
        self.cpu_seconds = self.peak_rss_mib = self.peak_pss_mib = 0.0
        self.begun = self.ended = time.monotonic()
        with log.open("ab") as output:
            self._first = subprocess.Popen(
                list(map(str, command)), cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._looks = 0

    def running(self) -> bool:
        """Whether the program itself has not ended; to be asked again and again, since it measures."""
        if self._first.returncode is None:
            if self._looks % WEIGH == 0:
                self._weigh()
            self._looks += 1
            time.sleep(LOOK)
            self._reap()
        return self._first.returncode is None

    def finish(self) -> int:
        """Wait for the program, then for its descendants. -> exit code"""
        while self.running():
            pass
        deadline = time.monotonic() + 30
        while self._reap() and time.monotonic() < deadline:
            time.sleep(LOOK)
        self.end()
        assert self._first.returncode is not None
        return self._first.returncode

    def kill(self) -> None:
        """kill -9 of the program alone, as memory shortage or an impatient user does it."""
        if self._first.returncode is None:
            os.kill(self._first.pid, signal.SIGKILL)

    def end(self) -> None:
        """Leave nothing behind, whatever has happened."""
        while self._reap():
            os.killpg(self._first.pid, signal.SIGKILL)
            time.sleep(LOOK)

    def _reap(self) -> bool:
        """Whether there are more processes of the group."""
        try:
            while True:
                found, status, used = os.wait4(-self._first.pid, os.WNOHANG)
                if not found:
                    return True
                self.cpu_seconds += used.ru_utime + used.ru_stime
                if found == self._first.pid:
                    self.ended = time.monotonic()
                    self._first.returncode = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            return False

    def _weigh(self) -> None:
        rss = pss = 0.0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                facts = (folder / "stat").read_bytes().rpartition(b") ")[2].split()
                if int(facts[2]) != self._first.pid:  # the process group
                    continue
                rss += int(facts[21]) * PAGE_MIB
                proportional = (folder / "smaps_rollup").read_bytes().split(b"\nPss:")[1]
                pss += int(proportional.split()[0]) / 1024
            except (OSError, IndexError):  # it has just ended
                continue
        self.peak_rss_mib = max(self.peak_rss_mib, rss)
        self.peak_pss_mib = max(self.peak_pss_mib, pss)


def check(tree: Tree, name: str) -> None:
    """Raises UserError with the end of the program's own words unless it succeeds."""
    if code := tree.finish():
        words = tree.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise UserError(f"{name} ended with exit code {code}: {words[-1]}")
