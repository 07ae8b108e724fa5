"""AuG-KD as it is usually written, the yardstick of `benchmarks.augkd_step`: correct, plain, without our training code.

Arithmetic is float32 on contiguous tensors, Pillow images pass one by one through torchvision transforms, the teacher
answers every batch again, and nobody says which networks are frozen: as in the released code an optimiser's list of
weights decides what moves, and gradients of all else are computed and thrown away. Also as released, module 1 draws its
images for student and encoder without gradients, and mixtures are made and learned even when they are the images.
Not taken over: PyTorch's anomaly detection, which the release leaves on, and the faults that docs/methods.md lists.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.naive_kd3 import Transform
from stages.distill.methods.augkd_networks import Anchor, Encoder
from webdistill.models.classifier import Classifier

Losses = dict[str, Tensor]
RATE, ANCHOR_RATE = 1e-3, 1e-4  # of Adam


class PlainGenerator(nn.Sequential):
    """The generator for 32 px layer by layer: every doubling copies pixels, then convolves the larger maps."""

    def __init__(self, latent: int, side: int = 8) -> None:
        super().__init__(
            nn.Linear(latent, 256 * side**2), nn.Unflatten(1, (256, side, side)), nn.BatchNorm2d(256),
            nn.Upsample(scale_factor=2), nn.Conv2d(256, 128, 3, padding=1, bias=False),
            nn.BatchNorm2d(128), nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2), nn.Conv2d(128, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 3, 3, padding=1), nn.Sigmoid(), nn.BatchNorm2d(3, affine=False),
        )  # fmt: skip


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images [N, H, W, 3] uint8 with a class each, one at a time, as Pillow images through a transform."""

    def __init__(self, pixels: np.ndarray, labels: Tensor, transform: Transform) -> None:
        self.pixels, self.labels, self.transform = pixels, labels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.transform(Image.fromarray(self.pixels[index]))
        return image, int(self.labels[index])


