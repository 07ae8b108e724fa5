"""Latency of one forward pass, for tracking only: a duration never enters an output."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnxruntime
import torch
from torch import nn

from stages.evaluate.export import run

BATCHES = (1, 64)
WARM_UP = 3
REPEATS = 20


def median_milliseconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median wall time of `call` in milliseconds, after a warm-up."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


@torch.inference_mode()
def latencies(
    net: nn.Module, graph: onnxruntime.InferenceSession, image_size: int
) -> dict[str, float]:
    """{"latency_torch_b1_ms": ..., "latency_onnx_b64_ms": ...}: per call, not per image."""
    result = {}
    for batch in BATCHES:
        images = np.zeros((batch, 3, image_size, image_size), np.float32)
        tensor = torch.from_numpy(images)
        result[f"latency_torch_b{batch}_ms"] = median_milliseconds(lambda x=tensor: net(x))  # type: ignore[misc]
        result[f"latency_onnx_b{batch}_ms"] = median_milliseconds(lambda x=images: run(graph, x))  # type: ignore[misc]
    return result
