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
normalised alike; the mask's penalty is a mean and the mask reaches 1 (there it is a sum over the batch beside a target
for one image, least where the mask is near 0 and z' near z); no choice looks at test images.

As in the released code, where the paper leaves room: the class balance has the logarithm to base 10; the BN term has
one vector of all layers' means and one of their variances, so its weight does not grow with the depth; the encoder's KL
has the weight 0.00025 beside an error summed over the dimensions; every module begins without the momentum of the one
before.

Other than there, on purpose:
- `anchor_lr` and `mask_start`: options. The release starts the mask at about 0.06, its README has the rate 1e-3. From
  1 - mask_ratio an untrained psi replaces most of z, so anchors of a class look alike; from 0.06 they are as different
  as z, but hundreds of steps hardly move the mask. The curve has `anchor_spread`, `mask_mean` and `mask_moved`.
- `encoder_lr`: 1e-3, an option. The release has 1e-4 for 200,000 steps, of which a run on a CPU has hundreds.
- The student learns by the run's optimizer, with the run's rate and curve, in modules 1 and 3. The release has Adam,
  1e-3, constant in module 3. One optimizer for all arms keeps their comparison about the method.
- z is the encoder's mean, there a sample of its distribution: so an image has one anchor, and its picture in the report
  changes with the training alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.distill import ranks
from stages.distill.method_params import AugKdSettings
from stages.distill.methods import Batch, Choice, Method, Pool, Reads
from stages.distill.methods.augkd_losses import (
    anchor_losses,
    encoder_loss,
    image_share,
    mixture,
    spread,
)
from stages.distill.methods.augkd_networks import Anchor, Encoder, Generator
from stages.distill.methods.kd import kl_divergence
from stages.distill.methods.mosaic import adversarial_loss, balance_loss, through
from stages.distill.methods.statistics import differences, whole_gap
from stages.distill.methods.supervised import labelled
from webdistill.models.classifier import Classifier
from webdistill.models.device import device_of

Module = Literal["free", "anchor", "mixup"]
READS: dict[Module, Reads] = {"free": "nothing", "anchor": "images", "mixup": "answers"}
ROUND = 6  # steps of a round in module 1: one of the generator, five of student and encoder
BALANCE = 20.0 / math.log(10)  # weight of the generator's class balance: 20 with log10, as released
ADAM = 1e-3  # of the generator


class AugKd(Method):
    """See the top of this file. Which module learns follows from the epoch, see `begin_epoch`."""

    noted = ("anchor_spread", "mask_mean", "mask_moved")

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        image_size: int,
        temperature: float,
        settings: AugKdSettings,
    ) -> None:
        super().__init__()
        classes, device = teacher.fc.out_features, device_of(student)
        self.net, self.temperature, self.settings = student, temperature, settings
        self.generator = Generator(settings.latent, image_size).to(device)
        self.encoder = Encoder(settings.latent, image_size, classes).to(device)
        self.anchor = Anchor(settings.latent, classes, settings.masked).to(device)
        self._teacher = (teacher,)  # in a tuple: no submodule, so neither trained nor saved
        self.module: Module = "mixup"  # whose turn it is,
        self._epoch, self._epochs = 0, 1  # and of module 3

    # -- schedule ------------------------------------------------------------------------------------------
    def phases(self, epochs: int) -> list[int]:
        before = [self.settings.free_epochs, self.settings.anchor_epochs]
        return [*before, epochs - sum(before)]

    def undecided(self, phase: int) -> set[str]:
        later = {"epochs", "temperature", "deconfound.inference"}
        later |= {f"augkd.{key}" for key in ("a", "b", "mixup", "teacher_weight")}
        if phase == 0:
            later |= {"min_scale", "views"}
            anchor = ("anchor_epochs", "anchor_lr", "mask_ratio", "mask_start", "uncertainty")
            later |= {f"augkd.{key}" for key in anchor}
        return later

    def needs_images(self, phase: int) -> bool:
        """Module 1 learns from the teacher alone."""
        return phase > 0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Whose turn it is, and how far module 3 has come."""
        free, anchor, mixup = self.phases(epochs)
        if epoch < free:
            self.module = "free"
        else:
            self.module = "anchor" if epoch < free + anchor else "mixup"
        self._epoch, self._epochs = max(epoch - free - anchor, 0), mixup
        self.figures = {}

    @property
    def reads(self) -> Reads:
        return READS[self.module]

    def select(self, pool: Pool, epoch: int, epochs: int) -> Choice | None:
        """All images whose keyword names a class."""
        return None if epoch else labelled(pool)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        match self.module:
            case "free":
                return self._free(batch)
            case "anchor":
                return self._learn_anchor(batch)
            case "mixup":
                return self._mix(batch)

    # -- module 1 ------------------------------------------------------------------------------------------
    def _free(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        count = ranks.count() * len(batch.rows)
        z = ranks.part(self._normal(count, batch.rng))
        if batch.step % ROUND == 0:
            return self._learn_generator(z)
        with torch.no_grad():
            images = self.generator(z)
            self.reference = answer = self._teacher[0](images).float()
        logits = self.net(images).float()
        mean, log_variance = self.encoder(images, answer.argmax(1))
        noise = ranks.part(self._normal(count, batch.rng))
        equal = torch.ones_like(z[:, 0])
        return {
            "dream_kd": kl_divergence(logits, answer, 1.0, equal),
            "encoder": encoder_loss(mean, log_variance, z, noise),
        }, logits

    def _learn_generator(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """-KL(T||S) + CE(T, argmax T) + 20 sum_c pbar_c log10 pbar_c + BN statistics; reaches G alone."""
        images = self.generator(z)
        with differences(self._teacher[0]) as found:
            answer = self._teacher[0](images).float()
        self.reference = answer.detach()
        logits = through(self.net, images).float()
        losses = {
            "adversarial": adversarial_loss(logits, answer),
            "one_hot": F.cross_entropy(answer, answer.argmax(1)),
            "balance": BALANCE * balance_loss(answer),
        }
        if found:
            losses["statistics"] = whole_gap(found)
        return losses, logits.detach()

    # -- module 2 ------------------------------------------------------------------------------------------
    def _learn_anchor(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        z, labels = self._encode(batch), _labels(batch)
        with _frozen(self.generator):
            anchors, mask = self.anchor(z, labels), self.anchor.mask(labels)
            images = self.generator(anchors)
            answer = self._teacher[0](images).float()
        self.reference = answer.detach()
        losses = anchor_losses(answer, mask, labels, self.settings)
        with torch.no_grad(), _evaluating(self.net):  # for the curve alone
            logits = self.net(images.detach()).float()
            whole = spread(ranks.whole(anchors), ranks.whole(z))
            found = whole, mask.mean(), self.anchor.moved()
            self.figures = dict(zip(self.noted, found, strict=True))
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
        own = self.settings
        rates = {self.generator: ADAM, self.encoder: own.encoder_lr, self.anchor: own.anchor_lr}
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
        if self.module == "free":
            return self._dream(z, labels, 1.0)
        if self.module == "anchor":
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
