"""The training loop: choices, views, teacher answers, steps, resume. Needs torch and numpy only."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.distill.answers import Answers
from stages.distill.deconfound import DrawnDictionary, overhead
from stages.distill.history import History, Row
from stages.distill.methods import Batch, Choice, Method, Pool
from stages.distill.params import Distill
from stages.distill.rate import rate_factor
from webdistill.core.errors import UserError
from webdistill.core.files import replace
from webdistill.images.views import Views
from webdistill.models.cifar import Classifier
from webdistill.models.precision import low_precision

SHOWN = 12  # images that pictures of the training show,
MOMENTS = 4  # at so many moments of every phase
PLAIN_BATCH = (
    128  # images per forward pass when the whole pool is looked at; on a CPU faster than 512
)


@dataclass
class Run:
    """One training run: everything that changes from epoch to epoch, and what it is made of."""

    settings: Distill
    seed: int
    views: Views
    teacher: Classifier
    method: Method
    weight: Tensor  # [N] selection weights
    ids: Sequence[str]  # [N] for error messages
    classes: tuple[str, ...]
    labels: Tensor | None = None  # [N] int64, the class that an image's keyword names, -1 = none
    rows: list[Row] = field(default_factory=list)  # the curve so far, one row per finished epoch

    def __post_init__(self) -> None:
        self.count = len(self.ids)
        self.device = self.views.pool.device
        self.low_precision = low_precision(self.settings.precision, self.device)
        if self.settings.batch_size > self.count:
            raise UserError(
                f"distill.batch_size = {self.settings.batch_size} is larger than the selection "
                f"({self.count} images); lower it or select more images"
            )
        self.steps_per_epoch = (
            self.settings.steps_per_epoch or self.count // self.settings.batch_size
        )
        self.optimisers = _optimisers(self.method, self.settings)
        self._bases = [group["lr"] for each in self.optimisers for group in each.param_groups]
        shown = self.settings.epochs * self.steps_per_epoch * self.settings.batch_size
        repeated = self.settings.views if self.settings.views * self.count < shown else 0
        self.answers = Answers(self._teacher, self.views, repeated, self.method.needs_maps)
        self.history = History(self.classes, self.count)
        self.passes = 0  # begun passes over the kept images
        self.empty_choices = 0  # choices that kept nothing and were passed over
        self._unseen: tuple[Callable[[], bool], Tensor] | None = None  # see _watch
        if self.labels is None:
            self.labels = torch.full((self.count,), -1, device=self.device)
        self.pool = Pool(
            lambda: self.look(self.teacher),
            lambda: self.look(self.method.student())[0],
            self.labels,
        )
        self.phases = self.method.phases(self.settings.epochs)
        self.moments: list[Tensor] = []  # each [SHOWN, 3, H, W]: what the method made of the images
        plug_in = self.settings.deconfound
        self._drawn: DrawnDictionary | None = None
        if plug_in.enabled and plug_in.dictionary == "drawn":
            self._drawn = DrawnDictionary(plug_in.drawn, self.seed, self._penultimate)

    # -- one epoch -----------------------------------------------------------------------------------------
    def epoch(self, number: int) -> Iterator[int]:
        """Train epoch `number` (from 0), yielding the images of every step; appends its row to the curve.

        Every epoch has `steps_per_epoch` steps, whatever the method keeps: kept images are gone through again, in new
        views, until the steps are done.
        """
        self._choose(number)
        self._refresh(number)
        rng = np.random.default_rng([self.seed, number])
        torch.manual_seed(
            int(np.random.default_rng([self.seed, number, 2]).integers(2**62))
        )  # dropout
        self.method.train()
        sums: dict[str, Tensor] = {}
        counts: Counter[str] = Counter()  # a figure need not be there in every step
        for step, (view, rows) in enumerate(self._batches(rng)):
            self._set_rates(number * self.steps_per_epoch + step)
            batch = self._batch(view, rows, rng, number * self.steps_per_epoch + step)
            for key, value in self._step(batch).items():
                sums[key] = sums[key] + value if key in sums else value
                counts[key] += 1
            if step + 1 < self.steps_per_epoch:
                yield len(rows)
        self._watch(None)
        self.rows.append(
            {"epoch": number + 1.0} | {k: float(v) / counts[k] for k, v in sums.items()}
        )
        if number + 1 in _shown_epochs(self.phases):
            images, labels = self.shown()
            made = self.method.moment(images, labels)
            self.moments += [] if made is None else [made]
        yield self.settings.batch_size

    def _batches(self, rng: np.random.Generator) -> Iterator[tuple[int, Tensor]]:
        """-> (view, rows [B]) of every step of an epoch; a batch may span two passes and then has the later view."""
        kept = self.kept.cpu().numpy()
        size, waiting = self.settings.batch_size, np.empty(0, np.int64)
        for _ in range(self.steps_per_epoch):
            while len(waiting) < size:
                waiting = np.concatenate([waiting, rng.permutation(kept)])
                self.passes += 1
            rows, waiting = waiting[:size], waiting[size:]
            number = self.passes - 1
            view = number % self.settings.views if self.settings.views else number
            yield view, torch.from_numpy(rows).to(self.device, non_blocking=True)

    def _batch(self, view: int, rows: Tensor, rng: np.random.Generator, step: int) -> Batch:
        assert self.labels is not None
        weight, labels = self.weight[rows], self.labels[rows]
        if not self.method.sees_pool:
            nothing = weight.new_empty(0)
            return Batch(nothing, nothing, None, weight, rows, rng, labels, step)
        images = self.views(view, rows)
        if not self.method.asks_teacher:
            return Batch(images, weight.new_empty(0), None, weight, rows, rng, labels, step)
        known = self.answers(view, rows, images)
        return Batch(images, known.logits, known.maps, weight, rows, rng, labels, step)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step. -> its figures, on the device."""
        losses, logits = self._losses(self.method, batch)
        total = torch.stack(list(losses.values())).sum()
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        total.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        self._watch((arriving(torch.isfinite(total.detach())), batch.rows))
        reference = self.method.reference
        other = batch.teacher_logits if reference is None else reference
        same = (logits.argmax(1) == other.argmax(1)).float().mean()
        figures = {"loss": total.detach(), "agreement": same}
        if len(losses) > 1:
            figures |= {name: value.detach() for name, value in losses.items()}
        return figures

    def _watch(self, now: tuple[Callable[[], bool], Tensor] | None) -> None:
        """Look whether the loss of the step before `now`'s was finite: one step late, so a GPU always has one to do."""
        before, self._unseen = self._unseen, now
        if before is None or before[0]():
            return
        names = [self.ids[i] for i in before[1][:8].tolist()]
        raise UserError(
            f"the loss is not finite; lower {self._rates_named()}. The batch begins with images {names}"
        )

    def _rates_named(self) -> str:
        plug_in = self.settings.deconfound.enabled
        return "distill.lr or distill.deconfound.lr" if plug_in else "distill.lr"

    def _losses(self, method: Method, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        with self._autocast():
            return method.losses(batch)

    def compensation_overhead(self) -> list[float]:
        """Shares of a step's time that the student's compensation adds, sorted; on a copy, changes nothing."""
        places = torch.arange(self.settings.batch_size) % len(self.kept)
        rows = self.kept[places.to(self.kept.device)].to(self.device)
        batch = self._batch(0, rows, np.random.default_rng(0), 1)

        def step(method: Method, batch: Batch) -> None:
            losses, _ = self._losses(method, batch)
            torch.stack(list(losses.values())).sum().backward()

        return overhead(self.method, self.teacher, batch, step)

    def _refresh(self, number: int) -> None:
        """A new confounder dictionary, where the method's own images make it and epoch `number` begins with one."""
        if self._drawn is not None and self._drawn.due(number):
            compensation = self.method.student().compensation
            assert compensation is not None
            found = self._drawn.draw(self.method, number)
            compensation.set_dictionary(found.prototypes, found.prior)

    # -- choice of images ----------------------------------------------------------------------------------
    @property
    def kept(self) -> Tensor:
        """Places of the images that are trained on now, [n] int64."""
        if not self.history.kept:
            return torch.arange(self.count)
        return self.history.kept[-1].nonzero()[:, 0]

    def _choose(self, number: int) -> None:
        choice: Choice | None = self.method.select(self.pool, number, self.settings.epochs)
        if choice is None:
            return
        if bool(choice.keep.any()):
            self.history.add(number, choice)
        elif self.history.kept:
            self.empty_choices += 1  # the images of before stay; the stage says so at the end
        else:
            raise UserError(
                f"distill.method = {self.settings.method} kept none of {self.count} images; "
                "give it more images or switch its selection off"
            )

    def shown(self) -> tuple[Tensor, Tensor]:
        """The images that pictures show, in the plain view, and their labels: the first that may be trained on."""
        assert self.labels is not None
        allowed = self.history.kept[0].nonzero()[:, 0] if self.history.kept else self.kept
        rows = allowed[:SHOWN].to(self.device)
        return self.views.plain(rows), self.labels[rows]

    @torch.no_grad()
    def look(self, net: Classifier) -> tuple[Tensor, Tensor]:
        """All images in the plain view -> logits [N, K] and pooled features [N, C], float32; `net` in eval mode."""
        was_training = net.training
        net.eval()
        logits, features = [], []
        for rows in torch.arange(self.count, device=self.device).split(PLAIN_BATCH):
            with self._autocast():
                maps = net.features(self.views.plain(rows))
                pooled = net.pool(maps)
                logits.append(net.answer(pooled).float())
            features.append(pooled.float())
        net.train(was_training)
        return torch.cat(logits), torch.cat(features)

    # -- teacher, precision, rates ---------------------------------------------------------------------------
    @torch.no_grad()
    def _teacher(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with self._autocast():
            maps = self.teacher.features(images)
            return self.teacher.classify(maps).float(), maps

    @torch.no_grad()
    def _penultimate(self, images: Tensor) -> Tensor:
        with self._autocast():
            return self.teacher.pool(self.teacher.features(images)).float()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision)

    def _set_rates(self, step: int) -> None:
        """The rates of step `step` of the run: every phase has a curve of its own."""
        for epochs in self.phases:
            if step < epochs * self.steps_per_epoch:
                break
            step -= epochs * self.steps_per_epoch
        factor = rate_factor(
            step,
            epochs * self.steps_per_epoch,
            round(min(self.settings.warmup_epochs, epochs) * self.steps_per_epoch),
            self.settings.decay,
        )
        groups = chain.from_iterable(each.param_groups for each in self.optimisers)
        for base, group in zip(self._bases, groups, strict=True):
            group["lr"] = base * factor

    # -- resume --------------------------------------------------------------------------------------------
    def save(self, path: Path) -> None:
        """Everything the next epoch depends on, but for what is computed again: randomness, the teacher's answers."""
        state = {
            "method": self.method.state_dict(),
            "optimisers": [each.state_dict() for each in self.optimisers],
            "rows": self.rows,
            "moments": self.moments,
            "history": {"rows": self.history.rows, "kept": self.history.kept},
            "passes": self.passes,
            "empty_choices": self.empty_choices,
        }
        temporary = path.with_suffix(f".{os.getpid()}.tmp")  # cells may save the same phase at once
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's word for a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        else:
            replace(temporary, path)  # a kill leaves the old state or the new one
        finally:
            temporary.unlink(missing_ok=True)

    def restore(self, path: Path) -> int:
        """Continue a saved run. -> number of finished epochs"""
        return self.take(read_state(path))

    def take(self, state: Mapping[str, Any]) -> int:
        """The same with a state that was read before."""
        self.method.load_state_dict(state["method"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.rows, self.moments = state["rows"], state["moments"]
        self.history.rows = state["history"]["rows"]
        self.history.kept = [each.cpu() for each in state["history"]["kept"]]
        self.passes, self.empty_choices = state["passes"], state["empty_choices"]
        return len(self.rows)


def read_state(path: Path) -> dict[str, Any]:
    """What `Run.save` wrote, on the CPU: an error of reading is then none of the GPU's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles that are none of ours: the error says enough
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def arriving(flag: Tensor) -> Callable[[], bool]:
    """Send a flag [] from its device on its way; the result waits for it, but not for work that was queued later."""
    if flag.device.type != "cuda":
        return lambda: bool(flag)
    copy, done = flag.to("cpu", non_blocking=True), torch.cuda.Event()
    done.record()

    def read() -> bool:
        done.synchronize()
        return bool(copy)

    return read


def _shown_epochs(phases: Sequence[int]) -> set[int]:
    """Finished epochs after which a moment is kept: MOMENTS of every phase, its end among them."""
    ends = accumulate(phases)
    return {
        end - length + math.ceil(length * part / MOMENTS)
        for end, length in zip(ends, phases, strict=True)
        for part in range(1, MOMENTS + 1)
        if length
    }


def _optimisers(method: Method, settings: Distill) -> list[torch.optim.Optimizer]:
    """SGD for all that learns, but Adam for what the method asks it for; a compensation has a rate of its own."""
    groups = method.adam()
    compensation = method.student().compensation
    added = list(compensation.parameters()) if compensation is not None else []
    taken = {id(p) for group in groups for p in group["params"]} | {id(p) for p in added}
    parameters = [p for p in method.parameters() if p.requires_grad and id(p) not in taken]
    matrices = {"weight_decay": settings.weight_decay}
    sgd = torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], **matrices},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            *([{"params": added, "lr": settings.deconfound.lr, **matrices}] if added else []),
        ],
        lr=settings.lr,
        momentum=0.9,
        nesterov=True,
    )
    return [sgd, torch.optim.Adam(groups)] if groups else [sgd]
