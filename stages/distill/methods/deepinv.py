"""DeepInversion (Yin et al. 2020, "Dreaming to distill", arXiv 1912.08795): pixels themselves are optimised.

Images start as noise and get the teacher's class and statistics, smoothness, a small norm, and a student that answers
otherwise (adaptive DeepInversion, whose measure is the Jensen-Shannon divergence).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.distill.method_params import DeepInvSettings
from stages.distill.methods.synthesis import RANGE, Best, Synthesis, moved, normal
from webdistill.models.classifier import Classifier

BETAS = (0.5, 0.9)
TEMPERATURE = 3.0  # of the adversary


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - JS(p, q), p = softmax(z_T / 3), q = softmax(z_S / 3), JS = (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2."""
    logs = [F.log_softmax(logits / TEMPERATURE, dim=1) for logits in (teacher, student)]
    middle = torch.logsumexp(torch.stack(logs), dim=0) - np.log(2)
    parts = [(each.exp() * (each - middle)).sum(1).mean() for each in logs]
    return 1 - (parts[0] + parts[1]) / 2


def variation(images: Tensor) -> Tensor:
    """Sum over four directions of |x - x moved by a pixel|_2, over all images [B, 3, H, W] together."""
    pairs = (
        (images[:, :, :, 1:], images[:, :, :, :-1]),
        (images[:, :, 1:, :], images[:, :, :-1, :]),
        (images[:, :, 1:, 1:], images[:, :, :-1, :-1]),
        (images[:, :, 1:, :-1], images[:, :, :-1, 1:]),
    )
    return torch.stack([(one - other).norm() for one, other in pairs]).sum()


class DeepInv(Synthesis):
    """See the top of this file."""

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        image_size: int,
        temperature: float,
        settings: DeepInvSettings,
    ) -> None:
        super().__init__(student, teacher, image_size, temperature, settings)
        self.settings = settings

    def round(self, rng: np.random.Generator, adversary: bool) -> Tensor:
        settings, targets, best = self.settings, self.targets(rng), Best()
        pixels = normal(settings.images, 3 * self.size**2, rng, self.device)
        images = pixels.view(-1, 3, self.size, self.size).requires_grad_()
        adam = torch.optim.Adam([images], lr=settings.rate, betas=BETAS)
        for _ in range(settings.steps):
            loss, _ = self.wishes(moved(images, rng), targets, adversary)
            loss = loss + settings.tv * variation(images)
            loss = loss + settings.l2 * images.flatten(1).norm(dim=1).mean()
            best.show(images, loss)
            adam.zero_grad()
            loss.backward()
            adam.step()
            images.data.clamp_(-RANGE, RANGE)
        return best.images

    def adversary(self, student: Tensor, teacher: Tensor) -> Tensor:
        return disagreement(student, teacher)
