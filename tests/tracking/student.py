"""A small student as `evaluate` leaves it, and the record that brings it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stages.evaluate.export import Deployable, export
from webdistill.harness.records import StageRun
from webdistill.models.zoo import build

CLASSES = ("cat", "dog", "ship", "car", "bird")
SIZE, NAME = 16, "webdistill-student"
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def exported(folder: Path) -> tuple[Deployable, list[Path]]:
    """The network with its normalisation, and the two files of the record of evaluate."""
    torch.manual_seed(0)
    net = Deployable(build("resnet8", len(CLASSES)).eval(), MEAN, STD).eval()
    export(net, SIZE, folder / "student.onnx")
    card = {"classes": CLASSES, "image_size": SIZE, "architecture": "resnet8"}
    (folder / "config.json").write_text(json.dumps(card))
    return net, [folder / "student.onnx", folder / "config.json"]


def evaluated(files: list[Path], student: str = "a", **changes: Any) -> StageRun:
    values: dict[str, Any] = {
        "stage": "evaluate",
        "parent_key": "3fa2c1" + "0" * 26,
        "parent_params": {"distill.method": "kd", "task.teacher": "data/quickstart/teacher"},
        "params": {},
        "inputs": {
            "data/distill/student": f"{student * 32}.dir",
            "data/quickstart/teacher": "b" * 32,
        },
        "metrics": {"top1": 0.5},
        "artifacts": files,
        "started": 1_700_000_000.0,
        "ended": 1_700_000_001.0,
        "status": "FINISHED",
    }
    return StageRun(**{**values, **changes})


def encoded(kind: str, side: tuple[int, int], seed: int) -> bytes:
    """A picture file."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(side, Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()
