"""AuG-KD (ICLR 2024, arXiv 2403.07030): from what the teacher dreams to what the student's domain shows.

Three modules, one after the other, each with a rate curve of its own:

1. data-free learning (`free_epochs`): a generator G of images that the teacher T knows, an encoder E back to their
   latent vectors, and a first student S. One generator step, then five of student and encoder.
2. anchor learning (`anchor_epochs`): a class mask and a mapping psi, so that G(z') of an image's anchor z' leaves T
   less uncertain than G(z), z = E(x, y), while `mask_ratio` of the dimensions of z stay.
3. mixup learning: S learns from the images and from mixtures that begin near G(z') and end in the images, by labels
   and by the teacher's answers (`teacher_weight`).

Needs a class for every image: the search keyword's. Faults of the released code that are not repeated: in module 3 the
soft targets are the teacher's, not the student's own, which leaves labels alone (`teacher_weight: 0`); all images are
normalised alike; the mask's penalty is a mean and the mask reaches 1; no choice looks at test images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from stages.distill.methods import Batch, Choice, Method, Pool
from stages.distill.methods.kd import kl_divergence
from stages.distill.methods.mosaic import adversarial_loss, balance_loss, through
from stages.distill.methods.supervised import labelled
from stages.distill.params import AugKdSettings, Uncertainty
from webdistill.models.cifar import Classifier
from webdistill.models.dreams import Anchor, Encoder, Generator

ROUND = 6  # steps of a round in module 1: one of the generator, five of student and encoder
BALANCE = 20.0  # weight of the generator's class balance
KL_WEIGHT = 0.00025  # of the encoder's distance to N(0, I)
LABEL_WEIGHT = 0.1  # of the anchor's cross-entropy
ADAM = 1e-3  # of generator and encoder,
ANCHOR_ADAM = 1e-4  # and of the anchor, as released; anchors look alike, and with 1e-3 even more so


def energy(logits: Tensor) -> Tensor:
    """-logsumexp_k z_k [B] of logits [B, K]: low where the teacher is sure."""
    return -torch.logsumexp(logits, dim=1)


def uncertainty(logits: Tensor, kind: Uncertainty) -> Tensor:
    """Logits [B, K] -> U [B]: `energy`, or `max_softmax`: 1 - max_k softmax(z)_k."""
    return energy(logits) if kind == "energy" else 1 - torch.softmax(logits, dim=1).amax(1)


def anchor_losses(
    logits: Tensor, mask: Tensor, labels: Tensor, settings: AugKdSettings
) -> dict[str, Tensor]:
    """mean U(T(G(z'))), | mean_B sum_d m - d (1 - mask_ratio) |, 0.1 CE(T(G(z')), y); logits [B, K], mask [B, d]."""
    covered = mask.shape[1] * (1 - settings.mask_ratio)
    return {
        "uncertainty": uncertainty(logits, settings.uncertainty).mean(),
        "mask": (mask.sum(1).mean() - covered).abs(),
        "anchor_label": LABEL_WEIGHT * F.cross_entropy(logits, labels),
    }


def encoder_loss(mean: Tensor, log_variance: Tensor, z: Tensor, noise: Tensor) -> Tensor:
    """MSE(mean + noise exp(log_variance / 2), z) + 0.00025 KL(N(mean, var) || N(0, I)); all [B, d].

    KL summed over dimensions, mean over the batch: (var + mean^2 - 1 - log var) / 2.
    """
    drawn = mean + noise * (log_variance / 2).exp()
    kl = (log_variance.exp() + mean.square() - 1 - log_variance).sum(1).mean() / 2
    return F.mse_loss(drawn, z) + KL_WEIGHT * kl


def image_share(epoch: float, epochs: float, a: float, b: float) -> float:
    """s(e) = min(b + (1 - b) e / (a E), 1): the image's share of a mixture in epoch e of E."""
    return min(b + (1 - b) * epoch / (a * epochs), 1.0)


def mixture(share: float, images: Tensor, dreams: Tensor) -> Tensor:
    """x_m = (1 - s) dreams + s x, both [B, 3, H, W] in the same normalised space."""
    return (1 - share) * dreams + share * images


