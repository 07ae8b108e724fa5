"""Teacher, then students, in calls of at most so many minutes. Give the command again until it says that all is done.

    python -m pipelines.full_size.train --minutes 9

Needs torch, numpy, pydantic and ruamel.yaml, and the arrays that pipelines.full_size.arrays wrote. A finished network
is never trained again; one that is not continues after its last saved epoch, with the same result. The work folder
holds teacher.pt, ARM-SEED.pt and results.json: for every student its accuracy on the test images, read once, after the
last epoch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.full_size.arrays import read_parts
from pipelines.shared.labelled import SAVE_EVERY, OutOfTimeError, accuracy
from pipelines.shared.labelled import train as train_with_labels
from pipelines.shared.program import argument, run_study
from stages.distill import checkpoint
from stages.distill.holdout import held_out
from stages.distill.loop import Run
from stages.distill.methods import build as build_method
from stages.distill.params import Distill
from webdistill.core.files import replace, write_json
from webdistill.harness.params import read_yaml
from webdistill.images.views import Views
from webdistill.models.classifier import Classifier
from webdistill.models.device import pick_device
from webdistill.models.zoo import build

HERE = Path(__file__).parent
DEFAULTS = HERE.parents[1] / "params.yaml"


@dataclass(frozen=True)
class Bench:
    """What all networks of the study share."""

    settings: Mapping[str, Any]
    work: Path
    until: float  # a call ends with the epoch in which time.monotonic() passes this

    @property
    def device(self) -> torch.device:
        return pick_device(self.settings["device"], "device")

    @property
    def normal(self) -> dict[str, tuple[float, float, float]]:
        return {name: tuple(self.settings[name]) for name in ("mean", "std")}

    def images(self, name: str) -> Tensor:
        """[N, S, S, 3] uint8 on the device."""
        return torch.from_numpy(read_parts(self.work, name)).to(self.device)

    def labels(self, name: str) -> Tensor:
        """[N] int64 on the device."""
        return torch.from_numpy(np.load(self.work / f"{name}_labels.npy")).to(self.device)

    def test(self, net: Classifier) -> float:
        """Accuracy on the test images."""
        found = accuracy(net, self.images("test"), self.labels("test"), **self.normal)
        return round(found, 6)

    def note(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a finished network to results.json."""
        path = self.work / "results.json"
        rows = json.loads(path.read_text()) if path.exists() else {}
        rows[name] = dict(row)
        write_json(rows, path)
        print(f"{name}: {row}", flush=True)


def teacher(bench: Bench) -> Classifier:
    """The trained teacher, from teacher.pt if it is there."""
    own, classes = bench.settings["teacher"], len(bench.settings["classes"])
    path = bench.work / "teacher.pt"
    if path.exists():
        net = build(own["architecture"], classes, bench.settings["prepare"]["image_size"])
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return net.to(bench.device).eval()
    net = train_with_labels(
        bench.images("train"), bench.labels("train"), own, own["lr"], own["seed"],
        architecture=own["architecture"], classes=classes, **bench.normal,
        state=bench.work / "teacher.state", until=bench.until,
    )  # fmt: skip
    bench.note("teacher", {"top1": bench.test(net), "architecture": own["architecture"]})
    _keep(net, path)
    (bench.work / "teacher.state").unlink(missing_ok=True)
    return net


def options(settings: Mapping[str, Any], arm: str) -> Distill:
    """Section distill of one arm. Raises UserError for a key that is none."""
    given = read_yaml(DEFAULTS)["distill"] | settings["distill"] | settings["arms"][arm]
    return Distill.model_validate(given)


def begin(bench: Bench, guide: Classifier, arm: str, seed: int) -> Run:
    """A student before its first epoch; everything random follows from the seed."""
    torch.manual_seed(seed)
    own, size = options(bench.settings, arm), bench.settings["prepare"]["image_size"]
    classes = tuple(bench.settings["classes"])
    method = build_method(own, build(own.student, len(classes), size).to(bench.device), guide, size)
    method.to(device=bench.device, memory_format=torch.channels_last)
    pool = bench.images("pool")
    ids = [f"{place:08d}" for place in range(len(pool))]
    held = held_out(ids, own.holdout)
    crops = {"seed": seed, "min_scale": own.min_scale, "mixup": own.mixup, "shift": own.shift}
    views, apart = (
        Views(pool[torch.from_numpy(which).to(bench.device)], **bench.normal, **crops)
        for which in (~held, held)
    )
    left = [name for name, out in zip(ids, held, strict=True) if not out]
    return Run(
        settings=own, seed=seed, views=views, teacher=guide, method=method, ids=left, classes=classes,
        weight=torch.ones(len(left), device=bench.device), held=apart if held.any() else None,
    )  # fmt: skip


def student(bench: Bench, guide: Classifier, arm: str, seed: int) -> None:
    """Train one student to its end, or raise OutOfTimeError with its state saved."""
    name = f"{arm}-{seed}"
    state, path = bench.work / f"{name}.state", bench.work / f"{name}.pt"
    run = begin(bench, guide, arm, seed)
    done = checkpoint.restore(run, state) if state.exists() else 0
    saved = time.monotonic()
    for number in range(done, run.settings.epochs):
        for _ in run.epoch(number):
            pass
        now = time.monotonic()
        print(f"{name} epoch {number + 1}/{run.settings.epochs}: {run.rows[-1]}", flush=True)
        late = now > bench.until and number + 1 < run.settings.epochs
        if late or now - saved > SAVE_EVERY:
            checkpoint.save(run, state)
            saved = now
        if late:
            raise OutOfTimeError
    row = {"top1": bench.test(run.method.student()), "arm": arm, "seed": seed, **run.rows[-1]}
    bench.note(name, row)
    _keep(run.method.student(), path)
    state.unlink(missing_ok=True)


def _keep(net: Classifier, path: Path) -> None:
    torch.save(net.state_dict(), path.with_suffix(".tmp"))
    replace(path.with_suffix(".tmp"), path)


def train(settings: Mapping[str, Any], work: Path, minutes: float) -> bool:
    """-> whether all networks are there now."""
    torch.set_num_threads(settings["threads"])
    bench = Bench(settings, work, time.monotonic() + 60 * minutes)
    try:
        guide = teacher(bench)
        for seed in settings["seeds"]:
            for arm in settings["arms"]:
                if not (work / f"{arm}-{seed}.pt").exists():
                    student(bench, guide, arm, seed)
    except OutOfTimeError:
        return False
    return True


def main(settings: Mapping[str, Any], minutes: float) -> None:
    whole = train(settings, HERE / "work", minutes)
    print("all networks are trained" if whole else "time is over: give the command again")


if __name__ == "__main__":
    run_study(
        main,
        argument(
            "--minutes",
            type=float,
            default=math.inf,
            help="stop after them, at the end of an epoch",
        ),
    )
