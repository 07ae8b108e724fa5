"""KD3: knowledge distillation between different distributions (ICCV 2023, arXiv 2307.11469).

Three parts, each with a switch: dynamic instance selection, weighted feature alignment through the teacher's own
classifier, and the MixDistribution contrastive block. Reimplemented from the published mathematics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from stages.distill import ranks
from stages.distill.method_params import Kd3Settings, Weighting
from stages.distill.methods import Batch, Choice, Pool
from stages.distill.methods.kd import kl_divergence
from stages.distill.methods.simkd import FeatureMethod, feature_loss, join
from stages.distill.selection import cutoffs, mixed_confidence, mixing_weight
from webdistill.models.classifier import Classifier
from webdistill.models.device import device_of
from webdistill.models.projected import Projected

EMBEDDING = 128  # dimensions of the contrastive heads
TEMPERATURE = 0.3  # of the contrastive loss
BETA = 0.1  # both parameters of the distribution that mixes channel statistics


def disagreement_weight(student: Tensor, teacher: Tensor, weighting: Weighting) -> Tensor:
    """Logits [B, K] -> w_i [B], detached: sigmoid(||z_S - z_T||_2) in [.5, 1); `agreement` mirrors it: 1.5 - w.

    Published, and close to 1 for every image: distances of logits are mostly above 4. `standardised`, our addition:
    2 sigmoid of the distance minus the batch's mean, divided by its deviation; in (0, 2), on average about 1.
    """
    if weighting == "none":
        return torch.ones(len(student), device=student.device)
    distance = (student - teacher).detach().float().norm(dim=1)
    if weighting == "standardised":
        batch = ranks.whole(distance)
        spread = batch.std(unbiased=False).clamp_min(1e-6)
        return 2 * torch.sigmoid((distance - batch.mean()) / spread)
    weight = torch.sigmoid(distance)
    return weight if weighting == "disagreement" else 1.5 - weight


def mix_distribution(images: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """x~ = (x - mu) / sigma * sigma' + mu', with mu' = l mu + (1 - l) mu_partner and sigma' likewise.

    images [B, 3, H, W]; share l [B] in [0, 1]; partner [B] int64, of the images of all ranks. Statistics per image and
    channel over H x W.
    """
    mean = images.mean(dim=(2, 3), keepdim=True)
    deviation = (images.var(dim=(2, 3), keepdim=True, unbiased=False) + 1e-6).sqrt()
    share = share.view(-1, 1, 1, 1)
    new_mean = share * mean + (1 - share) * ranks.whole(mean)[partner]
    new_deviation = share * deviation + (1 - share) * ranks.whole(deviation)[partner]
    return (images - mean) / deviation * new_deviation + new_mean


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Symmetric NT-Xent (SimCLR, arXiv 2002.05709) over 2B unit vectors; first[i] and second[i] [B, D] are a pair.

    Mean over all 2B views v of -log( exp(v.v+ / t) / sum_{u != v} exp(v.u / t) ).
    """
    views = torch.cat([first, second]).float()
    with torch.autocast(views.device.type, enabled=False):  # cosines need float32
        similarity = views @ views.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    count = len(first)
    positive = torch.arange(2 * count, device=views.device).roll(count)
    return F.cross_entropy(similarity, positive)


