"""One short file per method. A method turns a batch into named losses and owns the student that is exported.

The training loop knows no method by name. A new method is a file here, a case in `build`, its name and its options
in `stages/distill/method_params.py`, and a section in `Distill`. docs/methods.md shows a whole one; CONTRIBUTING.md
lists all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from stages.distill.params import Distill
from webdistill.models.classifier import Classifier

Reads = Literal["nothing", "images", "answers"]


@dataclass(frozen=True)
class Batch:
    """The input of one step: B images of the pool, each in one augmented view, with the data that belong to them.

    Where several processes train together, these are the images of one, and the whole batch has `ranks.count()` times
    as many. What compares images with each other, or is no mean over them, asks `ranks.whole` or `ranks.averaged`. All
    processes draw the same from `rng`: for the whole batch, of which each takes `ranks.part`.

    `Method.reads` decides which fields are filled: with "nothing", `images` is an empty tensor of shape [0] and
    `labels` is None; with "nothing" or "images", `teacher_logits` is an empty tensor. All other fields are always
    filled.
    """

    images: Tensor  # [B, 3, H, W] float32, normalised views, channels_last
    teacher_logits: Tensor  # [B, K] float32, of these very views
    teacher_maps: Tensor | None  # [B, C, h, w] of these very views; only with Method.needs_maps
    weight: Tensor  # [B] float32 from the selection, without a unit: mean 1 over the pool
    rows: Tensor  # [B] int64, places of the images in the pool
    rng: np.random.Generator  # draw all randomness of the step from it: it makes resuming exact
    labels: Tensor | None = None  # [B] int64, the class that an image's keyword names, -1 = none
    step: int = 0  # optimiser step of the run, from 0


class Pool:
    """The images that a method may select from: all N of them, in one fixed view (the whole image, normalised)."""

    def __init__(
        self,
        teacher: Callable[[], tuple[Tensor, Tensor]],
        student: Callable[[], Tensor],
        map_variance: Callable[[int], float],
        labels: Tensor,
    ) -> None:
        """Nothing is computed before it is used.

        Arguments:
            teacher: returns the teacher's logits [N, K] and pooled features [N, C]; called at most once.
            student: returns the logits [N, K] of the student in its present state.
            map_variance: takes the side [px] to which maps are pooled and returns their variance, see below.
            labels: [N] int64, the class that an image's keyword names, -1 = none.
        """
        self._teacher, self._student, self._map_variance = teacher, student, map_variance
        self.labels = labels

    @cached_property
    def _answers(self) -> tuple[Tensor, Tensor]:
        return self._teacher()

    @property
    def teacher_logits(self) -> Tensor:
        """[N, K] float32; computed once, on first use: a forward pass over the whole pool."""
        return self._answers[0]

    @property
    def teacher_features(self) -> Tensor:
        """[N, C] float32, pooled; computed with the logits."""
        return self._answers[1]

    def map_variance(self, side: int) -> float:
        """Variance of the teacher's last maps over images and positions, mean over channels; maps [side, side]."""
        return self._map_variance(side)

    def student_logits(self) -> Tensor:
        """[N, K] float32 of the student as it is now, in eval mode; a pass over the whole pool on every call."""
        return self._student()


@dataclass(frozen=True)
class Choice:
    """The images of the pool that are trained on until the next choice; all tensors are on one device.

    A choice that keeps no image is ignored and counted, and the images of the choice before remain; as the first choice
    it stops the run with a UserError.
    """

    keep: Tensor  # [N] bool
    pseudo_class: Tensor  # [N] int64 in 0 ... K - 1, the class by which the image was judged
    confidence: Tensor  # [N] float32 in [0, 1], for the history alone


