"""Runs with KDCI plugged in, and their dictionary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stages.distill.deconfound import (
    Dictionary,
    attach,
)
from stages.distill.loop import Run
from stages.distill.methods import build as build_method
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.zoo import build

YAML, STUDENT = Path(__file__).parents[2] / "params.yaml", Path("data/distill/student")


MAPS = ("simkd", "kd3")  # whose unit is that of the teacher's maps


COUNT, SIZE, WIDTH = 24, 12, 64  # images, their side, the teacher's features


SETTINGS = {
    "student": "resnet8", "epochs": 6, "steps_per_epoch": 1, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0.0,
    "views": 2, "precision": "float32", "device": "cpu",
}  # fmt: skip


KEY = "deconfound.dictionary"


DRAWN: dict[str, Any] = {
    KEY: "drawn", "deconfound.drawn.images": 40, "deconfound.drawn.count": 5,
    "deconfound.drawn.dims": 8, "deconfound.drawn.start": 1, "deconfound.drawn.every": 2,
}  # fmt: skip


POINTS = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(7)).abs()


SHARES = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])


GREY = (0.5, 0.5, 0.5)


IDS, LABELS = [f"{i:032x}" for i in range(COUNT)], [i * i % 3 for i in range(COUNT)]


def overrides(changes: dict[str, Any]) -> list[str]:
    return [f"distill.{key}={json.dumps(value)}" for key, value in (SETTINGS | changes).items()]


def make(method: str = "kd", plug_in: bool = True, seed: int = 0, **changes: Any) -> Run:
    """A run as the stage prepares it; `seed` is that of torch's global generator."""
    changes = {KEY: "prototypes" if plug_in else "none", **changes, "method": method}
    if method in MAPS:  # the maps of a fresh teacher hardly vary, so these losses are large
        changes = {"lr": 0.002, **changes}
    settings: Any = load(YAML, overrides(changes)).sections["distill"]
    torch.manual_seed(seed)
    pool = torch.randint(0, 256, (COUNT, SIZE, SIZE, 3), dtype=torch.uint8)
    teacher = build("wrn-10-1", 3).eval().requires_grad_(False)
    teacher.fc.weight.mul_(30)
    host = build_method(settings, build(settings.student, 3), teacher, SIZE)
    if plug_in:
        attach(host, settings.deconfound, Dictionary(POINTS, SHARES), WIDTH)
    host.to(memory_format=torch.channels_last)
    views = Views(pool, GREY, GREY, seed=1, min_scale=0.5, mixup=0.2)
    return Run(settings, 1, views, teacher, host, torch.ones(COUNT), IDS, ("a", "b", "c"))


def plugged(run: Run) -> Any:
    return run.method.student().compensation
