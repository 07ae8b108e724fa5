"""The selection's pictures for a training: as pixels in memory, or encoded and decoded when they are asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from webdistill.core.files import digest, remove
from webdistill.harness.stage import Stage
from webdistill.images.encoded import Encoded, write_pictures
from webdistill.images.pool import load_images

LIMIT = 1 << 30  # bytes of pixels beyond which `auto` leaves them encoded,
SHARE = 4  # on CUDA a quarter of the device's memory

Part = Callable[[NDArray[np.bool_]], Tensor | Encoded]


def read_pictures(stage: Stage, pool: Path, ids: Sequence[str], device: torch.device) -> Part:
    """-> what gives those of a mask [N], in the order of `ids`: [n, H, W, 3] uint8 on the device, or encoded.

    Which of the two decides no byte of the student, so it may follow the machine. The encoded ones lie in the stage's
    work folder until its outputs are published.
    """
    size, threads = stage.task.image_size, stage.task.threads
    folder = stage.work / f"pictures-{_key(pool, ids)}"
    for other in stage.work.glob("pictures-*"):  # left by killed runs
        if other != folder:
            remove(other)
    stage.when_published(lambda: remove(folder))
    if not stay_encoded(stage.params.images, 3 * size**2 * len(ids), device):
        _, images = load_images(pool, ids, size=size, workers=threads)
        return lambda mask: torch.from_numpy(images[mask]).to(device)
    if not folder.exists():
        write_pictures(pool, ids, folder)
    stage.log(f"{len(ids):,} images stay encoded; task.threads = {threads} decode them")

    def part(mask: NDArray[np.bool_]) -> Encoded:
        return Encoded(folder, mask.nonzero()[0], size, workers=threads, device=device)

    return part


def stay_encoded(wanted: str, size: int, device: torch.device) -> bool:
    """Whether `size` bytes of pixels are left encoded; `wanted`: distill.images."""
    if wanted != "auto":
        return wanted == "encoded"
    if device.type == "cuda":
        return size > torch.cuda.get_device_properties(device).total_memory // SHARE
    return size > LIMIT


def _key(pool: Path, ids: Sequence[str]) -> str:
    """Of the folder for these pictures: by their content, so that it outlives a kill and other settings."""
    return hashlib.sha256(json.dumps([digest(pool), *ids]).encode()).hexdigest()[:16]
