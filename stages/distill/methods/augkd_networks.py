"""Networks of AuG-KD (arXiv 2403.07030) beside teacher and student: generator, encoder, class mask and mapping.

Images are in the teacher's normalised space, latent vectors are N(0, 1) in every one of `latent` dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.distill.methods.doubling import DoublingConv
from webdistill.core.errors import UserError

SMALLEST, LARGEST = 7, 13  # sides of the innermost maps: 32 and 64 px begin with 8, 224 px with 7
WIDTHS = (256, 128, 64)  # channels of the innermost maps, after one doubling, after more
LOG_VARIANCE = (-5.0, 3.0)  # range of the encoder's second output


def doublings(image_size: int) -> int:
    """How often maps are halved until another halving would leave less than SMALLEST.

    Raises UserError where that leaves more than LARGEST: the linear layers would have tens of millions of weights.
    """
    count = 0
    while image_size % 2 == 0 and image_size // 2 >= SMALLEST:
        image_size //= 2
        count += 1
    if image_size > LARGEST:
        raise UserError(
            f"distill.method = augkd needs a task.image_size of {SMALLEST} to {LARGEST} times a power of 2, such as "
            "28, 32, 48, 64 or 224"
        )
    return count


def width(level: int) -> int:
    """Channels of maps that were doubled `level` times."""
    return WIDTHS[min(level, len(WIDTHS) - 1)]


class Generator(nn.Module):
    """z [B, latent] -> images [B, 3, S, S]: linear, then doublings with convolution, BN and LeakyReLU.

    The sigmoid is followed by a BN without weights, so that every channel has mean 0 and variance 1 like normalised
    images (as released for other generators of this family).
    """

    def __init__(self, latent: int, image_size: int) -> None:
        super().__init__()
        steps = doublings(image_size)
        self.side = image_size >> steps
        self.project = nn.Linear(latent, width(0) * self.side**2)
        layers: list[nn.Module] = [nn.BatchNorm2d(width(0))]
        for level in range(steps):
            layers += [
                DoublingConv(width(level), width(level + 1)),
                nn.BatchNorm2d(width(level + 1)),
                nn.LeakyReLU(0.2),
            ]
        layers += [nn.Conv2d(width(steps), 3, 3, padding=1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)
        self.standardise = nn.BatchNorm2d(3, affine=False)

    def forward(self, z: Tensor) -> Tensor:
        maps = self.project(z).unflatten(1, (-1, self.side, self.side))
        images: Tensor = self.standardise(self.layers(maps).float())
        return images


class Encoder(nn.Module):
    """Images [B, 3, S, S] and labels [B] -> mean and log-variance of z, [B, latent] each.

    The one-hot label comes in as a fourth channel, through a linear map to S x S.
    """

    def __init__(self, latent: int, image_size: int, classes: int) -> None:
        super().__init__()
        self.size, self.classes = image_size, classes
        self.label = nn.Linear(classes, image_size**2)
        steps = doublings(image_size)
        layers: list[nn.Module] = []
        channels = 4
        for level in reversed(range(steps)):
            layers += [
                nn.Conv2d(channels, width(level), 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width(level)),
                nn.LeakyReLU(0.2),
            ]
            channels = width(level)
        self.layers = nn.Sequential(*layers, nn.Flatten())
        inner = channels * (image_size >> steps) ** 2
        self.mean, self.log_variance = nn.Linear(inner, latent), nn.Linear(inner, latent)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        label = self.label(F.one_hot(labels, self.classes).to(images.dtype))
        maps = self.layers(torch.cat([images, label.view(-1, 1, self.size, self.size)], dim=1))
        return self.mean(maps).float(), self.log_variance(maps).float().clamp(*LOG_VARIANCE)


class Anchor(nn.Module):
    """z' = m(y) psi(z m(y)) + (1 - m(y)) z: a class's mask says which dimensions carry the domain, psi changes them."""

    begun: Tensor  # the scores of a new mask

    def __init__(self, latent: int, classes: int, covered: float) -> None:
        """`covered`: mean of the mask to begin with; its penalty alone would take thousands of steps to get there."""
        super().__init__()
        self.scores = nn.Embedding(classes, latent)
        nn.init.normal_(self.scores.weight, std=0.1)
        self.register_buffer("begun", self.scores.weight.detach().clone())
        start = min(max(covered, 0.01), 0.99)
        self.offset = math.log(start / (1 - start))
        self.mapping = nn.Sequential(
            nn.Linear(latent, 2 * latent), nn.LeakyReLU(0.2), nn.Linear(2 * latent, latent)
        )

    def mask(self, labels: Tensor) -> Tensor:
        """Labels [B] -> m [B, latent] in [0, 1]."""
        return self._mask(self.scores(labels))

    def moved(self) -> Tensor:
        """[]: mean over classes and dimensions of how far the masks have come since they were made."""
        return (self._mask(self.scores.weight) - self._mask(self.begun)).abs().mean()

    def _mask(self, scores: Tensor) -> Tensor:
        return torch.sigmoid(scores + self.offset)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """z [B, latent] -> z' [B, latent]."""
        return anchored(z, self.mask(labels), self.mapping)


def anchored(z: Tensor, mask: Tensor, mapping: nn.Module) -> Tensor:
    """mask * mapping(z * mask) + (1 - mask) * z, all [B, latent]: mask 0 leaves z, mask 1 is the mapping."""
    moved: Tensor = mapping(z * mask)
    return mask * moved + (1 - mask) * z
