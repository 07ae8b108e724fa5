"""CMI (Fang et al. 2021, "Contrastive model inversion", arXiv 2105.08584): images that differ from those before them.

Every round trains a new generator together with its noise. Beside what every image is wished to be, a piece of it must
be told by the teacher's features, through a trained head, from other images of the round and from stored ones.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.distill.method_params import CmiSettings
from stages.distill.methods.mosaic_networks import Generator
from stages.distill.methods.synthesis import Best, Synthesis, moved, normal
from webdistill.models.classifier import Classifier

BETAS = (0.5, 0.999)
WIDTH = 128  # of the head
TEMPERATURE = 0.1  # of the contrast
BANK = 256  # stored images that a round is told from
LEAST = 0.25  # smallest piece, share of the image


def contrast_loss(pieces: Tensor, wholes: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """-mean_i log( e^(p_i w_i / t) / (sum_j e^(p_i w_j / t) + sum_m e^(p_i b_m / t)) ), cosines.

    Pieces and wholes [B, d] of the same images, stored images [M, d], M may be 0.
    """
    pieces, others = (F.normalize(each.float()) for each in (pieces, torch.cat([wholes, bank])))
    scores = pieces @ others.T / temperature
    return F.cross_entropy(scores, torch.arange(len(pieces), device=scores.device))


class Cmi(Synthesis):
    """See the top of this file."""

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        image_size: int,
        temperature: float,
        settings: CmiSettings,
    ) -> None:
        super().__init__(student, teacher, image_size, temperature, settings)
        self.settings = settings
        head = nn.Sequential(
            nn.Linear(teacher.fc.in_features, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.head = head.to(self.device).requires_grad_(False)  # it learns within rounds

    def round(self, rng: np.random.Generator, adversary: bool) -> Tensor:
        settings, targets, best = self.settings, self.targets(rng), Best()
        generator = Generator(settings.latent, self.size).to(self.device)
        z = normal(settings.images, settings.latent, rng, self.device).requires_grad_()
        bank = self._bank(rng)
        self.head.requires_grad_(True)
        learned = itertools.chain(generator.parameters(), [z], self.head.parameters())
        adam = torch.optim.Adam(learned, lr=settings.rate, betas=BETAS)
        for _ in range(settings.steps):
            images = generator(z)
            loss, wholes = self.wishes(moved(images, rng), targets, adversary)
            if settings.contrast:
                pieces = self._features(moved(images, rng, LEAST))
                head = self.head
                told = contrast_loss(head(pieces), head(wholes), head(bank), TEMPERATURE)
                loss = loss + settings.contrast * told
            best.show(images, loss)
            adam.zero_grad()
            loss.backward()
            adam.step()
        self.head.requires_grad_(False)
        self.head.zero_grad(set_to_none=True)
        return best.images

    def _features(self, images: Tensor) -> Tensor:
        teacher = self._teacher[0]
        return teacher.pool(teacher.features(images)).float()

    @torch.no_grad()
    def _bank(self, rng: np.random.Generator) -> Tensor:
        """The teacher's features [M, C] of stored images."""
        if not len(self.store):
            return torch.zeros(0, self._teacher[0].fc.in_features, device=self.device)
        return self._features(self.store.take(BANK, rng))
