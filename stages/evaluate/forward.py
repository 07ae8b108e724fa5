"""Run networks and exported graphs over images, in batches that each decodes once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Pixels = NDArray[np.uint8]  # [B, H, W, 3]
Logits = NDArray[np.float32]  # [B, K]
Answer = Callable[[Pixels], Logits]


def as_input(images: Pixels) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(255)


def answering(net: nn.Module, device: torch.device) -> Answer:
    """A network on its device as a function of pixels; the network is moved there."""
    net.to(device)

    @torch.inference_mode()
    def answer(images: Pixels) -> Logits:
        found: Tensor = net(as_input(images).to(device))
        return found.cpu().numpy()

    return answer


def logits(batches: Iterable[Pixels], networks: Mapping[str, Answer]) -> dict[str, Logits]:
    """What every network says about all images: name -> [N, K] float32."""
    parts: dict[str, list[Logits]] = {name: [] for name in networks}
    for images in batches:
        for name, answer in networks.items():
            parts[name].append(answer(images))
    return {name: np.concatenate(found) for name, found in parts.items()}
