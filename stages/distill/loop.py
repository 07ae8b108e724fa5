"""The training loop: views, teacher answers, steps, resume. Needs torch and numpy only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from stages.distill.methods import Batch, Method
from stages.distill.params import Distill
from webdistill.core.errors import UserError
from webdistill.core.files import replace
from webdistill.images.views import Views
from webdistill.models.cifar import Classifier
from webdistill.models.precision import low_precision

Row = dict[str, float]


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
    bank: dict[int, Tensor] = field(
        default_factory=dict
    )  # view number -> teacher logits [N, K] float32
    rows: list[Row] = field(default_factory=list)  # the curve so far, one row per finished epoch

    def __post_init__(self) -> None:
        self.count = len(self.ids)
        self.device = self.views.pool.device
        self.low_precision = low_precision(self.settings.precision, self.device)
        self.steps_per_epoch = self.count // self.settings.batch_size
        if self.steps_per_epoch < 1:
            raise UserError(
                f"distill.batch_size = {self.settings.batch_size} is larger than the selection "
                f"({self.count} images); lower it or select more images"
            )
        self.optimiser = _optimiser(self.method, self.settings)

    # -- one epoch -----------------------------------------------------------------------------------------
    def epoch(self, number: int) -> Iterator[int]:
        """Train epoch `number` (from 0), yielding the images of every step; appends its row to the curve."""
        view = number % self.settings.views if self.settings.views else number
        known = self.bank.get(view)
        answers = known if known is not None else self._empty_answers()
        generator = torch.Generator().manual_seed(self.seed * 7_919 + number)
        order = torch.randperm(self.count, generator=generator).to(self.device)
        self.method.trained().train()
        size = self.settings.batch_size
        sums = {"loss": 0.0, "agreement": 0.0}
        for step in range(self.steps_per_epoch):
            rows = order[step * size : (step + 1) * size]
            self._set_rate(number * self.steps_per_epoch + step)
            images = self.views(view, rows)
            missing = known is None or bool(answers[rows].isnan().any())
            if missing:
                answers[rows] = self._teacher_logits(images)
            sums_step = self._step(Batch(images, answers[rows], self.weight[rows]), rows)
            for key, value in sums_step.items():
                sums[key] = sums.get(key, 0.0) + value
            if step + 1 < self.steps_per_epoch:
                yield size
        if self.settings.views:
            self.bank[view] = answers
        self.rows.append(
            {"epoch": number + 1.0} | {k: v / self.steps_per_epoch for k, v in sums.items()}
        )
        yield size

    def _step(self, batch: Batch, rows: Tensor) -> dict[str, float]:
        with self._autocast():
            losses, logits = self.method.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        if not bool(torch.isfinite(total)):
            names = [self.ids[i] for i in rows[:8].tolist()]
            raise UserError(
                f"the loss is not finite; lower distill.lr. The batch begins with images {names}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        self.optimiser.step()
        same = (logits.argmax(1) == batch.teacher_logits.argmax(1)).float().mean()
        return {"loss": float(total.detach()), "agreement": float(same)} | (
            {name: float(value.detach()) for name, value in losses.items()}
            if len(losses) > 1
            else {}
        )

    def _empty_answers(self) -> Tensor:
        return torch.full((self.count, self.teacher.fc.out_features), math.nan, device=self.device)

    @torch.no_grad()
    def _teacher_logits(self, images: Tensor) -> Tensor:
        with self._autocast():
            return self.teacher(images).float()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision)

    def _set_rate(self, step: int) -> None:
        rate = self.settings.lr * rate_factor(
            step,
            self.settings.epochs * self.steps_per_epoch,
            round(self.settings.warmup_epochs * self.steps_per_epoch),
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    # -- resume --------------------------------------------------------------------------------------------
    def save(self, path: Path) -> None:
        """Everything the next epoch depends on. Randomness needs no state: it is drawn anew per epoch."""
        state = {
            "method": self.method.trained().state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "bank": self.bank,
            "rows": self.rows,
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        replace(temporary, path)  # a kill leaves the old state or the new one

    def restore(self, path: Path) -> int:
        """Continue a saved run. -> number of finished epochs"""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.method.trained().load_state_dict(state["method"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.bank, self.rows = state["bank"], state["rows"]
        return len(self.rows)


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, then half a cosine down to 0 at `steps`; in [0, 1]."""
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2


def _optimiser(method: Method, settings: Distill) -> torch.optim.SGD:
    parameters = [p for p in method.trained().parameters() if p.requires_grad]
    return torch.optim.SGD(
        [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": settings.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.lr,
        momentum=0.9,
        nesterov=True,
    )
