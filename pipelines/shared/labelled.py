"""Training with labels, otherwise as stages/distill trains: views, SGD, schedule, precision."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.distill.rate import rate_factor
from webdistill.core.files import replace
from webdistill.images.views import Views
from webdistill.models.classifier import Classifier
from webdistill.models.precision import low_precision
from webdistill.models.zoo import build

Triple = tuple[float, float, float]
BATCH = 500  # images per forward pass when accuracy is measured
SAVE_EVERY = 15.0  # seconds between saved states


class OutOfTimeError(Exception):
    """The time given is over. The state is saved; the same call continues."""


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
    start: Mapping[str, Tensor] | None = None,
    state: Path | None = None,
    until: float = math.inf,
) -> Classifier:
    """Cross-entropy; images uint8 [N, H, W, 3], labels int64 [N], both on the device that is to be used.

    `settings`: epochs, steps_per_epoch (null = N / batch_size), batch_size, warmup_epochs, decay, weight_decay,
    min_scale, precision and, where there is one, shift, with their meaning in section distill. One line per epoch on
    stderr. `start`: weights under the network's names; its classifier is left as it is where theirs has another number
    of classes. With a `state`, a file, a killed training continues after the last saved epoch with the same result.
    Raises OutOfTimeError at the end of the epoch in which time.monotonic() passes `until`.
    """
    torch.manual_seed(seed)
    device, size = images.device, settings["batch_size"]
    net = build(architecture, classes, images.shape[1])
    if start is not None:
        from webdistill.models.checkpoint import copy_into  # wants safetensors

        copy_into(net, start, "the given weights", architecture, {"fc.weight", "fc.bias"})
    net.to(device=device, memory_format=torch.channels_last)
    crops = {"min_scale": settings["min_scale"], "shift": settings.get("shift", 0.0)}
    views = Views(images, mean, std, seed=seed, mixup=0.0, **crops)
    optimiser = _optimiser(net, lr, settings["weight_decay"])
    per_epoch = settings["steps_per_epoch"] or len(images) // size
    steps, warmup = settings["epochs"] * per_epoch, round(settings["warmup_epochs"] * per_epoch)
    bfloat16 = low_precision(settings["precision"], device)
    generator = torch.Generator().manual_seed(seed)
    order, passes = torch.empty(0, dtype=torch.int64), 0
    losses, begun = torch.zeros((), device=device), time.monotonic()
    first, saved = 0, begun
    if state is not None and state.exists():
        first, passes, order = _restore(state, net, optimiser, generator)
    for step in range(first, steps):
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
            late = begun > until and step + 1 < steps
            if state is not None and (late or begun - saved > SAVE_EVERY):
                _save(state, net, optimiser, generator, (step + 1, passes, order))
                saved = begun
            if late:
                raise OutOfTimeError
    return net


def _save(
    path: Path,
    net: Classifier,
    optimiser: torch.optim.SGD,
    generator: torch.Generator,
    place: tuple[int, int, Tensor],
) -> None:
    """Write what the next step depends on: the old file or the new one survives a kill."""
    parts = {"net": net.state_dict(), "optimiser": optimiser.state_dict()}
    temporary = path.with_suffix(".tmp")
    torch.save(parts | {"generator": generator.get_state(), "place": place}, temporary)
    replace(temporary, path)


def _restore(
    path: Path, net: Classifier, optimiser: torch.optim.SGD, generator: torch.Generator
) -> tuple[int, int, Tensor]:
    """-> steps that are done, passes over the images that were begun, images left of the last one."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    net.load_state_dict(saved["net"])
    optimiser.load_state_dict(saved["optimiser"])
    generator.set_state(saved["generator"])
    step, passes, order = saved["place"]
    return step, passes, order


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
