"""The training loop: choose, batch, losses, step, log. Needs torch, numpy and the parameters only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.distill import ranks
from stages.distill.answers import Answers
from stages.distill.deconfound import DrawnDictionary, Gauge, overhead
from stages.distill.descent import Descent
from stages.distill.feed import Feed
from stages.distill.forward import Forward
from stages.distill.history import Figures, History, Row
from stages.distill.holdout import Holdout
from stages.distill.method_params import POOL_FREE
from stages.distill.methods import Batch, Method, Pool
from stages.distill.moments import Moments
from stages.distill.params import SYNTHESIS_STEPS, Distill
from stages.distill.together import together
from stages.distill.watch import Watch
from webdistill.core.errors import UserError
from webdistill.images.views import Views
from webdistill.models.classifier import Classifier
from webdistill.models.precision import low_precision


@dataclass
class Run:
    """One training run: what it is made of, and the parts that do its work.

    A part is a file: `feed` brings batches with the teacher's answers, `forward` computes without gradients,
    `descent` steps, `watch` stops what diverges, `history` and `moments` remember. checkpoint.py saves a run.
    """

    settings: Distill
    seed: int
    views: Views
    teacher: Classifier
    method: Method
    weight: Tensor  # [N] selection weights
    ids: Sequence[str]  # [N] for error messages
    classes: tuple[str, ...]
    labels: Tensor | None = None  # [N] int64, the class that an image's keyword names, -1 = none
    held: Views | None = None  # of images that are never trained on
    folder: Path | None = (
        None  # for answers of the teacher that outgrow the memory; without it they are not kept
    )
    rows: list[Row] = field(default_factory=list)  # the curve so far, one row per finished epoch

    def __post_init__(self) -> None:
        settings, method, views = self.settings, self.method, self.views
        if method.needs_pool and not self.count:
            raise UserError(
                f"no image was selected, and distill.method = {settings.method} learns from images; look into "
                f"data/search, data/fetch and data/filter, or take {', '.join(POOL_FREE)}, which need none"
            )
        if method.needs_pool and settings.batch_size > self.count:
            raise UserError(
                f"distill.batch_size = {settings.batch_size} is larger than the selection "
                f"({self.count} images); lower it or select more images"
            )
        labels = self.labels
        if labels is None:
            labels = torch.full((self.count,), -1, device=self.device)
        self.forward = forward = Forward(
            self.teacher, views, low_precision=low_precision(settings.precision, self.device)
        )
        answers = Answers(forward.answer, views, self._repeated(), method.needs_maps, self.folder)
        self.feed = Feed(method, views, answers, self.weight, labels, settings)
        self.descent = Descent(method, settings, self.phases, self.steps_per_epoch)
        self.watch = Watch(self.ids if method.needs_pool else (), _rates(settings))
        self.history = History(self.classes, self.count)
        self.moments = Moments(views, labels, self.history, self.phases, self.blind)
        self.pool = Pool(
            lambda: forward.look(self.teacher),
            lambda: forward.logits(method.student()),
            forward.map_variance,
            labels,
        )
        self.holdout: Holdout | None = None
        if self.held is not None:
            apart = Forward(self.teacher, self.held, low_precision=forward.low_precision)
            self.holdout = Holdout(apart)
        self.drawn = DrawnDictionary.wanted(settings.deconfound, self.seed, forward.features)
        self.gauge = Gauge(forward, self.seed) if settings.deconfound.enabled else None

    @property
    def count(self) -> int:
        """N, images of the selection."""
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        """Where pool and networks are."""
        return self.views.pool.device

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch, whatever the method keeps."""
        if not self.method.needs_pool:  # the same with a pool and without
            return self.settings.steps_per_epoch or SYNTHESIS_STEPS
        return self.settings.steps_per_epoch or self.count // self.settings.batch_size

    @property
    def phases(self) -> list[int]:
        """Lengths in epochs of the method's phases."""
        return self.method.phases(self.settings.epochs)

    @property
    def blind(self) -> int:
        """Epochs at the start on which the images have no effect, see `Method.needs_images`.

        What they leave serves runs on other images. So pictures and held-out images wait for the last of these epochs.
        """
        if self.settings.deconfound.enabled:  # compensations are measured on images in every epoch
            return 0
        before = range(len(self.phases) - 1)
        seeing = (phase for phase in before if self.method.needs_images(phase))
        return sum(self.phases[: next(seeing, len(before))])

    def _repeated(self) -> int:
        """How many distinct views there are that come again; 0 where none does."""
        shown = self.settings.epochs * self.steps_per_epoch * self.settings.batch_size
        return self.settings.views if self.settings.views * self.count < shown else 0

    # -- one epoch -----------------------------------------------------------------------------------------
    def epoch(self, number: int) -> Iterator[int]:
        """Train epoch `number` (from 0), yielding the images of every step; appends its row to the curve.

        Every epoch has `steps_per_epoch` steps, whatever the method keeps.
        """
        self.method.begin_epoch(number, self.settings.epochs)
        self._choose(number)
        rng = self._seed(number)
        self.method.train()
        with self.forward.autocast():
            self.method.prepare(number, rng)
        self._compensate(number)
        ranks.agree(self.method)
        figures, first = Figures(), number * self.steps_per_epoch
        for batch in self.feed.batches(self.kept, self.steps_per_epoch, rng, first):
            self.descent.set_rates(batch.step)
            figures.add(self.step(batch))
            if batch.step + 1 < first + self.steps_per_epoch:
                yield self.settings.batch_size
        self.watch.finish()
        row = {"epoch": number + 1.0} | figures.means()
        if number + 1 >= self.blind:
            row |= self._held_out()
        self.watch.whole(self.method.student(), row)
        if self.gauge is not None:
            row |= self.gauge.measure(self.method, number)
        self.rows.append(row)
        self.moments.note(self.method, number + 1)
        yield self.settings.batch_size

    def _held_out(self) -> dict[str, float]:
        return {} if self.holdout is None else self.holdout.measure(self.method.student())

    def _compensate(self, number: int) -> None:
        """The unit of what is compensated, once, and a dictionary of what the method makes now where one is due."""
        compensation = self.method.student().compensation
        if compensation is not None and number == 0:
            compensation.unit.fill_(self.method.unit)
        if self.drawn is not None:
            self.drawn.refresh(self.method, number)

    def _seed(self, number: int) -> np.random.Generator:
        """All randomness of epoch `number` follows from it and the seed. -> that of order and steps"""
        rng = np.random.default_rng([self.seed, number, 2])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        return np.random.default_rng([self.seed, number])

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step of all ranks together. -> its figures, on the device."""
        losses, logits = self.losses(self.method, batch)
        total = torch.stack(list(losses.values())).sum()
        self.descent.step(total)
        reference = self.method.reference
        other = batch.teacher_logits if reference is None else reference
        same = (logits.argmax(1) == other.argmax(1)).float().mean()
        figures = {"loss": total.detach(), "agreement": same}
        if len(losses) > 1:
            figures |= {name: value.detach() for name, value in losses.items()}
        figures = ranks.average_figures(figures | dict(self.method.figures))
        self.watch.note(figures["loss"], batch.rows)
        return figures

    def losses(self, method: Method, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """`Method.losses` in the run's precision, of this rank's rows of a batch."""
        with self.forward.autocast(), together():
            return method.losses(batch)

    # -- choice of images ----------------------------------------------------------------------------------
    @property
    def kept(self) -> Tensor:
        """Places of the images that are trained on now, [n] int64."""
        return self.history.places()

    def _choose(self, number: int) -> None:
        choice = self.method.select(self.pool, number, self.settings.epochs)
        if choice is None:
            return
        if bool(choice.keep.any()):
            self.history.add(number, choice)
        elif self.history.kept:
            self.history.empty += 1  # the images of before stay; the stage says so at the end
        else:
            raise UserError(
                f"distill.method = {self.settings.method} kept none of {self.count} images; "
                "give it more images or switch its selection off"
            )

    def note_images(self) -> None:
        """After the `blind` epochs, taken over from a run on other images: what they would have noted about these."""
        epochs = self.settings.epochs
        self.method.begin_epoch(0, epochs)
        self._choose(0)
        self.method.begin_epoch(self.blind - 1, epochs)
        self.rows[-1] |= self._held_out()
        self.moments.note(self.method, self.blind)

    # -- what a compensation costs -------------------------------------------------------------------------
    def compensation_overhead(self) -> list[float]:
        """Shares of a step's time that the student's compensation adds, sorted; on a copy, changes nothing."""
        rng = np.random.default_rng(0)
        if self.method.needs_pool:
            places = torch.arange(self.settings.batch_size) % len(self.kept)
            rows = self.kept[places.to(self.kept.device)].to(self.device)
            batch = self.feed.batch(0, rows, rng, 1)
        else:
            batch = self.feed.without_images(rng, 1)

        def step(method: Method, batch: Batch) -> None:
            losses, _ = self.losses(method, batch)
            torch.stack(list(losses.values())).sum().backward()

        return overhead(self.method, self.teacher, batch, step)


def _rates(settings: Distill) -> str:
    """The rates that a user may lower."""
    return "distill.lr or distill.deconfound.lr" if settings.deconfound.enabled else "distill.lr"
