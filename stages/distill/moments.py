"""What the method made of a few images at some moments of the training, for the pictures of the stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor

from stages.distill.history import History
from stages.distill.methods import Method
from webdistill.images.views import Views

SHOWN = 12  # images that pictures of the training show,
MOMENTS = 4  # at so many moments of every phase


class Moments:
    """The images that pictures show and, in `made`, what became of them: [SHOWN, 3, H, W] each, normalised."""

    def __init__(
        self, views: Views, labels: Tensor, history: History, phases: Sequence[int], blind: int
    ) -> None:
        """`blind`: epochs at the start in which no image is read; a run on other images may continue from there."""
        self.views, self.labels, self.history = views, labels, history
        self.epochs = {epoch for epoch in shown_epochs(phases) if epoch >= blind}
        self.made: list[Tensor] = []

    def shown(self) -> tuple[Tensor, Tensor]:
        """The images in the plain view and their labels [SHOWN]: the first that may be trained on."""
        allowed = self.history.places(0)[:SHOWN].to(self.labels.device)
        return self.views.plain(allowed), self.labels[allowed]

    def note(self, method: Method, finished: int) -> None:
        """Keep what `method` makes of the images now, if this is a moment; `finished` counts epochs."""
        if finished not in self.epochs:
            return
        made = method.moment(*self.shown())
        self.made += [] if made is None else [made]


def shown_epochs(phases: Sequence[int]) -> set[int]:
    """Finished epochs after which a moment is kept: MOMENTS of every phase, its end among them."""
    ends = accumulate(phases)
    return {
        end - length + math.ceil(length * part / MOMENTS)
        for end, length in zip(ends, phases, strict=True)
        for part in range(1, MOMENTS + 1)
        if length
    }
