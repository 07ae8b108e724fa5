"""The variants made runnable: each becomes a function that trains one epoch. Runs in a process of its own."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn

from benchmarks.naive_kd3 import NaiveKd3
from benchmarks.plan import (
    CLASSES,
    EPOCHS,
    MEAN,
    RATE,
    SIZE,
    SMALLEST,
    STD,
    Setting,
    Variant,
)  # fmt: skip
from stages.distill.loop import Run
from stages.distill.methods import Batch, Method
from stages.distill.methods import build as build_method
from stages.distill.params import Distill
from webdistill.core.errors import UserError
from webdistill.images.views import Views
from webdistill.models.classifier import Classifier
from webdistill.models.device import pick_device
from webdistill.models.precision import low_precision
from webdistill.models.projected import Projected, map_side
from webdistill.models.zoo import build

Epoch = Callable[[], int]  # trains one epoch -> images trained on
PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
VIEWS = 2  # distinct views where answers are kept: two, so that the next epoch draws a view anew
# KD3 as the straightforward version has it: a choice every epoch, every image perturbed, no KL divergence
PUBLISHED = {"reselect_every": 1, "contrast_share": 1.0, "kl": 0.0}


@dataclass
class Ready:
    """A variant after its construction."""

    epoch: Epoch
    device: torch.device
    precision: str
    kept: Callable[[], float]  # share of the images that the last selection kept


def serve(
    connection: Connection, variant: Variant, setting: Setting, pixels: Path, repeat: int
) -> None:
    """Body of a variant's process: build, warm up, then one epoch per message received; sends what it measured."""
    torch.set_num_threads(setting.threads)
    ready = make(variant, setting, np.load(pixels))
    seconds, _ = _timed(ready)
    connection.send(
        {"warm_up": seconds, "precision": ready.precision, "device": describe(ready.device)}
    )
    for _ in range(repeat):
        connection.recv()
        seconds, images = _timed(ready)
        connection.send({"seconds": seconds, "images": images})
    connection.send({**peak(ready.device), "kept_share": ready.kept()})


def make(variant: Variant, setting: Setting, pixels: np.ndarray) -> Ready:
    """Networks, data and the function that trains an epoch."""
    torch.manual_seed(0)
    device = pick_device(setting.device, "device")
    settings = distill_settings(variant, setting, device)
    pool = torch.from_numpy(pixels).to(device)
    teacher = make_teacher(setting.teacher, pool, settings)
    student = build(setting.student, CLASSES).to(device)
    if variant.kind == "naive":
        return _naive(teacher, student, pixels, setting)
    method = build_method(settings, student, teacher, SIZE)
    if variant.channels_last:
        for net in (teacher, method):
            net.to(memory_format=torch.channels_last)
    if variant.compiled:
        _compile(teacher, method)
    if variant.kind == "synthetic":
        epoch = _synthetic(
            teacher, method, settings, device, len(pixels), variant.answers == "before"
        )
        return Ready(epoch, device, settings.precision, lambda: 1.0)
    return _ours(teacher, method, settings, pool, variant)


def distill_settings(variant: Variant, setting: Setting, device: torch.device) -> Distill:
    """The stage's parameters as delivered, but for method, sizes and what the variant changes."""
    low = low_precision("auto", device) != variant.other_precision
    given: dict[str, Any] = YAML(typ="safe").load(PARAMS)["distill"]
    changes = {
        "method": "kd3",
        "student": setting.student,
        "batch_size": setting.batch,
        "epochs": EPOCHS,
        "steps_per_epoch": None,
        "lr": RATE,
        "min_scale": SMALLEST,
        "mixup": 0.0,
        "views": 0 if variant.answers == "always" else VIEWS,
        "precision": "bfloat16" if low else "float32",
        "device": setting.device,
        "kd3": {**given["kd3"], **PUBLISHED, "selection": variant.selection},
    }
    return Distill.model_validate(given | changes)


def make_teacher(architecture: str, pool: Tensor, settings: Distill) -> Classifier:
    """A frozen network with random weights, but BN statistics of the images and confident answers.

    With the statistics of a fresh network activations grow from block to block, and training would diverge; with
    unsure answers selection would keep next to nothing.
    """
    net = build(architecture, CLASSES).to(pool.device)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # running mean over all batches seen
    with torch.no_grad():
        net.train()(make_views(pool, settings).plain(torch.arange(min(len(pool), 256))))
        net.fc.weight.mul_(20)
    return net.eval().requires_grad_(False)