@contextmanager
def statistics_gap(net: nn.Module) -> Iterator[list[Tensor]]:
    """Collects ||mean_B - mu||_2 + ||var_B - sigma^2||_2 of every BN layer's input in forward passes made inside."""
    gaps: list[Tensor] = []

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        x = inputs[0].float()
        if norm.running_mean is None or norm.running_var is None:
            return
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x, dim=axes, correction=0)
        gaps.append((mean - norm.running_mean).norm() + (variance - norm.running_var).norm())

    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        yield gaps
    finally:
        for hook in hooks:
            hook.remove()


class AugKd(Method):
    """See the top of this file. Which module learns follows from the epoch."""

    draws = True

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        image_size: int,
        temperature: float,
        settings: AugKdSettings,
    ) -> None:
        super().__init__()
        classes, device = teacher.fc.out_features, next(student.parameters()).device
        self.net, self.temperature, self.settings = student, temperature, settings
        self.generator = Generator(settings.latent, image_size).to(device)
        self.encoder = Encoder(settings.latent, image_size, classes).to(device)
        self.anchor = Anchor(settings.latent, classes, 1 - settings.mask_ratio).to(device)
        self._teacher = (teacher,)  # in a tuple: no submodule, so neither trained nor saved
        self._anchoring = False  # whether it is module 2's turn
        self._epoch, self._epochs = 0, 1  # of module 3

    # -- schedule ------------------------------------------------------------------------------------------
    def phases(self, epochs: int) -> list[int]:
        before = [self.settings.free_epochs, self.settings.anchor_epochs]
        return [*before, epochs - sum(before)]

    def undecided(self, phase: int) -> set[str]:
        later = {"epochs", "temperature", "deconfound.inference"}
        later |= {f"augkd.{key}" for key in ("a", "b", "mixup", "teacher_weight")}
        if phase == 0:
            later |= {"min_scale", "views"}
            later |= {f"augkd.{key}" for key in ("anchor_epochs", "mask_ratio", "uncertainty")}
        return later

    def select(self, pool: Pool, epoch: int, epochs: int) -> Choice | None:
        """All images whose keyword names a class; and which module's turn it is."""
        free, anchor, mixup = self.phases(epochs)
        self.sees_pool = epoch >= free
        self._anchoring = free <= epoch < free + anchor
        self.asks_teacher = not self._anchoring
        self._epoch, self._epochs = max(epoch - free - anchor, 0), mixup
        return None if epoch else labelled(pool)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        if not self.sees_pool:
            return self._free(batch)
        return self._learn_anchor(batch) if self._anchoring else self._mix(batch)

    # -- module 1 ------------------------------------------------------------------------------------------
    def _free(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        z = self._normal(len(batch.rows), batch.rng)
        if batch.step % ROUND == 0:
            return self._learn_generator(z)
        with torch.no_grad():
            images = self.generator(z)
            self.reference = answer = self._teacher[0](images).float()
        logits = self.net(images).float()
        mean, log_variance = self.encoder(images, answer.argmax(1))
        noise = self._normal(len(z), batch.rng)
        equal = torch.ones_like(z[:, 0])
        return {
            "dream_kd": kl_divergence(logits, answer, 1.0, equal),
            "encoder": encoder_loss(mean, log_variance, z, noise),
        }, logits

    def _learn_generator(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """-KL(T||S) + CE(T, argmax T) + 20 sum_c pbar_c log pbar_c + BN statistics; reaches G alone."""
        images = self.generator(z)
        with statistics_gap(self._teacher[0]) as gaps:
            answer = self._teacher[0](images).float()
        self.reference = answer.detach()
        logits = through(self.net, images).float()
        losses = {
            "adversarial": adversarial_loss(logits, answer),
            "one_hot": F.cross_entropy(answer, answer.argmax(1)),
            "balance": BALANCE * balance_loss(answer),
        }
        if gaps:
            losses["statistics"] = torch.stack(gaps).sum()
        return losses, logits.detach()

    # -- module 2 ------------------------------------------------------------------------------------------
    def _learn_anchor(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        z, labels = self._encode(batch), _labels(batch)
        with _frozen(self.generator):
            images = self.generator(self.anchor(z, labels))
            answer = self._teacher[0](images).float()
        self.reference = answer.detach()
        losses = anchor_losses(answer, self.anchor.mask(labels), labels, self.settings)
        with torch.no_grad(), _evaluating(self.net):
            logits = self.net(images.detach()).float()  # for the curve alone
        return losses, logits

    # -- module 3 ------------------------------------------------------------------------------------------
    def _mix(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """(1 - w) CE(S, y) + w T^2 KL(T || S) over images and their mixtures, w = `teacher_weight`; T^2 as released."""
        images, answer, labels = batch.images, batch.teacher_logits, _labels(batch)
        weight, self.reference = batch.weight, answer
        share = image_share(self._epoch, self._epochs, self.settings.a, self.settings.b)
        if self.settings.mixup and share < 1:  # at 1 a mixture is its image and doubles nothing
            with torch.no_grad():
                mixed = mixture(share, images, self._dream(self._encode(batch), labels, share))
                images = torch.cat([images, mixed])
                if self.settings.teacher_weight:
                    answer = torch.cat([answer, self._teacher[0](mixed).float()])
            labels, weight = labels.repeat(2), weight.repeat(2)
        logits = self.net(images).float()
        cross_entropy = (weight * F.cross_entropy(logits, labels, reduction="none")).mean()
        taught = self.settings.teacher_weight
        losses = {"label": (1 - taught) * cross_entropy}
        if taught:
            losses["kd"] = taught * kl_divergence(logits, answer, self.temperature, weight)
        return losses, logits[: len(batch.images)]

    def _dream(self, z: Tensor, labels: Tensor, share: float) -> Tensor:
        """G((1 - s) z' + s z); without an anchor z' = z."""
        if self.settings.anchor_epochs:
            z = (1 - share) * self.anchor(z, labels) + share * z
        with _evaluating(self.generator):
            images: Tensor = self.generator(z)
        return images

    @torch.no_grad()
    def _encode(self, batch: Batch) -> Tensor:
        with _evaluating(self.encoder):
            mean: Tensor = self.encoder(batch.images, _labels(batch))[0]
        return mean

    def _normal(self, count: int, rng: np.random.Generator) -> Tensor:
        noise = rng.standard_normal((count, self.settings.latent), dtype=np.float32)
        return torch.from_numpy(noise).to(self.anchor.scores.weight.device, non_blocking=True)

    # -- what the stage asks for ---------------------------------------------------------------------------
    def student(self) -> Classifier:
        return self.net

    def adam(self) -> list[dict[str, Any]]:
        rates = {self.generator: ADAM, self.encoder: ADAM, self.anchor: ANCHOR_ADAM}
        return [{"params": list(net.parameters()), "lr": rate} for net, rate in rates.items()]

    @torch.no_grad()
    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        with _evaluating(self.generator):
            images: Tensor = self.generator(self._normal(count, rng))
        return images

    @torch.no_grad()
    def moment(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """G(z) in module 1, G(z') in module 2, the mixture of now in module 3; None where nothing is mixed."""
        with _evaluating(self.encoder):
            z = self.encoder(images, labels)[0]
        if not self.sees_pool:
            return self._dream(z, labels, 1.0)
        if self._anchoring:
            return self._dream(z, labels, 0.0)
        share = image_share(self._epoch, self._epochs, self.settings.a, self.settings.b)
        if not self.settings.mixup:
            return None
        return mixture(share, images, self._dream(z, labels, share))


def _labels(batch: Batch) -> Tensor:
    assert batch.labels is not None
    return batch.labels


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Inside, `net` is in eval mode: running statistics are used and kept."""
    was_training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(was_training)


@contextmanager
def _frozen(net: nn.Module) -> Iterator[None]:
    """Inside, `net` is in eval mode and its weights take no gradient; its inputs do."""
    parameters = [each for each in net.parameters() if each.requires_grad]
    with _evaluating(net):
        for each in parameters:
            each.requires_grad_(False)
        try:
            yield
        finally:
            for each in parameters:
                each.requires_grad_(True)
