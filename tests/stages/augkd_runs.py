"""Short runs of AuG-KD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stages.distill.deconfound import attach
from stages.distill.loop import Run
from stages.distill.methods import build as build_method
from stages.distill.methods.augkd import AugKd
from stages.distill.params import Distill
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[2]


COUNT, SIZE = 24, 14


SETTINGS = {
    "method": "augkd", "student": "resnet8", "epochs": 6, "steps_per_epoch": 2, "batch_size": 6, "lr": 0.05,
    "warmup_epochs": 1.0, "views": 2, "precision": "float32", "device": "cpu", "augkd.latent": 8,
    "augkd.free_epochs": 2, "augkd.anchor_epochs": 2,
}  # fmt: skip


DRAWN: dict[str, Any] = {
    "deconfound.dictionary": "drawn", "deconfound.drawn.images": 30,
    "deconfound.drawn.count": 4, "deconfound.drawn.dims": 6, "deconfound.drawn.start": 1,
    "deconfound.drawn.every": 2,
}  # fmt: skip


def read(changes: dict[str, Any]) -> Distill:
    overrides = [f"distill.{k}={json.dumps(v)}" for k, v in (SETTINGS | changes).items()]
    settings = load(ROOT / "params.yaml", overrides).sections["distill"]
    assert isinstance(settings, Distill)
    return settings


def make(**changes: Any) -> Run:
    settings = read(changes)
    torch.manual_seed(0)
    pool = torch.randint(0, 256, (COUNT, SIZE, SIZE, 3), dtype=torch.uint8)
    teacher = build("resnet8", 3).eval().requires_grad_(False)
    teacher.fc.weight.mul_(10)
    views = Views(
        pool, (0.5,) * 3, (0.25,) * 3, seed=1, min_scale=settings.min_scale, mixup=settings.mixup
    )  # fmt: skip
    method = build_method(settings, build(settings.student, 3), teacher, SIZE)
    if settings.deconfound.enabled:
        attach(method, settings.deconfound, None, teacher.fc.in_features)
    ids, labels = [f"image{i}" for i in range(COUNT)], torch.arange(COUNT) % 4 - 1
    classes = ("a", "b", "c")
    return Run(settings, 1, views, teacher, method, torch.ones(COUNT), ids, classes, labels)


def augkd_of(run: Run) -> AugKd:
    assert isinstance(run.method, AugKd)
    return run.method
