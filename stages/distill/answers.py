"""The teacher's answers to views. A view that comes again is answered once, for the whole pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from webdistill.images.views import Views

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]  # images -> logits float32, last maps
LIMIT = 2 << 30  # bytes of kept answers
BATCH = 128  # images per forward pass; on a CPU faster than 512


@dataclass
class Answer:
    """To one view: logits [N, K] float32 and, for methods that need them, the last maps [N, C, h, w]."""

    logits: Tensor
    maps: Tensor | None


class Answers:
    """Answers to views of the pool's images; `distinct`: how many views there are that repeat, 0 = none does.

    When views repeat and their answers fit into LIMIT, a view is answered for all images when it first comes, in a
    fixed order, so that a resumed run computes the same bits. Otherwise each batch is answered as it comes.
    """

    def __init__(self, forward: Forward, views: Views, distinct: int, needs_maps: bool) -> None:
        self.forward, self.views, self.distinct, self.needs_maps = (
            forward, views, distinct, needs_maps,
        )  # fmt: skip
        self.kept: dict[int, Answer] = {}
        self.keeps: bool | None = (
            None if distinct else False
        )  # None: not known before the first answer

    def __call__(self, view: int, rows: Tensor, images: Tensor) -> Answer:
        """The answer to `images`, which are view `view` of the images `rows` [B]."""
        if self.keeps is False:
            return self._answer(images)
        if view not in self.kept:
            if self.keeps is None and not self._fits(self._answer(images), len(rows)):
                self.keeps = False
                return self._answer(images)
            self.keeps = True
            self.kept[view] = self._whole(view)
        known = self.kept[view]
        return Answer(known.logits[rows], known.maps[rows] if known.maps is not None else None)

    def _answer(self, images: Tensor) -> Answer:
        logits, maps = self.forward(images)
        return Answer(logits, maps if self.needs_maps else None)

    def _fits(self, answer: Answer, count: int) -> bool:
        tensors = [t for t in (answer.logits, answer.maps) if t is not None]
        per_image = sum(t.numel() * t.element_size() for t in tensors) / count
        return per_image * len(self.views.pool) * self.distinct <= LIMIT

    def _whole(self, view: int) -> Answer:
        places = torch.arange(len(self.views.pool), device=self.views.pool.device)
        parts = [self._answer(self.views(view, rows)) for rows in places.split(BATCH)]
        maps = [part.maps for part in parts if part.maps is not None]
        return Answer(
            torch.cat([part.logits for part in parts]), torch.cat(maps) if self.needs_maps else None
        )
