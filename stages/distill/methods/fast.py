"""Fast (Fang et al. 2022, "Up to 100x faster data-free knowledge distillation", arXiv 2112.15281): a meta-generator.

A round takes few steps from a generator that has learned to be a good start: a copy of it and the noise are optimised,
and the gradients of all steps, summed, are one step of the meta-generator (first-order MAML). What images share is
learned once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.adam import adam

from stages.distill.method_params import FastSettings
from stages.distill.methods.mosaic_networks import Generator
from stages.distill.methods.synthesis import Best, Synthesis, moved, normal
from webdistill.models.classifier import Classifier

BETAS = (0.5, 0.999)
FRESH = 0.02  # standard deviation of a first layer that starts anew


class MetaAdam(nn.Module):
    """Adam over the parameters of `net` with gradients from elsewhere; its state is saved with the method."""

    steps: Tensor

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        weights: list[Tensor] = list(net.parameters())
        self.lr, self._weights = lr, (weights,)  # in a tuple: not registered
        self.register_buffer("steps", torch.zeros(()))
        for place, each in enumerate(weights):
            self.register_buffer(f"mean{place}", torch.zeros_like(each))
            self.register_buffer(f"square{place}", torch.zeros_like(each))

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """Follow these gradients, one a parameter, once."""
        parameters = self._weights[0]
        places = range(len(parameters))
        counts = [self.steps.cpu().clone() for _ in places]
        adam(
            parameters,
            gradients,
            [self.get_buffer(f"mean{place}") for place in places],
            [self.get_buffer(f"square{place}") for place in places],
            [],
            counts,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.lr,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        self.steps += 1


class Fast(Synthesis):
    """See the top of this file."""

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        image_size: int,
        temperature: float,
        settings: FastSettings,
    ) -> None:
        super().__init__(student, teacher, image_size, temperature, settings)
        self.settings = settings
        self.generator = Generator(settings.latent, image_size).to(self.device)
        self.generator.requires_grad_(False)  # the run's optimiser leaves it alone
        self.outer = MetaAdam(self.generator, settings.rate * settings.steps)

    def prepare(self, epoch: int, rng: np.random.Generator) -> None:
        """Late in the training the generator's first layer starts anew, once."""
        if epoch == self.settings.reset:
            first = self.generator.project
            fresh = FRESH * rng.standard_normal(first.weight.shape, dtype=np.float32)
            first.weight.copy_(torch.from_numpy(fresh))
            first.bias.zero_()
        super().prepare(epoch, rng)

    def round(self, rng: np.random.Generator, adversary: bool) -> Tensor:
        settings, targets, best = self.settings, self.targets(rng), Best()
        z = normal(settings.images, settings.latent, rng, self.device).requires_grad_()
        start = dict(self.generator.named_parameters())
        weights = {name: each.clone().requires_grad_() for name, each in start.items()}
        groups = [
            {"params": list(weights.values()), "lr": settings.rate},
            {"params": [z], "lr": settings.noise_rate},
        ]
        inner = torch.optim.Adam(groups, betas=BETAS)
        summed = [torch.zeros_like(each) for each in weights.values()]
        for _ in range(settings.steps):
            images = functional_call(self.generator, weights, (z,))
            loss, _ = self.wishes(moved(images, rng), targets, adversary)
            best.show(images, loss)
            inner.zero_grad()
            loss.backward()
            summed = [
                total if each.grad is None else total + each.grad
                for total, each in zip(summed, weights.values(), strict=True)
            ]
            inner.step()
        self.outer.step(summed)
        return best.images
