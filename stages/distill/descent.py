"""The optimisers of a run and how their rates go: one curve for every phase of the method."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from stages.distill import ranks
from stages.distill.methods import Method
from stages.distill.muon import Muon
from stages.distill.params import SGD_DECAY, Distill
from stages.distill.rate import rate_factor


class Descent:
    """SGD or Muon for all that learns, Adam for what the method asks it for; a compensation has a rate of its own."""

    def __init__(
        self, method: Method, settings: Distill, phases: Sequence[int], steps_per_epoch: int
    ) -> None:
        self.settings, self.phases, self.steps_per_epoch = settings, phases, steps_per_epoch
        self.optimisers = _optimisers(method, settings)
        self._parameters = [
            p for each in self.optimisers for g in each.param_groups for p in g["params"]
        ]
        self._bases = [group["lr"] for each in self.optimisers for group in each.param_groups]

    def set_rates(self, step: int) -> None:
        """The rates of step `step` of the run (from 0): every phase has a curve of its own and begins without momentum.

        A phase's first step forgets what the optimisers remember of the phase before: its gradients were of other
        losses.
        """
        for epochs in self.phases:
            if step < epochs * self.steps_per_epoch:
                break
            step -= epochs * self.steps_per_epoch
        if step == 0:
            for optimiser in self.optimisers:
                optimiser.state.clear()
        factor = rate_factor(
            step,
            epochs * self.steps_per_epoch,
            round(min(self.settings.warmup_epochs, epochs) * self.steps_per_epoch),
            self.settings.decay,
        )
        groups = chain.from_iterable(each.param_groups for each in self.optimisers)
        for base, group in zip(self._bases, groups, strict=True):
            group["lr"] = base * factor

    def step(self, loss: Tensor) -> None:
        """Follow the gradient of `loss` [], averaged over the ranks, once."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        ranks.average_gradients(self._parameters)
        for optimiser in self.optimisers:
            optimiser.step()


def _optimisers(method: Method, settings: Distill) -> list[torch.optim.Optimizer]:
    groups = method.adam()
    compensation = method.student().compensation
    added = list(compensation.parameters()) if compensation is not None else []
    taken = {id(p) for group in groups for p in group["params"]} | {id(p) for p in added}
    parameters = [p for p in method.parameters() if p.requires_grad and id(p) not in taken]
    own = settings.rates
    decay = {"weight_decay": own.weight_decay}
    matrices = {"params": [p for p in parameters if p.ndim > 1], **decay}
    vectors = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    optimisers: list[torch.optim.Optimizer] = []
    if own.optimizer == "muon":
        optimisers.append(Muon([matrices, vectors], own.lr))
    else:
        optimisers.append(_sgd([matrices, vectors], own.lr))
    if added:
        kept = own.weight_decay if own.optimizer == "sgd" else SGD_DECAY
        weights = {"params": added, "weight_decay": kept}
        optimisers.append(_sgd([weights], settings.compensation_lr))
    return [*optimisers, torch.optim.Adam(groups)] if groups else optimisers


def _sgd(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
