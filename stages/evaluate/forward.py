"""Run a network over images, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BATCH = 256


def as_input(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(255)


@torch.inference_mode()
def logits(
    net: nn.Module, images: NDArray[np.uint8], progress: Callable[..., Iterator[slice]], label: str
) -> NDArray[np.float32]:
    """Images [N, H, W, 3] uint8 -> logits [N, K] float32. `progress` is Stage.progress or alike."""
    batches = [
        slice(start, min(start + BATCH, len(images))) for start in range(0, len(images), BATCH)
    ]
    parts = [
        net(as_input(images[batch])).numpy()
        for batch in progress(
            batches, total=len(images), label=label, size=lambda b: b.stop - b.start
        )
    ]
    return np.concatenate(parts)