class Method(nn.Module):
    """The student and everything that is trained with it; all parameters are optimised, all state is checkpointed.

    A subclass defines `losses` and `student`; every other hook has a default that changes nothing. In every epoch the
    loop calls `begin_epoch`, then `select`, then `losses` once per step, and after some epochs `moment`. A run may be
    resumed before any `begin_epoch`, so the state of an epoch must follow from its number, parameters and buffers.

    Example:
        class Imitation(Method):
            def __init__(self, student: Classifier) -> None:
                super().__init__()
                self.net = student

            def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
                logits = self.net(batch.images).float()
                return {"imitation": F.mse_loss(logits, batch.teacher_logits)}, logits

            def student(self) -> Classifier:
                return self.net
    """

    needs_maps = False  # whether `Batch.teacher_maps` is filled
    needs_pool = (
        True  # False: no image of the pool is used; a batch has weights 1, and `rows` only count
    )
    unit = 1.0  # the difference that counts as 1 where a compensation is added: a logit, unless it is added to maps
    # [B, K]: what the curve compares the student's logits with, if not with the batch's teacher logits
    reference: Tensor | None = None
    # of the last step, scalars [] on the device that stand in the curve beside its losses
    figures: Mapping[str, Tensor] = {}
    noted: tuple[
        str, ...
    ] = ()  # names of those figures whose last values stand in the run's metrics, too

    # -- what every method defines ---------------------------------------------------------------------------
    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of one step. Called in train mode, under autocast if the run computes in bfloat16.

        Arguments:
            batch: B images and their data. All randomness must be drawn from `batch.rng`, which makes resuming exact.

        Returns:
            Named losses, scalars [] each, and the student's logits [B, K] float32. The sum of the losses is minimised;
            the curve shows each by its name. The set of names may vary from step to step.
        """
        raise TypeError(f"{type(self).__name__} must define losses()")

    def student(self) -> Classifier:
        """The network that is exported and evaluated.

        Returns:
            The same module at every call, with K classes. A compensation (KDCI) may be attached to it.
        """
        raise TypeError(f"{type(self).__name__} must define student()")

    # -- what changes from epoch to epoch --------------------------------------------------------------------
    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Prepare an epoch. Called before any other hook of the epoch, in resumed runs too.

        Arguments:
            epoch: number of the epoch that begins, from 0.
            epochs: E, number of epochs of the run.
        """

    @property
    def reads(self) -> Reads:
        """What the steps of this epoch read from the pool; read after `begin_epoch`.

        Returns:
            "answers": images and the teacher's logits. "images": images alone, without a forward pass of the teacher.
            "nothing": no views are made; a batch has no images, no labels and equal weights, whatever the pool.
        """
        return "answers"

    def select(self, pool: Pool, epoch: int, epochs: int) -> Choice | None:
        """Select the images for this epoch and the following ones. Called in every epoch, after `begin_epoch`.

        Arguments:
            pool: all images; predictions on them are computed on first use.
            epoch: number of the epoch that begins, from 0.
            epochs: E, number of epochs of the run.

        Returns:
            A choice, or None to keep the present images (all images before the first choice).

        Raises:
            UserError: the pool has no image from which the method could learn.

        Example:
            confidence, label = torch.softmax(pool.teacher_logits, dim=1).max(1)
            return None if epoch else Choice(confidence > 0.5, label, confidence)
        """
        return None

    def prepare(self, epoch: int, rng: np.random.Generator) -> None:
        """Called before the steps of an epoch, after `select`, in train mode: the place for an optimisation of its own.

        Arguments:
            epoch: number of the epoch that begins, from 0.
            rng: where all randomness comes from; torch's own is seeded, too.
        """

    # -- phases ----------------------------------------------------------------------------------------------
    def phases(self, epochs: int) -> list[int]:
        """Parts of the training that have their own learning rate curve and their own checkpoint.

        Arguments:
            epochs: E, number of epochs of the run.

        Returns:
            Lengths of the parts in epochs, in order. They sum to E; a length may be 0.
        """
        return [epochs]

    def undecided(self, phase: int) -> set[str]:
        """Settings without effect up to the end of a phase: runs that differ in these alone share its checkpoint.

        A setting that is named here although it has an effect makes later runs continue from a wrong state, so a test
        must prove each. Options of other methods need not be named.

        Arguments:
            phase: index in `phases`, from 0; never the last, which ends with the run.

        Returns:
            Keys of the section `distill`, such as "temperature" or, in a section of its own, "deconfound.inference".
        """
        return set()

    def needs_images(self, phase: int) -> bool:
        """Whether the images decide anything up to the end of a phase.

        Runs on other images share the checkpoint of a phase for which this is False. All its steps must read "nothing"
        (`reads`); `select` and `moment` are asked again by the run that continues from it.

        Arguments:
            phase: index in `phases`, from 0; never the last.

        Returns:
            True, unless the method overrides it.
        """
        return True

    # -- images, optimisers ----------------------------------------------------------------------------------
    def moment(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Pictures for the report: what the method makes of a few images in its present state.

        Arguments:
            images: [B, 3, H, W] float32, normalised, unaugmented.
            labels: [B] int64, -1 = none.

        Returns:
            Pictures of the same shape and normalisation, or None if there is nothing to show.
        """
        return None

    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        """Generate images for a confounder dictionary. Called only for methods in `DRAWING` of method_params.py.

        Arguments:
            count: number of images.
            rng: the only source of randomness.

        Returns:
            [count, 3, H, W] float32, normalised.
        """
        raise TypeError(f"{type(self).__name__} must define draw()")

    def adam(self) -> list[dict[str, Any]]:
        """Parameters that Adam optimises; the optimizer of the run takes all others.

        Returns:
            Parameter groups {"params": [...], "lr": ..., "betas": ...}. Their rates follow the same curve as the
            student's. Empty by default.

        Example:
            return [{"params": list(self.regressor.parameters()), "lr": 1e-3}]
        """
        return []


def build(settings: Distill, student: Classifier, teacher: Classifier, image_size: int) -> Method:
    """Make the method that the parameters name.

    Arguments:
        settings: the section `distill`.
        student: a fresh network on the device of the run.
        teacher: frozen, on the same device. A method must not hold it as a submodule: it would be trained and saved.
        image_size: S, side of the images in pixels.

    Returns:
        The method on that device, in train mode.

    Raises:
        UserError: the method does not support this teacher or this size of images.
    """
    match settings.method:
        case "kd":
            from stages.distill.methods.kd import Kd

            return Kd(student, settings.softness)
        case "dfnd":
            from stages.distill.methods.dfnd import Dfnd

            return Dfnd(student, settings.softness, settings.dfnd, teacher.fc.out_features)
        case "simkd":
            from stages.distill.methods.simkd import SimKd

            return SimKd(student, teacher, image_size, settings.softness, settings.simkd)
        case "kd3":
            from stages.distill.methods.kd3 import Kd3

            return Kd3(student, teacher, image_size, settings.softness, settings.kd3)
        case "mosaic":
            from stages.distill.methods.mosaic import Mosaic

            return Mosaic(student, teacher, image_size, settings.softness, settings.mosaic)
        case "augkd":
            from stages.distill.methods.augkd import AugKd

            return AugKd(student, teacher, image_size, settings.softness, settings.augkd)
        case "supervised":
            from stages.distill.methods.supervised import Supervised

            return Supervised(student)
        case "odsd":
            from stages.distill.methods.odsd import Odsd

            return Odsd(student, teacher, settings.softness, settings.odsd)
        case "dafl":
            from stages.distill.methods.dafl import Dafl

            return Dafl(student, teacher, image_size, settings.softness, settings.dafl)
        case "fast":
            from stages.distill.methods.fast import Fast

            return Fast(student, teacher, image_size, settings.softness, settings.fast)
        case "cmi":
            from stages.distill.methods.cmi import Cmi

            return Cmi(student, teacher, image_size, settings.softness, settings.cmi)
        case "deepinv":
            from stages.distill.methods.deepinv import DeepInv

            return DeepInv(student, teacher, image_size, settings.softness, settings.deepinv)
