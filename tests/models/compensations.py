"""Compensations, and the same in naive loops."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from webdistill.models.compensation import HIDDEN, Compensation

K = 3  # classes


ATTENTIONS = ("additive", "dot", "random")


Z = torch.tensor([[3.0, 0.0], [0.0, 4.0]])  # the root of the mean of 9, 0, 0 and 16 is 2.5


PRIOR = torch.tensor([0.7, 0.3])


NOTHING = torch.zeros(2, 1)  # features, where logits are the query


def make(
    attention: str = "additive", points: Tensor = Z, shares: Tensor = PRIOR, prior: bool = True,
    query: str = "logits", inputs: int = K, outputs: int = K, centre: bool = False, fuse: str = "add",
) -> Compensation:  # fmt: skip
    """W_z reads F itself: neither mean nor length of F count, which have tests of their own."""
    options: Any = {"query": query, "attention": attention, "use_prior": prior, "fuse": fuse}
    torch.manual_seed(0)
    module = Compensation(inputs, outputs, *points.shape, centred=centre, **options)
    module.set_dictionary(points, shares)
    module.load_state_dict(module.as_it_was(), strict=False)
    return module.eval()


def lively(module: Compensation) -> Compensation:
    """Scores that differ, and a W_z that is not zero."""
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, std=1.0 if name == "fuse.weight" else 0.3)
    return module


def times(layer: nn.Linear, vector: list[float]) -> list[float]:
    rows = layer.weight.double().tolist()
    return [sum(w * x for w, x in zip(row, vector, strict=True)) for row in rows]


def naive(module: Compensation, query: list[float]) -> tuple[list[float], list[float], list[float]]:
    """One query -> lambda, F, W_z F."""
    points, scores = module.prototypes.double().tolist(), []
    for i, point in enumerate(points):
        if module.attention == "random":
            scores.append(module.scores[i].item())
            continue
        q, k = times(module.to_query, query), times(module.to_key, point)
        if module.attention == "dot":
            scores.append(sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(HIDDEN))
        else:
            meeting = [math.tanh(a + b) for a, b in zip(q, k, strict=True)]
            scores.append(times(module.to_score, meeting)[0])
    shares = [math.exp(s) / sum(math.exp(other) for other in scores) for s in scores]
    found = [0.0] * len(points[0])
    for share, prior, point in zip(shares, module.prior.tolist(), points, strict=True):
        factor = share * prior * len(points) if module.use_prior else share
        found = [f + factor * z for f, z in zip(found, point, strict=True)]
    return shares, found, times(module.fuse, found)
