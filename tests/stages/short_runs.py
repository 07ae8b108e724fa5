"""Trainings of a few epochs, and what tests compare of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.distill.checkpoint import restore, save
from stages.distill.loop import Run


def train(run: Run, stop: int) -> Run:
    """Go on until `stop` epochs are done, each of whole batches."""
    images = run.steps_per_epoch * run.settings.batch_size
    for number in range(len(run.rows), stop):
        assert sum(run.epoch(number)) == images
    return run


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in module.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether all that `one` names is bit for bit the same in `other`."""
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def check_resume(
    make: Callable[[], Run], folder: Path, killed_after: int, stop: int, whole: Run | None = None
) -> tuple[Run, Run]:
    """A training that goes on after `killed_after` epochs equals one that was never killed, bit for bit. -> both

    `whole`: the latter, where there is one.
    """
    whole = whole or train(make(), stop)
    save(train(make(), killed_after), folder / "state.pt")
    resumed = make()
    for tensor in resumed.method.state_dict().values():
        tensor.zero_()
    assert restore(resumed, folder / "state.pt") == killed_after
    assert train(resumed, stop).rows == whole.rows
    assert resumed.history.rows == whole.history.rows
    assert resumed.history.bits() == whole.history.bits()
    assert torch.equal(resumed.kept, whole.kept)
    before, after = whole.method.state_dict(), resumed.method.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    return whole, resumed
