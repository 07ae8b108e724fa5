"""Seeds and threads: what else than bytes and parameters decides what a stage computes."""

from __future__ import annotations

import os
import random

SPINS = 10_000
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def prepare(threads: int, seed: int) -> None:
    """Before torch, numpy or faiss are imported: `threads` for every library, `seed` for Python's own generator."""
    for variable in VARIABLES:
        os.environ[variable] = str(threads)
    spin_briefly()
    random.seed(seed)


def spin_briefly() -> None:
    """Before torch is imported: OpenMP's threads spin for SPINS rounds while they wait for each other, some ten
    microseconds, and then sleep.

    By default they spin for milliseconds: beside another busy program each then keeps the one that it waits for from
    running. To sleep at once (OMP_WAIT_POLICY=PASSIVE) costs a quarter of the speed on a quiet machine.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
