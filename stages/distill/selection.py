"""KD3's dynamic instance selection as pure functions (arXiv 2307.11469, section 3.1)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Tail = Literal["drop", "continuous"]
CUTOFF = 0.95  # confidence asked of the most frequent pseudo-class


def mixing_weight(epoch: int, epochs: int, tail: Tail) -> float:
    """Share of the teacher's logits in the mixture: a(e) = 1 - exp(-5 ((e + E/240) / (2E/3) - 1)^2), then 0.

    Published for E = 240, where it reads (e + 1) / 160; here the whole curve goes by the fraction of the run, so that a
    short one, too, begins with the teacher. `drop`: 0 from E/2 on, as released (there a jumps from .27 to 0);
    `continuous`: the curve runs on to its zero at 2E/3 and stays there.
    """
    end = epochs / 2 if tail == "drop" else epochs * 2 / 3
    if epoch >= end:
        return 0.0
    return 1 - math.exp(-5 * ((epoch + epochs / 240) / (epochs * 2 / 3) - 1) ** 2)


def cutoffs(pseudo_class: Tensor, classes: int) -> Tensor:
    """Pseudo-classes [N] int64 -> confidence asked per class [K]: .95 b / (2 - b), b = n_c / max n."""
    counts = torch.bincount(pseudo_class, minlength=classes).float()
    share = counts / counts.max()
    return CUTOFF * share / (2 - share)


def mixed_confidence(teacher: Tensor, student: Tensor, mixing: float) -> tuple[Tensor, Tensor]:
    """Logits [N, K] -> (largest probability [N], its class [N]) of softmax(a z_T + (1 - a) z_S)."""
    probability = torch.softmax(mixing * teacher + (1 - mixing) * student, dim=1)
    confidence, pseudo_class = probability.max(1)
    return confidence, pseudo_class
