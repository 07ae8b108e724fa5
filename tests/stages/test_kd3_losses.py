"""KD3's losses as the method puts them together, against naive loops in double precision (arXiv 2307.11469)."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.distill.methods.kd3 import Kd3
from tests.stages.feature_methods import batch, networks
from webdistill.models.projected import Projected

COUNT = 6


def spread(values: Tensor) -> tuple[float, float]:
    """-> mean, standard deviation"""
    every = values.flatten().tolist()
    mean = sum(every) / len(every)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in every) / len(every) + 1e-6)


def mixed(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Every image with channel statistics between its own and its partner's."""
    shares, partners = rng.beta(0.1, 0.1, len(images)), rng.permutation(len(images))
    out = torch.empty_like(images)
    for i, (share, partner) in enumerate(zip(shares, partners, strict=True)):
        for c in range(3):
            mean, deviation = spread(images[i, c])
            other_mean, other_deviation = spread(images[partner, c])
            new_mean = share * mean + (1 - share) * other_mean
            new_deviation = share * deviation + (1 - share) * other_deviation
            out[i, c] = (images[i, c] - mean) / deviation * new_deviation + new_mean
    return out


def embedded(head: torch.nn.Linear, maps: Tensor) -> list[list[float]]:
    """A linear map of the mean over positions, on the unit sphere."""
    found = []
    for row in (maps.mean(dim=(2, 3)) @ head.weight.T + head.bias).tolist():
        length = math.sqrt(sum(v * v for v in row))
        found.append([v / length for v in row])
    return found


def contrast_of(first: list[list[float]], second: list[list[float]]) -> float:
    """NT-Xent at 0.3: the mean over all views of both."""
    views, total, pairs = [*first, *second], 0.0, len(first)
    for i, view in enumerate(views):
        scores = {
            j: math.exp(sum(a * b for a, b in zip(view, other, strict=True)) / 0.3)
            for j, other in enumerate(views)
            if j != i
        }
        total -= math.log(scores[(i + pairs) % (2 * pairs)] / sum(scores.values()))
    return total / (2 * pairs)


def importance(student: Tensor, teacher: Tensor, weight: Tensor) -> list[float]:
    """Sigmoid of the distance of the logits, times the image's own weight."""
    rows = zip(student.tolist(), teacher.tolist(), weight.tolist(), strict=True)
    return [w / (1 + math.exp(-math.dist(s, t))) for s, t, w in rows]


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    p, q = ([math.exp(v / temperature) for v in logits.tolist()] for logits in (teacher, student))
    p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("contrast", ["cross", "student"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_each_term_of_the_losses_equals_the_naive_one(
    share: float, contrast: str, shared: bool
) -> None:
    method, teacher, chosen = networks(
        **{
            "kd3.contrast": contrast,
            "kd3.shared_classifier": shared,
            "kd3.contrast_share": share,
            "kd3.kl": 0.4,
        }
    )
    assert isinstance(method, Kd3)
    method.begin_epoch(1, 4)
    twin = copy.deepcopy(method.train()).double()
    given = batch(teacher, COUNT)
    # images of unlike brightness and contrast, so that to swap these changes what is seen
    images = given.images * torch.linspace(0.3, 3, COUNT).view(-1, 1, 1, 1)
    images += torch.linspace(-2, 2, COUNT).view(-1, 1, 1, 1)
    given = replace(given, images=images, weight=torch.linspace(0.5, 1.5, COUNT))
    assert given.teacher_maps is not None
    found, _ = method.losses(given)

    net = twin.student()
    backbone = net.backbone if isinstance(net, Projected) else net
    maps = backbone.features(images.double())
    target, answer = given.teacher_maps.double(), given.teacher_logits.double()
    part = round(share * COUNT)
    perturbed = backbone.features(mixed(images[:part].double(), np.random.default_rng(3)))
    anchor = (
        embedded(twin.teacher_head, target[:part])
        if contrast == "cross"
        else embedded(twin.head, maps[:part])
    )
    wanted = {"contrast": 0.001 * contrast_of(anchor, embedded(twin.head, perturbed))}
    if isinstance(net, Projected):
        projected = net.projector(maps)
        logits = net.fc(projected.mean(dim=(2, 3)))
        weight = importance(logits, answer, given.weight)
        late = [divergence(logits[i], answer[i], chosen.softness) for i in range(COUNT)]
        own = given.weight.tolist()
        wanted["kd"] = 0.1 * sum(w * gap for w, gap in zip(own, late, strict=True)) / COUNT
        gaps = [float((projected[i] - target[i]).square().mean()) for i in range(COUNT)]
        name = "features"
    else:
        logits = net.fc(maps.mean(dim=(2, 3)))
        weight = importance(logits, answer, given.weight)
        gaps = [divergence(logits[i], answer[i], chosen.softness) for i in range(COUNT)]
        name = "kd"
    wanted[name] = sum(w * gap for w, gap in zip(weight, gaps, strict=True)) / COUNT
    assert {term: float(value) for term, value in found.items()} == pytest.approx(wanted, rel=1e-4)
