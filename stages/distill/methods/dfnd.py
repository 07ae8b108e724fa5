"""DFND: learning student networks in the wild (CVPR 2021): the most confident images, and a noisy-label correction."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from stages.distill.method_params import DfndSettings
from stages.distill.methods import Batch, Choice, Method, Pool
from stages.distill.methods.kd import kl_divergence
from webdistill.models.classifier import Classifier
from webdistill.models.device import device_of


class NoiseAdaptation(nn.Module):
    """Row-stochastic Q [K, K]: how the teacher's label j arises from the true class i.

    The diagonal is the teacher's accuracy; the rest of each row is a learned distribution over the other classes.
    """

    def __init__(self, classes: int, accuracy: float) -> None:
        super().__init__()
        self.accuracy = accuracy
        self.scores = nn.Parameter(torch.zeros(classes, classes))

    def matrix(self) -> Tensor:
        """-> Q, rows sum to 1."""
        own = torch.eye(len(self.scores), device=self.scores.device, dtype=torch.bool)
        others = torch.softmax(self.scores.masked_fill(own, -math.inf), dim=1)
        return others * (1 - self.accuracy) + own * self.accuracy


def noisy_label_loss(student: Tensor, labels: Tensor, matrix: Tensor, weight: Tensor) -> Tensor:
    """Mean of -w_i log (softmax(z_i) Q)_{label_i}; logits [B, K], labels [B], Q [K, K], weight [B]."""
    with torch.autocast(student.device.type, enabled=False):  # bfloat16 has no room near 1
        adapted = torch.softmax(student.float(), dim=1) @ matrix.float()
    own = adapted.gather(1, labels[:, None])[:, 0]
    return -(weight * own.clamp_min(1e-12).log()).mean()


class Dfnd(Method):
    """T^2 KL + NLL(log(softmax(S) Q), argmax T), on the most confident share of the pool."""

    def __init__(
        self, student: Classifier, temperature: float, settings: DfndSettings, classes: int
    ) -> None:
        super().__init__()
        self.net, self.temperature, self.settings = student, temperature, settings
        self.noise = NoiseAdaptation(classes, settings.teacher_accuracy)
        self.noise.to(device_of(student))

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        logits = self.net(batch.images).float()
        labels = batch.teacher_logits.argmax(1)
        matrix = self.noise.matrix()
        return {
            "kd": kl_divergence(logits, batch.teacher_logits, self.temperature, batch.weight),
            "noisy_label": noisy_label_loss(logits, labels, matrix, batch.weight),
        }, logits

    def student(self) -> Classifier:
        return self.net

    def adam(self) -> list[dict[str, Any]]:
        return [{"params": list(self.noise.parameters()), "lr": 1e-3}]

    def select(self, pool: Pool, epoch: int, epochs: int) -> Choice | None:
        """Once: the share with the smallest -log max softmax(z_T), over all classes together."""
        if epoch:
            return None
        log_probability, label = torch.log_softmax(pool.teacher_logits.double(), dim=1).max(1)
        # -log p and not p, in float64: many probabilities round to 1 in float32
        rank = (-log_probability).argsort(stable=True)
        keep = torch.zeros(len(rank), dtype=torch.bool, device=rank.device)
        keep[rank[: max(1, round(self.settings.keep * len(rank)))]] = True
        return Choice(keep, label, log_probability.exp().float())
