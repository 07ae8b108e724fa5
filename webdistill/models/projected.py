"""A student that ends in the teacher's own classifier: backbone, projector, pooling, the teacher's last layers.

Sources: SimKD (Chen et al. 2022, arXiv 2203.14001), KD3 (arXiv 2307.11469, section 3.2).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier, average_to
from webdistill.models.cost import parameters

STEP = 8  # a bounded width is a multiple of it
LEAST = (
    32  # unless bounded: half of a few logits that count as maps would let next to nothing through
)


def inner_width(inputs: int, outputs: int, most: int) -> int:
    """Width of the projector's inner maps: C_t / 2 as published, LEAST at least, less where its kernels would have over
    `most` weights.

    It has w C_s + 9 w^2 + w C_t of them. So the projector of a wide teacher never outweighs the student's own layers.
    """
    published = max(outputs // 2, LEAST)
    both = inputs + outputs
    bound = int(
        (math.sqrt(both**2 + 36 * most) - both) / 18
    )  # the positive root of 9 w^2 + w (C_s + C_t) = most
    return min(published, max(bound // STEP * STEP, STEP))


def projector(inputs: int, outputs: int, inner: int, signed: bool = False) -> nn.Sequential:
    """1x1, 3x3, 1x1 convolutions C_s -> inner -> inner -> C_t, each with BN and ReLU, no biases.

    `signed` leaves the last ReLU out. Our addition, for teachers whose maps do not end in one.
    """

    def block(a: int, b: int, kernel: int) -> list[nn.Module]:
        conv = nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return [conv, nn.BatchNorm2d(b), nn.ReLU()]

    layers = [*block(inputs, inner, 1), *block(inner, inner, 3), *block(inner, outputs, 1)]
    return nn.Sequential(*layers[:-1] if signed else layers)


def shrink(maps: Tensor, side: int) -> Tensor:
    """Average-pool maps [B, C, h, w] to [B, C, side, side] when they are larger."""
    return average_to(maps, side) if maps.shape[-1] > side else maps


class Projected(Classifier):
    """`backbone` without its own classifier, a projector, and frozen copies of the teacher's last layers.

    `side`: height and width of the maps that the projector sees; larger maps of the backbone are average-pooled to it.
    `inner`: width of the projector, None = as many as `inner_width` allows for this backbone, 0 = no projector;
    `signed`: whether the teacher's maps are negative, too (see `negative`). Nothing else of the teacher is kept. Raises
    UserError for 0 where backbone and teacher differ in channels.
    """

    def __init__(
        self,
        backbone: Classifier,
        teacher: Classifier,
        side: int,
        inner: int | None = None,
        signed: bool = False,
    ) -> None:
        super().__init__()
        width = backbone.channels
        self.backbone, self.side = backbone, side
        del backbone.fc
        backbone.neck, backbone.pooling = nn.Identity(), nn.Identity()
        if inner is None:
            inner = inner_width(width, teacher.channels, parameters(backbone))
        self.inner, self.signed = inner, signed
        if not inner and width != teacher.channels:
            raise UserError(
                f"projector_width = 0 needs a student with as many last channels as its teacher, not {width} for "
                f"{teacher.channels}; set it to null or to a width"
            )
        self.projector = (
            projector(width, teacher.channels, inner, signed) if inner else nn.Identity()
        )
        self.pooling, self.neck = copy.deepcopy(teacher.pooling), copy.deepcopy(teacher.neck)
        self.fc = copy.deepcopy(teacher.fc)
        for module in (self.pooling, self.neck, self.fc):
            module.eval().requires_grad_(False)
        self._channels = teacher.channels

    @property
    def channels(self) -> int:
        return self._channels

    @property
    def compensated(self) -> int:
        """A compensation is added to every position of the projected maps: they are what this student learns.

        Our reading; its classifier is the teacher's and stays so.
        """
        return self._channels

    def features(self, x: Tensor) -> Tensor:
        return self.project(self.backbone.features(x))

    def project(self, maps: Tensor) -> Tensor:
        """The backbone's maps [B, C_s, h, w] -> maps like the teacher's [B, C_t, side, side]."""
        projected: Tensor = self.projector(shrink(maps, self.side))
        if self.compensation is None:
            return projected
        penultimate = self.pool(projected)
        means = projected.mean(dim=(2, 3))
        added = self.compensation(self.fc(penultimate), penultimate, means)
        return projected + added[:, :, None, None].to(projected.dtype)

    def answer(self, penultimate: Tensor) -> Tensor:
        """The teacher's classifier; what there is to compensate is in the maps."""
        logits: Tensor = self.fc(penultimate)
        return logits

    def train(self, mode: bool = True) -> Projected:
        """The teacher's layers stay in eval mode: they may hold dropout or normalisation."""
        super().train(mode)
        for module in (self.pooling, self.neck, self.fc):
            module.eval()
        return self


@torch.no_grad()
def map_side(net: Classifier, image_size: int) -> int:
    """Side of the last maps for square images of `image_size` px."""
    return int(_maps(net, torch.zeros(1, 3, image_size, image_size)).shape[-1])


@torch.no_grad()
def negative(net: Classifier, image_size: int) -> bool:
    """Whether its last maps have negative values, as after a normalisation or a smooth activation; on noise."""
    shape = (2, 3, image_size, image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return bool((_maps(net, images) < 0).any())


def _maps(net: Classifier, images: Tensor) -> Tensor:
    was_training = net.training
    maps = net.eval().features(images.to(next(net.parameters(), images)))
    net.train(was_training)
    return maps
