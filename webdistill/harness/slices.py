"""How a stage shares processors with other programs.

Threads of a training wait for each other many times a step. Beside a busy program one of them waits for its turn on a
processor, and the others for it. Linux lets a process ask for shorter turns (EEVDF, from 6.12 on): each is then sooner
in coming, and the share of the processor stays the same. It decides no byte.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

SLICE = 100_000  # nanoseconds, the shortest that Linux grants; by default some 3 million
SET = {"x86_64": 314, "aarch64": 274}  # number of the system call sched_setattr
OTHER = 0  # SCHED_OTHER, the policy of every program that asked for none
ATTRIBUTES = struct.Struct(
    "IIQiIQQQ"
)  # size, policy, flags, nice, priority, slice, deadline, period


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
