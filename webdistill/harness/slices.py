"""How a stage shares processors with other programs.

Threads of a training wait for each other many times a step. Beside a busy program one of them waits for its turn on a
processor, and the others for it. Linux lets a process ask for shorter turns (EEVDF, from 6.12 on): each is then sooner
in coming, and the share of the processor stays the same. Linux also tells how long a thread has waited. Neither decides
a byte.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import time
from pathlib import Path

SLICE = 100_000  # nanoseconds, the shortest that Linux grants; by default some 3 million
SET = {"x86_64": 314, "aarch64": 274}  # number of the system call sched_setattr
OTHER = 0  # SCHED_OTHER, the policy of every program that asked for none
ATTRIBUTES = struct.Struct(
    "IIQiIQQQ"
)  # size, policy, flags, nice, priority, slice, deadline, period

# Of the main thread: nanoseconds on a processor, nanoseconds in wait for one, turns.
OWN = Path("/proc/self/schedstat")
LOOK_EVERY = 20.0  # seconds over which the waiting is measured
MOST = 0.2  # share of the time spent waiting that is still usual beside a desktop or a notebook


def short_slices() -> None:
    """Ask for turns of SLICE for this process and all threads and processes that it starts from now on.

    Where that is unknown or forbidden nothing changes.
    """
    number = SET.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wish = ATTRIBUTES.pack(ATTRIBUTES.size, OTHER, 0, nice, 0, SLICE, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, wish, 0)


class Waiting:
    """Says once, while the main thread computes with others, that programs beside it cost more than their share."""

    def __init__(self, threads: int) -> None:
        """`threads`: with one there is nothing to say, since it waits for no other."""
        self._threads, self._told = threads, threads < 2
        self._begun, self._before = time.monotonic(), waited()

    def word(self) -> str | None:
        """The sentence, if now is the time for it; None as well where the system tells nothing."""
        now = time.monotonic()
        if self._told or now - self._begun < LOOK_EVERY:
            return None
        after = waited()
        had, lost = (b - a for a, b in zip(self._before, after, strict=True))
        self._begun, self._before = now, after
        share = lost / max(had + lost, 1e-9)
        if share <= MOST:
            return None
        self._told = True
        return (
            f"other programs keep the processors busy: the training waits for one {share:.0%} of the time, and its "
            f"{self._threads} threads wait for each other; task.threads=1 may be faster, but begins anew"
        )


def waited() -> tuple[float, float]:
    """Seconds that the main thread has had a processor and has waited for one; zeros where the system does not tell."""
    try:
        had, lost = OWN.read_text().split()[:2]
        return int(had) / 1e9, int(lost) / 1e9
    except (OSError, ValueError):
        return 0.0, 0.0
