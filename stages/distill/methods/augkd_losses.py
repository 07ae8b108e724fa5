"""AuG-KD's mathematics as pure functions (arXiv 2403.07030); augkd.py says what they are for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.distill import ranks
from stages.distill.method_params import AugKdSettings, Uncertainty

KL_WEIGHT = 0.00025  # of the encoder's distance to N(0, I), beside an error that is summed over dimensions, too
LABEL_WEIGHT = 0.1  # of the anchor's cross-entropy


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
        "mask": (ranks.averaged(mask.sum(1).mean()) - covered).abs(),
        "anchor_label": LABEL_WEIGHT * F.cross_entropy(logits, labels),
    }


def encoder_loss(mean: Tensor, log_variance: Tensor, z: Tensor, noise: Tensor) -> Tensor:
    """MSE(mean + noise exp(log_variance / 2), z) + 0.00025 KL(N(mean, var) || N(0, I)); all [B, d].

    Both are means over dimensions and batch (released: sums over dimensions), KL = (var + mean^2 - 1 - log var) / 2.
    """
    drawn = mean + noise * (log_variance / 2).exp()
    kl = (log_variance.exp() + mean.square() - 1 - log_variance).mean() / 2
    return F.mse_loss(drawn, z) + KL_WEIGHT * kl


def spread(anchors: Tensor, z: Tensor) -> Tensor:
    """How far the anchors [B, d] of a batch differ from each other, relative to its z [B, d]: [], 0 = all alike.

    sqrt(sum_d var_B(z') / sum_d var_B(z)).
    """
    return (anchors.var(0).sum() / z.var(0).sum()).sqrt()


def image_share(epoch: float, epochs: float, a: float, b: float) -> float:
    """s(e) = min(b + (1 - b) e / (a E), 1): the image's share of a mixture in epoch e of E."""
    return min(b + (1 - b) * epoch / (a * epochs), 1.0)


def mixture(share: float, images: Tensor, dreams: Tensor) -> Tensor:
    """x_m = (1 - s) dreams + s x, both [B, 3, H, W] in the same normalised space."""
    return (1 - share) * dreams + share * images
