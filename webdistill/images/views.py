"""Views: random crops, mirror images and mixtures of a pool that lies on the device as one uint8 tensor, or encoded.

A view is a pure function of (seed, number of the view, image): view k of image i is the same whenever and in
whatever batch it is asked for. So a teacher's answer to it may be kept, and training resumes bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

AHEAD = 3  # batches that are asked for before they are needed


class Pictures(Protocol):
    """What may stand for the tensor of all pictures, such as `encoded.Encoded`; same values, same strides."""

    @property
    def shape(self) -> Sequence[int]:
        """N, 3, S, S."""

    @property
    def device(self) -> torch.device:
        """Where a batch comes to lie."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """Rows [B] int64 -> [B, 3, S, S] uint8, channels_last."""

    def expect(self, rows: Tensor) -> None:
        """These rows are asked for soon, in just this order."""


@dataclass(frozen=True)
class Draw:
    """The random numbers of one view of every image; all [N]."""

    centre: Tensor  # [N, 2] in [-1, 1]: where in the free room the crop lies
    scale: Tensor  # crop side as a share of the image's side
    mirror: Tensor  # +1 or -1
    partner: Tensor  # int64: image to mix with
    share: Tensor  # share of the image itself in the mixture, 1 = no mixture


class Views:
    """Views of `pool`, normalised with `mean` and `std`, as [B, 3, H, W] float32."""

    def __init__(
        self,
        pool: Tensor | Pictures,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        seed: int,
        min_scale: float,
        mixup: float,
        shift: float = 0.0,
    ) -> None:
        """`pool`: [N, H, W, 3] uint8, or what stands for it and gives the same bits.

        `min_scale`: smallest area of a crop, share of the image. `shift`: how far a crop may lie beyond the border,
        share of the side, in whole pixels; beyond it the image is mirrored. `mixup`: see `Draw.share`.
        """
        self.pool = pool.permute(0, 3, 1, 2) if isinstance(pool, Tensor) else pool  # channels_last
        self.mean = torch.tensor(mean, device=pool.device).view(3, 1, 1) * 255
        self.std = torch.tensor(std, device=pool.device).view(3, 1, 1) * 255
        self.seed, self.min_scale, self.mixup, self.shift = seed, min_scale, mixup, shift
        self._drawn: tuple[int, Draw] | None = None

    def draw(self, number: int) -> Draw:
        """All random numbers of view `number`; drawn on the CPU, so that devices agree."""
        if self._drawn is None or self._drawn[0] != number:
            count = len(self.pool)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            uniform = torch.rand(count, 5, generator=generator)
            area = self.min_scale + (1 - self.min_scale) * uniform[:, 0]
            scale = area.sqrt()
            share = 1 - uniform[:, 4] * 0.5 * self.mixup
            draw = Draw(
                centre=uniform[:, 1:3] * 2 - 1,
                scale=scale,
                mirror=torch.where(uniform[:, 3] < 0.5, -1.0, 1.0),
                partner=torch.randperm(count, generator=generator),
                share=share,
            )
            device = self.pool.device
            moved = Draw(**{name: value.to(device) for name, value in vars(draw).items()})
            self._drawn = (number, moved)
        return self._drawn[1]

    def __call__(self, number: int, rows: Tensor) -> Tensor:
        """View `number` of the images `rows` [B] int64 -> [B, 3, H, W] float32, channels_last."""
        draw = self.draw(number)
        x = self._crop(draw, rows)
        if self.mixup > 0:
            share = draw.share[rows].view(-1, 1, 1, 1)
            x = share * x + (1 - share) * self._crop(draw, draw.partner[rows])
        x = (x - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)

    def plain(self, rows: Tensor) -> Tensor:
        """The images themselves, normalised."""
        x = (self.pool[rows].float() - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)

    def expect(self, number: int | None, rows: Tensor) -> None:
        """View `number` (None: the plain one) of these rows is asked for soon: encoded images are decoded meanwhile."""
        if isinstance(self.pool, Tensor):
            return
        self.pool.expect(rows)
        if number is not None and self.mixup > 0:
            self.pool.expect(self.draw(number).partner[rows])

    def stream(self, number: int | None, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """View `number` (None: the plain one) of one batch of rows after the other, the next ones under way."""
        for place, rows in enumerate(batches):
            for soon in batches[place : place + 1 + AHEAD]:
                self.expect(number, soon)
            yield self.plain(rows) if number is None else self(number, rows)

    def _crop(self, draw: Draw, rows: Tensor) -> Tensor:
        """A square crop of `scale` times the side, mirrored, resized back; bilinear, as one batched operation."""
        return crops(
            self.pool[rows].float(),
            draw.scale[rows],
            draw.mirror[rows],
            draw.centre[rows],
            self.shift,
        )


def crops(x: Tensor, scale: Tensor, mirror: Tensor, centre: Tensor, shift: float) -> Tensor:
    """Square crops of images [B, C, S, S], resized back to S; `scale`, `mirror` [B], `centre` [B, 2] as in `Draw`.

    `shift`: how far a crop may lie beyond the border, see `Views`.
    """
    theta = torch.zeros(len(x), 2, 3, device=scale.device)
    theta[:, 0, 0] = scale * mirror
    theta[:, 1, 1] = scale
    beyond = torch.round(centre * shift * x.shape[-1]) * (2 / x.shape[-1])  # side of length 2 here
    theta[:, :, 2] = centre * (1 - scale)[:, None] + beyond
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
