"""Small networks, images and batches for tests of methods that read feature maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.distill.loop import Run
from stages.distill.methods import Batch, Method
from stages.distill.methods import build as build_method
from stages.distill.params import Distill
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.classifier import Classifier
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[2]
POOL = torch.randint(
    0, 256, (40, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4)
)
NO_LABELS = torch.full((40,), -1)


def settings(**changes: Any) -> Distill:
    base = {"method": "kd3", "precision": "float32", "batch_size": 8, "epochs": 4, "views": 2}
    overrides = [f"distill.{k}={json.dumps(v)}" for k, v in (base | changes).items()]
    found = load(ROOT / "params.yaml", overrides).sections["distill"]
    assert isinstance(found, Distill)
    return found


def networks(**changes: Any) -> tuple[Method, Classifier, Distill]:
    torch.manual_seed(0)
    teacher = opinionated(build("resnet14", 3))
    chosen = settings(**changes)
    return build_method(chosen, build("resnet8", 3), teacher, 16), teacher, chosen


def opinionated(teacher: Classifier) -> Classifier:
    """A frozen random network that sees every class about equally often among POOL, with varied confidence."""
    teacher.eval().requires_grad_(False)
    features = teacher.pool(teacher.features(pool_views().plain(torch.arange(len(POOL)))))
    centred = features - features.mean(0)
    teacher.fc.weight.mul_(2 / (centred @ teacher.fc.weight.T).std(0)[:, None])
    teacher.fc.bias.copy_(-(features @ teacher.fc.weight.T).mean(0))
    return teacher


def pool_views() -> Views:
    return Views(POOL, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), seed=0, min_scale=0.5, mixup=0.0)


def batch(teacher: Classifier, count: int = 6) -> Batch:
    torch.manual_seed(1)
    images = torch.randn(count, 3, 16, 16)
    with torch.no_grad():
        maps = teacher.features(images)
        logits = teacher.classify(maps)
    rows = torch.arange(count)
    return Batch(images, logits, maps, torch.ones(count), rows, np.random.default_rng(3))


def make_run(**changes: Any) -> Run:
    method, teacher, chosen = networks(**changes)
    return Run(
        settings=chosen, seed=0, views=pool_views(), teacher=teacher, method=method, weight=torch.ones(40),
        ids=[str(i) for i in range(40)], classes=("a", "b", "c"),
    )  # fmt: skip