def draw_mixture(
    rng: np.random.Generator, count: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For `count` images, of which this rank has B -> shares [B] ~ Beta(.1, .1), partners [B] (of a permutation)."""
    share = torch.from_numpy(rng.beta(BETA, BETA, count).astype(np.float32))
    partner = torch.from_numpy(rng.permutation(count))
    return (
        ranks.part(share).to(device, non_blocking=True),
        ranks.part(partner).to(device, non_blocking=True),
    )


@contextmanager
def statistics_kept(net: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation in `net` uses the batch's statistics but does not add them to the running ones.

    Our reading: the student is tested on images, not on their perturbed versions.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class Head(nn.Linear):
    """Linear map to the unit sphere of EMBEDDING dimensions."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, EMBEDDING)

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(super().forward(features).float(), dim=1)


class Kd3(FeatureMethod):
    """L = mean w_i (projector(F_S) - F_T)^2 / variance of F_T + contrast_weight * NT-Xent + kl e / E * KL.

    The published method has no KL divergence and perturbs every image (`kl: 0`, `contrast_share: 1.0`).

    Without `shared_classifier` the student keeps its own, and w_i weighs the KL divergence instead (our reading: the
    paper does not say what its ablation trains on).
    """

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        image_size: int,
        temperature: float,
        settings: Kd3Settings,
    ) -> None:
        super().__init__()
        self.settings, self.temperature = settings, temperature
        self.late_kl = settings.kl
        width, device = student.channels, device_of(teacher)
        cross = settings.mixdistribution and settings.contrast == "cross"
        self.needs_maps = settings.shared_classifier or cross
        self.net = (
            join(student, teacher, image_size, settings.projector_width)
            if settings.shared_classifier
            else student
        )
        if settings.mixdistribution:
            self.head = Head(width).to(device)
        if cross:
            self.teacher_head = Head(teacher.channels).to(device)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        settings = self.settings
        maps = self._backbone(batch.images)
        if isinstance(self.net, Projected):
            assert batch.teacher_maps is not None
            projected = self.net.project(maps)
            logits = self.net.classify(projected).float()
            weight = self._weight(logits, batch)
            loss = feature_loss(projected, batch.teacher_maps, weight) / self.variance
            losses = {"features": loss}
            if self.late_kl:
                told = kl_divergence(logits, batch.teacher_logits, self.temperature, batch.weight)
                losses["kd"] = self.kl * told
        else:
            logits = self.net.classify(maps).float()
            weight = self._weight(logits, batch)
            losses = {"kd": kl_divergence(logits, batch.teacher_logits, self.temperature, weight)}
        if settings.mixdistribution:
            losses["contrast"] = settings.contrast_weight * self._contrast(batch, maps)
        return losses, logits

    def _weight(self, logits: Tensor, batch: Batch) -> Tensor:
        own = disagreement_weight(logits, batch.teacher_logits, self.settings.weighting)
        return own * batch.weight

    def _contrast(self, batch: Batch, maps: Tensor) -> Tensor:
        """Of the batch's first images, which are as random as any: a second pass costs as much as the first."""
        every = self.settings.perturbed(ranks.count() * len(batch.images))
        count = every // ranks.count()
        images = batch.images[:count]
        mixed = mix_distribution(images, *draw_mixture(batch.rng, every, images.device))
        with statistics_kept(self.net):
            perturbed = self.head(_average(self._backbone(mixed)))
        if self.settings.contrast == "student":
            clean = self.head(_average(maps[:count]))
        else:
            assert batch.teacher_maps is not None
            clean = self.teacher_head(_average(batch.teacher_maps[:count]))
        return nt_xent(ranks.whole(clean), ranks.whole(perturbed), TEMPERATURE)

    def _backbone(self, images: Tensor) -> Tensor:
        net = self.net.backbone if isinstance(self.net, Projected) else self.net
        return net.features(images)

    def student(self) -> Classifier:
        return self.net

    def select(self, pool: Pool, epoch: int, epochs: int) -> Choice | None:
        if epoch == 0 and isinstance(self.net, Projected):
            self.measure(pool, self.net)
        if not self.settings.selection or epoch % self.settings.reselect_every:
            return None
        mixing = mixing_weight(epoch, epochs, self.settings.alpha_tail)
        confidence, pseudo_class = mixed_confidence(
            pool.teacher_logits, pool.student_logits(), mixing
        )
        limit = cutoffs(pseudo_class, pool.teacher_logits.shape[1])
        return Choice(confidence > limit[pseudo_class], pseudo_class, confidence)


def _average(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3))
