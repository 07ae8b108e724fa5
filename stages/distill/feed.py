"""From kept images to batches: in which order, in which view, and with how much of the teacher's answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.distill import ranks
from stages.distill.answers import Answers
from stages.distill.methods import Batch, Method
from stages.distill.params import Distill
from webdistill.images.views import AHEAD, Views


class Feed:
    """Brings a method its batches, of which every rank has a part.

    Images come in passes: a pass shows every kept image once, in a random order, and has a view of its own (of
    `views` distinct ones, if these repeat). `passes` counts those begun, which is all that a resumed run must be told.
    """

    def __init__(
        self,
        method: Method,
        views: Views,
        answers: Answers,
        weight: Tensor,
        labels: Tensor,
        settings: Distill,
    ) -> None:
        self.method, self.views, self.answers = method, views, answers
        self.weight, self.labels = weight, labels  # [N] each
        self.size, self.distinct = settings.batch_size, settings.views
        self.passes = 0

    def batches(
        self, kept: Tensor, steps: int, rng: np.random.Generator, first: int
    ) -> Iterator[Batch]:
        """An epoch of `steps` batches of the images `kept` [n]; its first step is step `first` of the run.

        The order of a batch is drawn from `rng` after the step before it has drawn its own randomness.
        """
        if not self.method.needs_pool or self.method.reads == "nothing":
            yield from (self.without_images(rng, step) for step in range(first, first + steps))
            return
        for step, (view, rows) in enumerate(self.order(kept, steps, rng), first):
            yield self.batch(view, rows, rng, step)

    def without_images(self, rng: np.random.Generator, step: int) -> Batch:
        """Of a step that reads nothing from the pool: the same whatever the pool holds."""
        device = self.views.pool.device
        rows = ranks.part(torch.arange(self.size, device=device))
        nothing, equal = torch.zeros(0, device=device), torch.ones(len(rows), device=device)
        return Batch(nothing, nothing, None, equal, rows, rng, None, step)

    def order(
        self, kept: Tensor, steps: int, rng: np.random.Generator
    ) -> Iterator[tuple[int, Tensor]]:
        """-> (view, rows [B]) of every step of an epoch; a batch may span two passes and then has the later view.

        There are `steps` of them whatever the method keeps: kept images are gone through again, in new views.
        """
        places, waiting = kept.cpu().numpy(), np.empty(0, np.int64)
        device = self.views.pool.device
        for left in reversed(range(steps)):
            while len(waiting) < self.size:
                waiting = np.concatenate([waiting, rng.permutation(places)])
                self.passes += 1
            rows, waiting = waiting[: self.size], waiting[self.size :]
            number = self.passes - 1
            view = number % self.distinct if self.distinct else number
            self._announce(view, rows, waiting[: left * self.size])
            yield view, torch.from_numpy(rows).to(device, non_blocking=True)

    def _announce(self, view: int, rows: NDArray[np.int64], waiting: NDArray[np.int64]) -> None:
        """Tell what the next steps will ask for, as far as it is known: full batches of the pass that is under way."""
        full = len(waiting) // self.size
        for soon in [rows, *waiting[: full * self.size].reshape(full, self.size)[:AHEAD]]:
            self.views.expect(view, ranks.part(torch.from_numpy(soon)))

    def batch(self, view: int, rows: Tensor, rng: np.random.Generator, step: int) -> Batch:
        """View `view` of this rank's part of `rows` [B], with as much as the method reads (`Method.reads`)."""
        rows = ranks.part(rows)
        weight, labels = self.weight[rows], self.labels[rows]
        nothing = weight.new_empty(0)
        images = self.views(view, rows)
        if self.method.reads == "images":
            return Batch(images, nothing, None, weight, rows, rng, labels, step)
        known = self.answers(view, rows, images)
        return Batch(images, known.logits, known.maps, weight, rows, rng, labels, step)
