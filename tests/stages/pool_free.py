"""Runs of the methods that make all their images themselves."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.distill.deconfound import attach
from stages.distill.loop import Run
from stages.distill.methods import build
from stages.distill.methods.synthesis import Synthesis
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.classifier import Classifier
from webdistill.models.zoo import build as network

ROOT = Path(__file__).parents[2]


STORING = ("fast", "cmi", "deepinv")


SIZE, CLASSES = 16, 3


SMALL = {
    "student": "resnet8", "epochs": 4, "steps_per_epoch": 2, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0.0,
    "precision": "float32", "device": "cpu", "dafl.latent": 6, "fast.latent": 6, "cmi.latent": 6,
    **{f"{name}.{key}": value for name in STORING for key, value in
       {"images": 10, "steps": 3, "warmup": 2, "store": 64}.items()},
}  # fmt: skip


def make(method: str, images: int = 0, **changes: Any) -> Run:
    """A run without a pool, or with one of `images` images."""
    values = SMALL | changes | {"method": method}
    overrides = [f"distill.{key}={json.dumps(value)}" for key, value in values.items()]
    settings: Any = load(ROOT / "params.yaml", overrides).sections["distill"]
    teacher = copy.deepcopy(used_teacher())
    torch.manual_seed(1)
    host = build(settings, network(settings.student, CLASSES), teacher, SIZE)
    if settings.deconfound.enabled:
        attach(host, settings.deconfound, None, teacher.fc.in_features)
    pool = torch.randint(0, 256, (images, SIZE, SIZE, 3), dtype=torch.uint8)
    views = Views(pool, (0.5,) * 3, (0.25,) * 3, seed=1, min_scale=1.0, mixup=0.0)
    names = [f"image{i}" for i in range(images)]
    return Run(settings, 1, views, teacher, host, torch.ones(images), names, ("a", "b", "c"))


@functools.cache
def used_teacher() -> Classifier:
    """With running statistics that fit its weights, which takes twenty passes."""
    teacher = network("resnet8", CLASSES)
    torch.manual_seed(0)
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        for _ in range(20):
            teacher(torch.randn(32, 3, SIZE, SIZE))
    return teacher.eval().requires_grad_(False)


def synthesis(method: str, **changes: Any) -> tuple[Synthesis, Classifier]:
    run = make(method, **changes)
    assert isinstance(run.method, Synthesis)
    return run.method.train(), run.teacher
