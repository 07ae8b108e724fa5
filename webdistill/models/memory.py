"""The memory of a processor's tensors."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8  # of mallopt(3)
MOST = 2**31 - 1
STEP = 64 << 20  # bytes by which the heap grows


@cache
def keep_freed_memory() -> None:
    """Have glibc keep what tensors free for the next ones, for as long as this process lives.

    By default it returns large blocks to the system, which clears every page before it gives it out again: a quarter to
    two thirds of the time of a forward pass of 256 images (benchmarks/kept_memory). Values do not change, the process
    may hold more. Nothing is done where the C library is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)  # no block is mapped by itself
        mallopt(TRIM_THRESHOLD, MOST)
        mallopt(TOP_PAD, STEP)
        mallopt(ARENA_MAX, 1)  # one heap for all threads holds less than one for each
