"""A student as a function of pixels, wherever it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webdistill.core.errors import UserError

Pixels = NDArray[np.uint8]  # [B, size, size, 3]
REBUILD = "write it anew by `dvc repro evaluate`"


@dataclass(frozen=True)
class Student:
    """What a prediction needs."""

    classes: tuple[str, ...]
    size: int  # px
    logits: Callable[[Pixels], NDArray[np.floating]]  # [B, K]


def load(path: Path) -> Student:
    """A folder with weights and card, or an ONNX file of `evaluate`. Raises UserError."""
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a student's folder or ONNX file")
    return _graph(path)


def _folder(path: Path) -> Student:
    import torch

    from webdistill.models.checkpoint import CARD, load_network

    if not (path / CARD).is_file():
        raise UserError(f"{path} is no student's folder: it has no {CARD}")
    network = load_network(path)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.card.mean, network.card.std))

    @torch.inference_mode()
    def logits(images: Pixels) -> NDArray[np.floating]:
        found: torch.Tensor = network.net((torch.from_numpy(_scaled(images)) - mean) / std)
        return found.numpy()

    return Student(network.card.classes, network.card.image_size, logits)


def _graph(path: Path) -> Student:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        graph = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a type of its own for every cause
        first = str(error).splitlines()[0]
        raise UserError(f"{path} is no ONNX file that onnxruntime can run: {first}") from None
    facts = graph.get_modelmeta().custom_metadata_map
    try:
        classes, size = tuple(map(str, json.loads(facts["classes"]))), int(facts["image_size"])
        width = graph.get_outputs()[0].shape[-1:]
        if any(isinstance(one, int) and one != len(classes) for one in width):
            raise ValueError
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} does not name its classes and image size; {REBUILD}") from None

    def logits(images: Pixels) -> NDArray[np.floating]:
        return np.asarray(graph.run(["logits"], {"images": _scaled(images)})[0])

    return Student(classes, size, logits)


def _scaled(images: Pixels) -> NDArray[np.float32]:
    """-> [B, 3, size, size] in [0, 1]"""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
