"""DAFL (Chen et al. 2019, arXiv 1904.01186): a generator of images that the teacher is sure of, in every batch anew.

Generator and student learn from the same images in one step, as released. What is wished of an image is that the
teacher decides (one-hot), that its features are lively (activation), and that a batch shows all classes (balance); no
adversary. Natural logarithm where the release takes log10.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.distill import ranks
from stages.distill.method_params import DaflSettings
from stages.distill.methods import Batch, Method
from stages.distill.methods.kd import kl_divergence
from stages.distill.methods.mosaic import balance_loss
from stages.distill.methods.mosaic_networks import Generator
from stages.distill.methods.synthesis import SHOWN, normal
from webdistill.models.classifier import Classifier
from webdistill.models.device import device_of


def activation_loss(features: Tensor) -> Tensor:
    """-mean_i mean_j |h_ij| of the teacher's pooled features [B, C] (eq. 5; mean over features as released)."""
    return -features.abs().mean()


class Dafl(Method):
    """G: one_hot CE(T, argmax T) + activation (-mean |h_T|) + balance sum_c m_c log m_c. S: T^2 KL(T || S)."""

    needs_pool = False

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        image_size: int,
        temperature: float,
        settings: DaflSettings,
    ) -> None:
        super().__init__()
        self.net, self.temperature, self.settings = student, temperature, settings
        self.device = device_of(student)
        self.generator = Generator(settings.latent, image_size).to(self.device)
        self._teacher = (teacher,)  # in a tuple: no submodule, so neither trained nor saved

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        teacher, weight = self._teacher[0], self.settings
        noise = self._noise(ranks.count() * len(batch.rows), batch.rng)
        images = self.generator(ranks.part(noise))
        features = teacher.pool(teacher.features(images))
        answer = teacher.answer(features).float()
        self.reference = told = answer.detach()
        logits = self.net(images.detach()).float()
        return {
            "one_hot": weight.one_hot * F.cross_entropy(answer, told.argmax(1)),
            "activation": weight.activation * activation_loss(features.float()),
            "balance": weight.balance * balance_loss(answer),
            "kd": kl_divergence(logits, told, self.temperature, batch.weight),
        }, logits

    def _noise(self, count: int, rng: np.random.Generator) -> Tensor:
        return normal(count, self.settings.latent, rng, self.device)

    def student(self) -> Classifier:
        return self.net

    @torch.no_grad()
    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        images: Tensor = self.generator(self._noise(count, rng))
        return images

    def moment(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Of the same noise every time."""
        return self.draw(SHOWN, np.random.default_rng(0))

    def adam(self) -> list[dict[str, Any]]:
        return [{"params": list(self.generator.parameters()), "lr": self.settings.generator_lr}]
