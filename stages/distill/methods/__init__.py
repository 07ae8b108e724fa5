"""One short file per method. A method turns a batch into named losses and says what the exported student is.

The training loop knows no method by name; adding one is a file here, one line in `build` and its name in
`stages/distill/params.py`. docs/methods.md shows a whole one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from stages.distill.params import Distill
from webdistill.models.cifar import Classifier


@dataclass(frozen=True)
class Batch:
    """What a method sees of one step."""

    images: Tensor  # [B, 3, H, W] float32, normalised views, channels_last
    teacher_logits: Tensor  # [B, K] float32, of these very views
    teacher_maps: Tensor | None  # [B, C, h, w] of these very views; only with Method.needs_maps
    weight: Tensor  # [B] from the selection, mean 1 over the pool
    rows: Tensor  # [B] int64, places of the images in the pool
    rng: np.random.Generator  # draw all randomness of the step from it: it makes resuming exact
    labels: Tensor | None = None  # [B] int64, the class that an image's keyword names, -1 = none
    step: int = 0  # of the run, from 0


class Pool:
    """What a method may choose images from: all N of them, in one fixed view (the whole image, normalised)."""

    def __init__(
        self,
        teacher: Callable[[], tuple[Tensor, Tensor]],
        student: Callable[[], Tensor],
        labels: Tensor,
    ) -> None:
        self._teacher, self._student = teacher, student
        self.labels = labels  # [N] int64, the class that an image's keyword names, -1 = none

    @cached_property
    def _answers(self) -> tuple[Tensor, Tensor]:
        return self._teacher()

    @property
    def teacher_logits(self) -> Tensor:
        """[N, K] float32; computed once, on first use."""
        return self._answers[0]

    @property
    def teacher_features(self) -> Tensor:
        """[N, C] float32, pooled; computed with the logits."""
        return self._answers[1]

    def student_logits(self) -> Tensor:
        """[N, K] float32 of the student as it is now, in eval mode; computed on every call."""
        return self._student()


@dataclass(frozen=True)
class Choice:
    """Which images of the pool are trained on until the next choice."""

    keep: Tensor  # [N] bool
    pseudo_class: Tensor  # [N] int64, the class that decided
    confidence: Tensor  # [N] float32 in [0, 1]


class Method(nn.Module):
    """The student and whatever else is trained with it; all of it is optimised and checkpointed."""

    needs_maps = False  # whether the batch must bring the teacher's last maps
    draws = False  # whether the method makes images of its own, see `draw`
    # what the steps of this epoch use: the pool at all, and the teacher's answers to it; else a batch has none
    sees_pool, asks_teacher = True, True
    # what the student's logits are compared with for the curve, where not with the batch's answers
    reference: Tensor | None = None

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """-> named losses, whose sum is minimised, and the student's logits [B, K]. Runs in train mode."""
        raise TypeError(f"{type(self).__name__} must define losses()")

    def student(self) -> Classifier:
        """The network that is exported and evaluated."""
        raise TypeError(f"{type(self).__name__} must define student()")

    def select(self, pool: Pool, epoch: int, epochs: int) -> Choice | None:
        """Called before every epoch (from 0). None: go on with the images of before (at first: all)."""
        return None

    def phases(self, epochs: int) -> list[int]:
        """Lengths in epochs, together `epochs`, of parts with a curve of rates and a checkpoint of their own."""
        return [epochs]

    def undecided(self, phase: int) -> set[str]:
        """Settings of `distill` that decide nothing before the end of a phase: its checkpoint survives their change."""
        return set()

    def moment(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """What the method makes of `images` at this moment of the training, to look at; same shape, normalised."""
        return None

    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        """`count` images of its own [count, 3, H, W], normalised, for a confounder dictionary; only with `draws`."""
        raise TypeError(f"{type(self).__name__} must define draw()")

    def adam(self) -> list[dict[str, Any]]:
        """Parameter groups for Adam, {"params": [...], "lr": ..., "betas": ...}; all others are left to SGD.

        Their rates follow the same curve as the student's.
        """
        return []


def build(settings: Distill, student: Classifier, teacher: Classifier, image_size: int) -> Method:
    """The method named in the parameters. `teacher` is frozen; a method must not hold it as a submodule."""
    match settings.method:
        case "kd":
            from stages.distill.methods.kd import Kd

            return Kd(student, settings.temperature)
        case "dfnd":
            from stages.distill.methods.dfnd import Dfnd

            return Dfnd(student, settings.temperature, settings.dfnd, teacher.fc.out_features)
        case "simkd":
            from stages.distill.methods.simkd import SimKd

            return SimKd(student, teacher, image_size)
        case "kd3":
            from stages.distill.methods.kd3 import Kd3

            return Kd3(student, teacher, image_size, settings.temperature, settings.kd3)
        case "mosaic":
            from stages.distill.methods.mosaic import Mosaic

            return Mosaic(student, teacher, image_size, settings.temperature, settings.mosaic)
        case "augkd":
            from stages.distill.methods.augkd import AugKd

            return AugKd(student, teacher, image_size, settings.temperature, settings.augkd)
        case "supervised":
            from stages.distill.methods.supervised import Supervised

            return Supervised(student)
        case "odsd":
            from stages.distill.methods.odsd import Odsd

            return Odsd(student, teacher, settings.temperature, settings.odsd)
