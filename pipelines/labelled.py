"""Training with labels, otherwise as stages/distill trains: views, SGD, schedule, precision."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.distill.rate import rate_factor
from webdistill.images.views import Views
from webdistill.models.cifar import Classifier
from webdistill.models.precision import low_precision
from webdistill.models.zoo import build

Triple = tuple[float, float, float]
BATCH = 500  # images per forward pass when accuracy is measured


def train(
    images: Tensor,
    labels: Tensor,
    settings: Mapping[str, Any],
    lr: float,
    seed: int,
    *,
    architecture: str,
    classes: int,
    mean: Triple,
    std: Triple,
) -> Classifier:
    """Cross-entropy; images uint8 [N, H, W, 3], labels int64 [N], both on the device that is to be used.

    `settings`: epochs, steps_per_epoch (null = N / batch_size), batch_size, warmup_epochs, decay, weight_decay,
    min_scale and precision, with their meaning in section distill. One line per epoch on stderr.
    """
    torch.manual_seed(seed)
    device, size = images.device, settings["batch_size"]
    net = build(architecture, classes, images.shape[1])
    net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    views = Views(images, mean, std, seed=seed, min_scale=settings["min_scale"], mixup=0.0)
    optimiser = _optimiser(net, lr, settings["weight_decay"])
    per_epoch = settings["steps_per_epoch"] or len(images) // size
    steps, warmup = settings["epochs"] * per_epoch, round(settings["warmup_epochs"] * per_epoch)
    bfloat16 = low_precision(settings["precision"], device)
    generator = torch.Generator().manual_seed(seed)
    order, passes = torch.empty(0, dtype=torch.int64), 0
    losses, begun = torch.zeros((), device=device), time.monotonic()
    for step in range(steps):
        if len(order) < size:
            order, passes = torch.randperm(len(images), generator=generator), passes + 1
        rows, order = order[:size].to(device), order[size:]
        for group in optimiser.param_groups:
            group["lr"] = lr * rate_factor(step, steps, warmup, settings["decay"])
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = net(views(passes, rows))
        loss = F.cross_entropy(logits.float(), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses += loss.detach()
        if (step + 1) % per_epoch == 0:
            rate = per_epoch * size / max(time.monotonic() - begun, 1e-9)
            _say((step + 1) // per_epoch, settings["epochs"], float(losses) / per_epoch, rate)
            losses, begun = torch.zeros((), device=device), time.monotonic()
    return net


def _optimiser(net: Classifier, lr: float, weight_decay: float) -> torch.optim.SGD:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in net.parameters() if p.ndim <= 1]},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def _say(epoch: int, epochs: int, loss: float, rate: float) -> None:
    print(
        f"epoch {epoch}/{epochs}: loss {loss:.4f}, {rate:,.0f} images/s",
        file=sys.stderr,
        flush=True,
    )


@torch.no_grad()
def accuracy(net: Classifier, images: Tensor, labels: Tensor, mean: Triple, std: Triple) -> float:
    """Share of right answers to the images as they are, in float32; leaves `net` in eval mode."""
    net.eval()
    views = Views(images, mean, std, seed=0, min_scale=1.0, mixup=0.0)
    rows = torch.arange(len(images), device=images.device).split(BATCH)
    hits = sum(int((net(views.plain(part)).argmax(1) == labels[part]).sum()) for part in rows)
    return hits / len(images)
