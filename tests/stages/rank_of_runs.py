"""python -m tests.stages.rank_of_runs FOLDER RANK COUNT: small runs trained as one rank of COUNT, what came saved."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.distill import ranks
from stages.distill.deconfound import Dictionary, attach
from stages.distill.group import joined
from stages.distill.loop import Run
from stages.distill.params import Distill
from stages.distill.together import together
from tests.stages.test_distill import make
from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier

EPOCHS, STEPS = 3, 2
# name -> parameters of a run; every loss that is no mean over images is among them
RUNS: dict[str, dict[str, Any]] = {
    "kd": {"method": "kd", "views": 0},
    "kd with muon": {"method": "kd", "optimizer": "muon", "lr": 0.01},
    "kd with dropout": {"method": "kd"},
    "kd, compensated": {"method": "kd", "deconfound.dictionary": "prototypes"},
    "dfnd": {"method": "dfnd"},
    "simkd": {"method": "simkd"},
    "simkd, compensated": {"method": "simkd", "deconfound.dictionary": "prototypes"},
    "kd3": {"method": "kd3", "kd3.weighting": "standardised", "kd3.contrast_weight": 0.5},
    "kd3, contrast student": {"method": "kd3", "kd3.contrast": "student", "kd3.kl": 0.5},
    "kd3, its own classifier": {"method": "kd3", "kd3.shared_classifier": False},
    "supervised": {"method": "supervised"},
    "odsd": {"method": "odsd"},
    "mosaic": {"method": "mosaic"},
    "augkd": {"method": "augkd"},
    "dafl": {"method": "dafl", "lr": 0.002},
}
SHARED = {"size": 8, "epochs": EPOCHS, "steps_per_epoch": STEPS, "lr": 0.02, "warmup_epochs": 0.0}


class SometimesSkipped(nn.Module):
    """As libraries do it: images that are drawn pass as zeros."""

    def forward(self, x: Tensor) -> Tensor:
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(0.7)
        return x * kept if self.training else x


def run_of(name: str, **changes: Any) -> Run:
    run = make(**(SHARED | RUNS[name] | changes))
    student = run.method.student()
    if name.endswith("dropout"):
        student.neck = nn.Sequential(nn.Dropout(0.3), SometimesSkipped())
    if name.endswith("compensated"):
        run = compensated(run, student)
    run.weight.copy_(torch.linspace(0.5, 1.5, len(run.weight)))
    return run


def compensated(run: Run, student: Classifier) -> Run:
    generator = torch.Generator().manual_seed(3)
    prototypes = torch.rand(6, 4, generator=generator)
    settings: Distill = run.settings
    attach(run.method, settings.deconfound, Dictionary(prototypes, torch.full((6,), 1 / 6)), 4)
    facts = ("settings", "seed", "views", "teacher", "method", "weight", "ids", "classes", "labels")
    return Run(**{fact: getattr(run, fact) for fact in facts})  # whose optimiser knows of it


def in_float64() -> None:
    """Whatever asks for float32 gets float64."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    plain = torch.from_numpy

    def from_numpy(values: Any) -> Tensor:
        return plain(values.astype(np.float64) if values.dtype == np.float32 else values)

    torch.from_numpy = from_numpy


def found(run: Run, epochs: int) -> dict[str, Any]:
    """What a run gave, after so many epochs."""
    for number in range(epochs):
        list(run.epoch(number))
    state = {key: value.clone() for key, value in run.method.state_dict().items()}
    return {"state": state, "rows": run.rows, "history": run.history.rows}


def message() -> str:
    """What is said of a loss that is not finite on one rank alone."""
    run = make(**SHARED, method="kd")
    run.weight[5] = math.nan
    try:
        list(run.epoch(0))
    except UserError as error:
        return str(error)
    return ""


def norms() -> list[Tensor]:
    """Of layers of every shape: answers, gradients of the input and of the weights, running statistics."""
    generator = torch.Generator().manual_seed(0)
    results: list[Tensor] = []
    for shape, layer in (
        ((8, 5), nn.BatchNorm1d(5)),
        ((8, 5, 7), nn.BatchNorm1d(5, momentum=None)),
        ((8, 5, 6, 6), nn.BatchNorm2d(5)),
        ((8, 5, 6, 6), nn.BatchNorm2d(5, affine=False, track_running_stats=False)),
        ((8, 5, 1, 1), nn.BatchNorm2d(5, momentum=0.0)),
    ):
        x, slope = (torch.randn(2, *shape, generator=generator) * 3 + 2).unbind()
        own = ranks.part(x).requires_grad_()
        for weight in layer.parameters():
            nn.init.uniform_(weight, 0.5, 1.5, generator=generator)
        for training in (True, True, False):
            layer.train(training)
            own.grad = None
            layer.zero_grad()
            with together():
                y = layer(own)
            y.backward(ranks.part(slope))
            ranks.average_gradients(layer.parameters())
            assert own.grad is not None
            sums = [
                each.grad * ranks.count() for each in layer.parameters() if each.grad is not None
            ]
            results += [*map(ranks.whole, (y.detach(), own.grad)), *sums]
            results += [each.clone() for each in layer.buffers()]
    with together():
        assert F.batch_norm(x.bfloat16(), None, None, training=True).dtype == torch.bfloat16
    return results


def turns() -> list[dict[str, Tensor]]:
    """Parts of unequal length, fewer than the ranks and more, with maps in both memory formats."""

    def work(parts: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
        for rows in parts:
            maps = rows.view(-1, 1, 1, 1) * torch.ones(1, 3, 2, 2).bfloat16()
            last = maps.contiguous(memory_format=torch.channels_last)
            yield {"rows": rows + 0.5, "maps": maps, "last": last}

    given = [torch.arange(count).split(4) for count in (3, 8, 17)]
    return [dict(each) for parts in given for each in ranks.in_turn(parts, work)]


def main(folder: Path, rank: int, count: int) -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {}

    def work() -> None:
        for name in RUNS:
            run = run_of(name, steps_per_epoch=1)
            results[f"{name}, one step"] = found(run, 1)
        results["message"] = message()
        in_float64()
        for name in RUNS:
            results[name] = found(run_of(name), EPOCHS)
        results["norms"], results["turns"] = norms(), turns()

    if count == 1:
        work()
    else:
        with joined(rank, count, folder, torch.device("cpu")):
            work()
    torch.save(results, folder / f"{count}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