def augmentation(
    size: int, smallest: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> Transform:
    """Square crops of at least `smallest` of the area, resized; mirror images; normalised."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(smallest, 1.0), ratio=(1.0, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 mean_i KL(softmax(z_T / T) || softmax(z_S / T)); logits [B, K]."""
    target = torch.softmax(teacher / temperature, dim=1)
    found = torch.log_softmax(student / temperature, dim=1)
    return temperature**2 * F.kl_div(found, target, reduction="batchmean")


class NaiveAugKd:
    """Networks, optimisers and the step of each module.

    `guarded`: what a careful engineer adds first: in every step weights that do not learn take no gradient.
    """

    def __init__(
        self, teacher: Classifier, student: Classifier, latent: int, size: int, *,
        temperature: float, mask_ratio: float, rate: float, guarded: bool,
    ) -> None:  # fmt: skip
        self.teacher, self.student = teacher.eval(), student
        self.generator = PlainGenerator(latent, size // 4)
        self.encoder = Encoder(latent, size, teacher.fc.out_features)
        self.anchor = Anchor(latent, teacher.fc.out_features, 1 - mask_ratio)
        self.latent, self.temperature, self.guarded = latent, temperature, guarded
        self.covered = latent * (1 - mask_ratio)
        self.optimisers: dict[nn.Module, torch.optim.Optimizer] = {
            self.generator: torch.optim.Adam(self.generator.parameters(), RATE),
            self.encoder: torch.optim.Adam(self.encoder.parameters(), RATE),
            self.anchor: torch.optim.Adam(self.anchor.parameters(), ANCHOR_RATE),
        }
        self.optimisers[student] = torch.optim.SGD(
            student.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True
        )

    def prepare(self, learning: set[nn.Module], evaluating: set[nn.Module]) -> None:
        """Modes of the networks, and who takes gradients: all of them, unless `guarded`."""
        for net in (self.teacher, *self.optimisers):
            net.train(net not in evaluating and net is not self.teacher)
            net.requires_grad_(net in learning or not self.guarded)

    def update(self, net: nn.Module, losses: Losses) -> None:
        """One step of the network's optimiser."""
        self.optimisers[net].zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.optimisers[net].step()

    # -- module 1 ------------------------------------------------------------------------------------------
    def generator_losses(self, z: Tensor) -> Losses:
        """What the generator learns from one batch of latent vectors [B, d]."""
        self.prepare({self.generator}, set())
        images = self.generator(z)
        means: list[Tensor] = []
        variances: list[Tensor] = []

        def note(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            variance, mean = torch.var_mean(inputs[0], dim=[0, 2, 3], correction=0)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            means.append(mean - norm.running_mean)
            variances.append(variance - norm.running_var)

        norms = [each for each in self.teacher.modules() if isinstance(each, nn.BatchNorm2d)]
        hooks = [norm.register_forward_hook(note) for norm in norms]
        answer = self.teacher(images)
        for hook in hooks:
            hook.remove()
        spread = torch.softmax(answer, dim=1).mean(dim=0)
        return {
            "adversarial": -kl(self.student(images), answer),
            "one_hot": F.cross_entropy(answer, answer.argmax(dim=1)),
            "balance": 20 * (spread * spread.log10()).sum(),
            "statistics": torch.cat(means).norm() + torch.cat(variances).norm(),
        }

    def student_losses(self, z: Tensor, noise: Tensor) -> tuple[Losses, Losses]:
        """-> (the student's loss, the encoder's) on images of z [B, d]; noise [B, d]."""
        self.prepare({self.student, self.encoder}, set())
        with torch.no_grad():
            images = self.generator(z)
            answer = self.teacher(images)
        mean, log_variance = self.encoder(images, answer.argmax(dim=1))
        drawn = mean + noise * torch.exp(0.5 * log_variance)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()
        encoder = F.mse_loss(drawn, z) + 0.00025 * divergence
        return {"dream_kd": kl(self.student(images), answer)}, {"encoder": encoder}

    # -- modules 2 and 3 -----------------------------------------------------------------------------------
    def anchor_losses(self, images: Tensor, labels: Tensor) -> Losses:
        """What mask and mapping learn from one batch [B, 3, H, W], [B]; energy as uncertainty."""
        self.prepare({self.anchor}, {self.generator, self.encoder})
        moved = self.anchor(self.encoder(images, labels)[0], labels)
        answer = self.teacher(self.generator(moved))
        mask = self.anchor.mask(labels)
        return {
            "uncertainty": -torch.logsumexp(answer, dim=1).mean(),
            "mask": (mask.sum() / len(images) - self.covered).abs(),
            "anchor_label": 0.1 * F.cross_entropy(answer, labels),
        }

    def mixup_losses(self, images: Tensor, labels: Tensor, share: float) -> Losses:
        """What the student learns from one batch [B, 3, H, W], [B] and its mixtures."""
        self.prepare({self.student}, {self.generator, self.encoder})
        z = self.encoder(images, labels)[0]
        z = (1 - share) * self.anchor(z, labels) + share * z
        mixed = (1 - share) * self.generator(z) + share * images
        both, twice = torch.cat([images, mixed]), torch.cat([labels, labels])
        logits, answer = self.student(both), self.teacher(both)
        return {
            "label": 0.5 * F.cross_entropy(logits, twice),
            "kd": 0.5 * kl(logits, answer, self.temperature),
        }

    # -- steps ---------------------------------------------------------------------------------------------
    def free(self, batch: int) -> Iterator[None]:
        """Module 1: one step of the generator, then five of student and encoder, again and again."""
        while True:
            self.update(self.generator, self.generator_losses(torch.randn(batch, self.latent)))
            yield
            for _ in range(5):
                z, noise = torch.randn(2, batch, self.latent)
                student, encoder = self.student_losses(z, noise)
                self.update(self.student, student)
                self.update(self.encoder, encoder)
                yield

    def anchoring(self, pictures: Pictures, batch: int) -> Iterator[None]:
        """Module 2, step by step."""
        for images, labels in _batches(pictures, batch):
            self.update(self.anchor, self.anchor_losses(images, labels))
            yield

    def mixing(self, pictures: Pictures, batch: int, share: float) -> Iterator[None]:
        """Module 3, step by step, with one share of the images in their mixtures."""
        for images, labels in _batches(pictures, batch):
            self.update(self.student, self.mixup_losses(images, labels, share))
            yield


def _batches(pictures: Pictures, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    loader = DataLoader(pictures, batch_size=batch, shuffle=True, drop_last=True)
    while True:
        yield from loader