def make_views(pool: Tensor, settings: Distill, *, channels_last: bool = True) -> Views:
    """Views of the pool as the stage makes them."""
    kind = Views if channels_last else ContiguousViews
    return kind(pool, MEAN, STD, seed=0, min_scale=settings.min_scale, mixup=settings.mixup)


class ContiguousViews(Views):
    """Views in PyTorch's default memory format."""

    def __call__(self, number: int, rows: Tensor) -> Tensor:
        return super().__call__(number, rows).contiguous()

    def plain(self, rows: Tensor) -> Tensor:
        return super().plain(rows).contiguous()


def _naive(teacher: Classifier, student: Classifier, pixels: np.ndarray, setting: Setting) -> Ready:
    side = min(map_side(student, SIZE), map_side(teacher, SIZE))
    device = next(teacher.parameters()).device
    joined = Projected(student, teacher, side).to(device)
    plain = NaiveKd3(teacher, joined, pixels, batch_size=setting.batch, workers=setting.workers)
    numbers = count()
    return Ready(
        lambda: plain.epoch(next(numbers)),
        device,
        "float32",
        lambda: len(plain.kept) / len(pixels),
    )


def _ours(
    teacher: Classifier, method: Method, settings: Distill, pool: Tensor, variant: Variant
) -> Ready:
    def new() -> Run:
        return Run(
            settings=settings,
            seed=0,
            views=make_views(pool, settings, channels_last=variant.channels_last),
            teacher=teacher,
            method=method,
            weight=torch.ones(len(pool), device=pool.device),
            ids=[f"image{at}" for at in range(len(pool))],
            classes=tuple(f"class{at}" for at in range(CLASSES)),
        )

    run, numbers = new(), count()
    if variant.answers == "before":
        _answer_all(run)

    def epoch() -> int:
        nonlocal run
        if variant.answers == "first":
            run = new()  # nothing answered yet; the networks stay as they are
        return sum(run.epoch(0 if variant.answers == "first" else next(numbers)))

    return Ready(epoch, pool.device, settings.precision, lambda: len(run.kept) / run.count)


def _answer_all(run: Run) -> None:
    """Let the teacher answer every view of every image, as it has done after the first epochs."""
    rows = torch.arange(run.settings.batch_size, device=run.device)
    for view in range(run.settings.views):
        run.feed.answers(view, rows, run.views(view, rows))
    if not run.feed.answers.keeps:
        raise UserError("the teacher's answers are too many to be kept; lower --images-count")


def _synthetic(
    teacher: Classifier,
    method: Method,
    settings: Distill,
    device: torch.device,
    images: int,
    answered: bool,
) -> Epoch:
    """Nothing but networks, losses and optimiser on one batch of noise that lies on the device: the upper bound."""
    size, rng = settings.batch_size, np.random.default_rng(0)
    noise = torch.randn(size, 3, SIZE, SIZE, device=device)
    noise = noise.contiguous(memory_format=torch.channels_last)
    weight, rows = torch.ones(size, device=device), torch.arange(size, device=device)
    learning = [p for p in method.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=RATE, momentum=0.9, nesterov=True)
    low = settings.precision == "bfloat16"

    def answer() -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=low):
            maps = teacher.features(noise)
            return teacher.classify(maps).float(), maps

    known = answer()

    def epoch() -> int:
        method.train()
        steps = images // size
        for _ in range(steps):
            logits, maps = known if answered else answer()
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                losses, _ = method.losses(Batch(noise, logits, maps, weight, rows, rng))
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            optimiser.step()
        return steps * size

    return epoch


def _compile(teacher: Classifier, method: Method) -> None:
    student = method.student()
    assert isinstance(student, Projected)
    for net, name in ((teacher, "features"), (student.backbone, "features"), (student, "project")):
        setattr(net, name, torch.compile(getattr(net, name)))


def _timed(ready: Ready) -> tuple[float, int]:
    begun = time.perf_counter()
    images = ready.epoch()
    if ready.device.type == "cuda":
        torch.cuda.synchronize(ready.device)
    return time.perf_counter() - begun, images


def peak(device: torch.device) -> dict[str, float]:
    """Largest resident memory of this process (its loaders' workers not counted), and of the device's, MiB."""
    sizes = {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if device.type == "cuda":
        sizes["peak_device_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return sizes


def describe(device: torch.device) -> str:
    """The processor in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"
