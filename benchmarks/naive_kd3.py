"""KD3 as it is usually written, the yardstick of `benchmarks.kd3_step`: correct, plain, and without our training code.

Pillow images pass through torchvision transforms in DataLoader workers, arithmetic is float32 on contiguous tensors,
the teacher answers every batch of every pass again, and the weighted loss is a loop over the images of a batch.
Pictures are decoded and resized beforehand and kept in memory; a version that reads files would be slower still.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset
from torchvision import transforms

from benchmarks.plan import EPOCHS, MEAN, RATE, SIZE, SMALLEST, STD
from webdistill.models.classifier import Classifier
from webdistill.models.projected import Projected

Transform = Callable[[Image.Image], Tensor]


class Pictures(Dataset[Tensor]):
    """Images [N, H, W, 3] uint8, one at a time, as Pillow images through a transform."""

    def __init__(self, pixels: np.ndarray, transform: Transform) -> None:
        self.pixels, self.transform = pixels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.fromarray(self.pixels[index]))


def augmentation() -> Transform:
    """The views of training."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=(SMALLEST, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def plain() -> Transform:
    """The view of the selection pass."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def mix_statistics(images: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """MixDistribution: each image takes on a mixture of its own and its partner's channel means and deviations."""
    count, channels = images.shape[:2]
    flat = images.view(count, channels, -1)
    mean, deviation = flat.mean(2), torch.sqrt(flat.var(2, unbiased=False) + 1e-6)
    new_mean = share[:, None] * mean + (1 - share[:, None]) * mean[partner]
    new_deviation = share[:, None] * deviation + (1 - share[:, None]) * deviation[partner]
    normalised = (flat - mean[:, :, None]) / deviation[:, :, None]
    return (normalised * new_deviation[:, :, None] + new_mean[:, :, None]).view_as(images)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss of unit vectors [B, D] each; the diagonal is taken out with a mask."""
    views = torch.cat([first, second])
    similarity = views @ views.t() / temperature
    others = ~torch.eye(len(views), dtype=torch.bool, device=views.device)
    against = similarity[others].view(len(views), -1)
    positive = (first * second).sum(1) / temperature
    return (torch.logsumexp(against, 1) - torch.cat([positive, positive])).mean()


def weighted_features(
    student: Tensor, teacher: Tensor, student_logits: Tensor, teacher_logits: Tensor
) -> Tensor:
    """Squared distance of the maps, weighted by sigmoid(||z_S - z_T||), image by image."""
    total = torch.zeros((), device=student.device)
    for i in range(len(student)):
        distance = torch.norm(student_logits[i] - teacher_logits[i]).detach()
        total = total + torch.sigmoid(distance) * F.mse_loss(student[i], teacher[i])
    return total / len(student)


class NaiveKd3:
    """Student, heads, optimiser and the two passes of an epoch."""

    def __init__(
        self,
        teacher: Classifier,
        student: Projected,
        pixels: np.ndarray,
        *,
        batch_size: int,
        workers: int,
    ) -> None:
        self.device = next(teacher.parameters()).device
        self.teacher, self.student = teacher, student
        first = student.projector[0]
        assert isinstance(first, nn.Conv2d)
        self.head = nn.Linear(first.in_channels, 128).to(self.device)
        self.teacher_head = nn.Linear(teacher.channels, 128).to(self.device)
        self.pixels, self.batch_size, self.workers = pixels, batch_size, workers
        self.kept: list[int] = []  # places of the images that the last selection kept
        learning = [p for p in student.parameters() if p.requires_grad]
        self.optimiser = torch.optim.SGD(
            [*learning, *self.head.parameters(), *self.teacher_head.parameters()],
            lr=RATE,
            momentum=0.9,
            weight_decay=5e-4,
            nesterov=True,
        )

    def losses(self, images: Tensor, share: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        """-> (weighted feature loss, contrastive loss) of one batch."""
        with torch.no_grad():
            teacher_maps = self.teacher.features(images)
            teacher_logits = self.teacher.classify(teacher_maps)
        projected = self.student.features(images)
        logits = self.student.classify(projected)
        features = weighted_features(projected, teacher_maps, logits, teacher_logits)
        mixed = mix_statistics(images, share, partner)
        pooled = self.student.backbone.features(mixed).mean(dim=(2, 3))
        perturbed = F.normalize(self.head(pooled), dim=1)
        anchor = F.normalize(self.teacher_head(teacher_maps.mean(dim=(2, 3))), dim=1)
        return features, nt_xent(anchor, perturbed, 0.3)

    def epoch(self, number: int) -> int:
        """Selection pass, then as many images as the pool holds, drawn from the kept ones. -> images trained on"""
        self.kept = self.select(number)
        self.student.train()
        trained = 0
        for images in self._training_batches():
            share = torch.distributions.Beta(0.1, 0.1).sample((len(images),)).to(self.device)
            partner = torch.randperm(len(images), device=self.device)
            features, contrast = self.losses(images, share, partner)
            loss = features + 0.001 * contrast
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            trained += len(images)
        return trained

    @torch.no_grad()
    def select(self, number: int) -> list[int]:
        """Both networks look at the whole pool; confident images, by the cutoff of their pseudo-class, are kept."""
        self.student.eval()
        teacher_share = 0.0
        if number < EPOCHS / 2:
            teacher_share = 1 - math.exp(-5 * ((number + 1) / (EPOCHS * 2 / 3) - 1) ** 2)
        confidences: list[float] = []
        labels: list[int] = []
        loader = DataLoader(
            Pictures(self.pixels, plain()), batch_size=self.batch_size, num_workers=self.workers
        )
        for batch in loader:
            images = batch.to(self.device)
            logits = teacher_share * self.teacher(images) + (1 - teacher_share) * self.student(
                images
            )
            confidence, label = torch.softmax(logits, dim=1).max(dim=1)
            confidences += confidence.tolist()
            labels += label.tolist()
        counts = np.bincount(labels)
        share = counts / counts.max()
        cutoff = 0.95 * share / (2 - share)
        return [i for i, label in enumerate(labels) if confidences[i] > cutoff[label]]

    def _training_batches(self) -> Iterator[Tensor]:
        chosen = Subset(Pictures(self.pixels, augmentation()), self.kept)
        loader = DataLoader(
            chosen,
            batch_size=self.batch_size,
            sampler=RandomSampler(chosen, num_samples=len(self.pixels)),
            num_workers=self.workers,
            drop_last=True,
            pin_memory=self.device.type == "cuda",
        )
        for images in loader:
            yield images.to(self.device, non_blocking=True)
