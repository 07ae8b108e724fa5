"""Forward passes of a run, in bfloat16 where that is asked for: the teacher on views, any network on the whole pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from stages.distill import ranks
from webdistill.images.views import Views
from webdistill.models.classifier import Classifier
from webdistill.models.projected import shrink

MEASURED = 2048  # images by which the teacher's maps are measured
PLAIN_BATCH = (
    128  # images per forward pass when the whole pool is looked at; on a CPU faster than 512
)


class Forward:
    """The teacher, the pool and the precision that their forward passes are computed in."""

    def __init__(self, teacher: Classifier, views: Views, *, low_precision: bool) -> None:
        self.teacher, self.views, self.low_precision = teacher, views, low_precision

    def autocast(self) -> AbstractContextManager[object]:
        """Inside, products and convolutions are computed in bfloat16 if the run is."""
        device = self.views.pool.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.low_precision)

    @torch.no_grad()
    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] -> the teacher's logits [B, K] float32 and its last maps [B, C, h, w]."""
        with self.autocast():
            maps = self.teacher.features(images)
            return self.teacher.classify(maps).float(), maps

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> the teacher's pooled features [B, C] float32."""
        with self.autocast():
            return self.teacher.pool(self.teacher.features(images)).float()

    def spread(self, most: int) -> Iterator[Tensor]:
        """Evenly spread images of the pool, `most` of them at most, in the plain view: [B, 3, H, W] at a time."""
        pool = self.views.pool
        every = -(-len(pool) // most)
        rows = torch.arange(0, len(pool), every, device=pool.device).split(PLAIN_BATCH)
        yield from self.views.stream(None, rows)

    def spread_of(self, names: Sequence[str], most: int) -> Sequence[str]:
        """Of the pool's names [N] those whose images `spread` gives, in its order."""
        return names[:: -(-len(names) // most)]

    @torch.no_grad()
    def map_variance(self, side: int) -> float:
        """Variance of the teacher's last maps, pooled to [side, side]: mean over channels of that over all positions.

        Of evenly spread images of the pool, MEASURED at most, in the plain view; float64 sums.
        """
        sums: list[Tensor] = []  # per batch: [3, C] of values, their squares, their number
        for images in self.spread(MEASURED):
            with self.autocast():
                maps = shrink(self.teacher.features(images), side).double()
            flat = maps.transpose(0, 1).flatten(1)  # [C, positions]
            sums.append(
                torch.stack([flat.sum(1), flat.square().sum(1), torch.ones_like(flat).sum(1)])
            )
        total, squares, count = torch.stack(sums).sum(0)
        return float((squares / count - (total / count).square()).mean())

    def look(self, net: Classifier) -> tuple[Tensor, Tensor]:
        """All images in the plain view -> logits [N, K] and pooled features [N, C], float32; `net` in eval mode."""
        parts = list(self._parts(net))
        return torch.cat([p["logits"] for p in parts]), torch.cat([p["features"] for p in parts])

    def logits(self, net: Classifier) -> Tensor:
        """The same without the features, which of many images are much more."""
        return torch.cat([part["logits"] for part in self._parts(net, features=False)])

    @torch.no_grad()
    def _parts(self, net: Classifier, *, features: bool = True) -> Iterator[Mapping[str, Tensor]]:
        was_training = net.training
        net.eval()
        pool = self.views.pool

        def look(rows: Sequence[Tensor]) -> Iterator[Mapping[str, Tensor]]:
            for images in self.views.stream(None, rows):
                with self.autocast():
                    pooled = net.pool(net.features(images))
                    logits = net.answer(pooled).float()
                yield {"logits": logits} | ({"features": pooled.float()} if features else {})

        rows = torch.arange(len(pool), device=pool.device).split(PLAIN_BATCH)
        yield from ranks.in_turn(rows, look)
        net.train(was_training)
