"""Latency of one forward pass, for tracking and the screen only: a duration never enters an output."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

BATCHES = (1, 64)
REPEATS, FEWEST = 20, 3
SECONDS = 1.0  # of measuring one network at one batch size; FEWEST passes are made in any case


def median_milliseconds(call: Callable[[], object]) -> float:
    """Median wall time of `call` in milliseconds, the first call apart."""
    call()
    times: list[float] = []
    while len(times) < FEWEST or (len(times) < REPEATS and sum(times) < SECONDS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def latencies(
    networks: Mapping[str, Callable[[NDArray[np.uint8]], object]], image_size: int
) -> dict[str, float]:
    """{"latency_torch_b1_ms": ..., "latency_onnx_b64_ms": ...}: per call, not per image."""
    found = {}
    for batch in BATCHES:
        images = np.zeros((batch, image_size, image_size, 3), np.uint8)
        for name, answer in networks.items():
            found[f"latency_{name}_b{batch}_ms"] = median_milliseconds(partial(answer, images))
    return found
