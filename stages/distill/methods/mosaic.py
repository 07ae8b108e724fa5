"""MosaicKD (Fang et al. 2021, arXiv 2110.15094): local patterns of the pool, put together to what the teacher knows.

A generator G makes mosaics x = G(z). A patch discriminator D wants them to look like the pool in every small patch, the
teacher T wants them to look like its classes as a whole, and G seeks those that the student S gets wrong. S learns from
mosaics and pool alike. Equation numbers are the paper's as the authors' release quotes them; where the two leave room
or this project differs, it says "our reading".

Our reading of the schedule: all players step once per batch, from the same mosaics (the release steps D, then G, then S
five times on new mosaics).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from stages.distill import ranks
from stages.distill.method_params import MosaicSettings
from stages.distill.methods import Batch, Method
from stages.distill.methods.kd import kl_divergence
from stages.distill.methods.mosaic_networks import Generator, PatchDiscriminator
from webdistill.models.classifier import Classifier
from webdistill.models.device import device_of


def local_loss(fake: Tensor) -> Tensor:
    """mean_i sum_p -log sigmoid(d_ip): generated patches pass for the pool's (eq. 3); patch logits [B, 1, h, w].

    Summed over patches as released, which the weights of the losses take for granted.
    """
    return F.softplus(-fake).sum(dim=(1, 2, 3)).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """(mean_i sum_p -log sigmoid(d(x_i)_p) + mean_i sum_p -log(1 - sigmoid(d(G(z_i))_p))) / 2; patch logits.

    Our reading: without the weight `local`, as Adam's steps do not depend on it.
    """
    return (local_loss(real) + local_loss(-fake)) / 2


def align_loss(teacher: Tensor) -> Tensor:
    """mean_i -sum_c p_ic log p_ic, p = softmax(T(G(z))): the teacher is sure of a mosaic (eq. 4); logits [B, K]."""
    log_probability = F.log_softmax(teacher, dim=1)
    return -(log_probability.exp() * log_probability).sum(1).mean()


def balance_loss(teacher: Tensor) -> Tensor:
    """sum_c m_c log m_c, m = mean_i softmax(T(G(z_i))): mosaics spread over the classes (appendix); logits [B, K].

    Over the mosaics of all ranks. Natural logarithm; the release takes log2, that is 1.44 times the weight.
    """
    log_probability = ranks.whole(F.log_softmax(teacher, dim=1))
    log_mean = torch.logsumexp(log_probability, dim=0) - math.log(len(log_probability))
    return (log_mean.exp() * log_mean).sum()


def adversarial_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """-mean_i KL(softmax(z_T) || softmax(z_S)): mosaics on which the student is wrong (eq. 7); logits [B, K]."""
    return -kl_divergence(student, teacher, 1.0, torch.ones_like(teacher[:, 0]))


def through(net: nn.Module, images: Tensor) -> Tensor:
    """net(images) as a fixed function in the mode that `net` is in: the gradient reaches the images, no weight of
    `net`, and the running statistics of its batch normalisation stay as they are.
    """
    weights = {name: each.detach() for name, each in net.named_parameters()}
    buffers = {name: each.clone() for name, each in net.named_buffers()}
    return functional_call(net, weights | buffers, (images,))


class Mosaic(Method):
    """S: (T^2 KL on pool views + T^2 KL on mosaics) / 2. G: local, align, balance and adversarial loss. D: its own.

    The student sees views and mosaics in one batch, as released, and only then do its running statistics move. Its
    answer for G comes with the statistics of the mosaics alone, as released, but leaves no trace (our reading).
    """

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        image_size: int,
        temperature: float,
        settings: MosaicSettings,
    ) -> None:
        super().__init__()
        self.net, self.temperature, self.settings = student, temperature, settings
        device = device_of(student)
        self.generator = Generator(settings.latent, image_size).to(device)
        self.discriminator = PatchDiscriminator().to(device)
        self._teacher = (teacher,)  # in a tuple: no submodule, so neither trained nor saved

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        noise = self._noise(ranks.count() * len(batch.images), batch.rng)
        mosaics = self.generator(ranks.part(noise))
        answer = self._teacher[0](mosaics).float()
        losses = self._generator_losses(mosaics, answer)
        mosaics, answer = mosaics.detach(), answer.detach()
        real, fake = self.discriminator(batch.images), self.discriminator(mosaics)
        losses["discriminator"] = discriminator_loss(real.float(), fake.float())
        views, mosaic = self.net(torch.cat([batch.images, mosaics])).float().chunk(2)
        equal = torch.ones_like(batch.weight)
        temperature = self.temperature
        losses["kd"] = kl_divergence(views, batch.teacher_logits, temperature, batch.weight) / 2
        losses["mosaic_kd"] = kl_divergence(mosaic, answer, temperature, equal) / 2
        return losses, views

    def _generator_losses(self, mosaics: Tensor, answer: Tensor) -> dict[str, Tensor]:
        """Mosaics and the teacher's logits of them, both with their graph -> losses that only G learns from."""
        weight = self.settings
        student = through(self.net, mosaics).float()
        patches = through(self.discriminator, mosaics).float()
        return {
            "local": weight.local * local_loss(patches),
            "align": weight.align * align_loss(answer),
            "balance": weight.balance * balance_loss(answer),
            "adversarial": weight.adversarial * adversarial_loss(student, answer),
        }

    def _noise(self, count: int, rng: np.random.Generator) -> Tensor:
        noise = rng.standard_normal((count, self.settings.latent), dtype=np.float32)
        device = device_of(self.generator)
        return torch.from_numpy(noise).to(device, non_blocking=True)

    @torch.no_grad()
    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        mosaics: Tensor = self.generator(self._noise(count, rng))
        return mosaics

    def student(self) -> Classifier:
        return self.net

    def adam(self) -> list[dict[str, Any]]:
        parameters = [*self.generator.parameters(), *self.discriminator.parameters()]
        return [{"params": parameters, "lr": self.settings.generator_lr, "betas": (0.5, 0.999)}]
