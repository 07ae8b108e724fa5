"""KDCI as a plug-in (CVPR 2024, arXiv 2403.19539): gives any method's student a compensation and its dictionary.

A method knows nothing of it: the student it asks for logits answers compensated ones, so every loss reads them. The
mathematics is in webdistill/models/compensation.py.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.distill import ranks
from stages.distill.deconfound_params import DeconfoundSettings, DrawnSettings
from stages.distill.forward import Forward
from stages.distill.history import Row
from stages.distill.methods import Batch, Method
from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier
from webdistill.models.compensation import Compensation, constant

CHUNK = 256  # images drawn and looked at together
MEASURED = 1024  # images of the pool that a compensation is measured on
PARTS = ("compensation_constant", "compensation_by_image")  # columns of the curve
PAIRS = 5  # of steps with and without compensation that are timed


@dataclass(frozen=True)
class Dictionary:
    """Confounder prototypes [N, d] and their prior [N], float32."""

    prototypes: Tensor
    prior: Tensor


def read_dictionary(path: Path) -> Dictionary:
    """The output of stage `prototypes`. Raises UserError when it is none."""
    from safetensors import SafetensorError  # here: the loop runs where no more than torch is
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        found = Dictionary(tensors["prototypes"], tensors["prior"])
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(
            f"{path} holds no prototypes ({error}); run `dvc repro prototypes`"
        ) from None
    if found.prototypes.ndim != 2 or found.prior.shape != found.prototypes.shape[:1]:
        raise UserError(
            f"{path} holds a prior that does not fit its prototypes; run `dvc repro prototypes`"
        )
    return found


def attach(
    method: Method, settings: DeconfoundSettings, dictionary: Dictionary | None, teacher_width: int
) -> Compensation:
    """Compensate the method's student from now on. `dictionary`: missing when it will be drawn, or is `constant`.

    Raises UserError when it is to be drawn in more dimensions than the teacher has features.
    """
    student = method.student()
    if settings.dictionary == "constant":
        bias = torch.zeros(student.compensated, device=student.fc.weight.device)
        student.compensation = compensation = constant(bias, settings.fuse)
        compensation.averaged = ranks.averaged
        return compensation
    if settings.dictionary == "drawn":
        count, width = settings.drawn.count, teacher_width
        if settings.drawn.dims > width:
            raise UserError(
                f"distill.deconfound.drawn.dims = {settings.drawn.dims}, but the teacher has {width} features; "
                "lower it"
            )
    else:
        assert dictionary is not None
        count, width = dictionary.prototypes.shape
    student.compensation = compensation = student.new_compensation(
        count,
        width,
        settings.query,
        settings.attention,
        settings.prior,
        settings.fuse,
        settings.centre,
    )
    compensation.averaged = ranks.averaged
    if dictionary is not None and settings.dictionary != "drawn":
        compensation.set_dictionary(dictionary.prototypes, dictionary.prior)
    return compensation.to(student.fc.weight.device)


class DrawnDictionary:
    """A dictionary of what the method itself makes, drawn at epoch `start` and every `every` epochs from then on."""

    def __init__(
        self, settings: DrawnSettings, seed: int, features: Callable[[Tensor], Tensor]
    ) -> None:
        self.settings, self.seed, self.features = settings, seed, features

    @classmethod
    def wanted(
        cls, settings: DeconfoundSettings, seed: int, features: Callable[[Tensor], Tensor]
    ) -> DrawnDictionary | None:
        """With `deconfound.dictionary: drawn`; `features`: images [B, 3, H, W] -> the teacher's, [B, d]."""
        drawn = settings.enabled and settings.dictionary == "drawn"
        return cls(settings.drawn, seed, features) if drawn else None

    def refresh(self, method: Method, epoch: int) -> None:
        """Give the method's student a new dictionary if epoch `epoch` begins with one."""
        if self.due(epoch):
            compensation = method.student().compensation
            assert compensation is not None
            found = self.draw(method, epoch)
            compensation.set_dictionary(found.prototypes, found.prior)

    def due(self, epoch: int) -> bool:
        """Whether epoch `epoch` (from 0) begins with a new dictionary."""
        since = epoch - self.settings.start
        return since >= 0 and since % self.settings.every == 0

    def draw(self, method: Method, epoch: int) -> Dictionary:
        """Images of the method as it is now -> teacher features -> PCA -> k-means -> prototypes and priors.

        A function of the method's state, the seed and the epoch, so that a resumed run draws the same.
        """
        from webdistill.clustering import fit_projection, group_means, kmeans, project

        settings, section = self.settings, "distill.deconfound.drawn"
        rng = np.random.default_rng([self.seed, epoch, 1])
        chunks = -(
            -settings.images // CHUNK
        )  # of nearly equal size: a generator may normalise over one
        sizes = [len(part) for part in np.array_split(np.arange(settings.images), chunks)]
        parts = [self.features(method.draw(size, rng)).float().cpu() for size in sizes]
        found = torch.cat(parts).numpy()
        flat = project(found, fit_projection(found, settings.dims, section=section))
        clusters = kmeans(flat, settings.count, 100, self.seed, section=section)
        members = np.bincount(clusters.labels, minlength=settings.count)
        return Dictionary(
            torch.from_numpy(group_means(found, clusters.labels, settings.count)),
            torch.from_numpy((members / len(found)).astype(np.float32)),
        )


class Gauge:
    """Looks at a compensation over images of the pool, or over the method's own where it uses no pool."""

    def __init__(self, forward: Forward, seed: int) -> None:
        self.forward, self.seed = forward, seed

    def measure(self, method: Method, epoch: int) -> Row:
        """Of what is added: root mean square of its mean over the images, and of what is left of it for each image.

        The mean is kept in the compensation: evaluate adds it alone, to see whether more than a constant was learned.
        """
        student = method.student()
        compensation, was_training = student.compensation, student.training
        assert compensation is not None
        student.eval()
        added = self._look(method, epoch)
        student.train(was_training)
        mean = added.mean(0)
        compensation.mean.copy_(mean)
        rest = (added - mean).square().mean().sqrt()
        return dict(zip(PARTS, (float(mean.square().mean().sqrt()), float(rest)), strict=True))

    @torch.no_grad()
    def _look(self, method: Method, epoch: int) -> Tensor:
        """-> what is added [n, outputs], float64."""
        student = method.student()
        assert student.compensation is not None
        parts: list[Tensor] = []
        hook = student.compensation.register_forward_hook(
            lambda _, __, found: parts.append(found.double())
        )
        try:
            for images in self.images(method, epoch):
                with self.forward.autocast():
                    student(images)
        finally:
            hook.remove()
        return torch.cat(parts)

    def images(self, method: Method, epoch: int) -> Iterable[Tensor]:
        """Those that it looks at after epoch `epoch`: of the pool as `Forward.spread` has them, or the method's."""
        if method.needs_pool:
            return self.forward.spread(MEASURED)
        return method.draw(MEASURED, np.random.default_rng([self.seed, epoch, 3])).split(CHUNK)


def overhead(
    method: Method, teacher: Classifier, batch: Batch, step: Callable[[Method, Batch], None]
) -> list[float]:
    """Time of a step with the compensation over one without, minus 1; of PAIRS pairs on a copy of the method, sorted.

    `step` does forward and backward pass.
    """
    method.zero_grad(set_to_none=True)
    twin = copy.deepcopy(method, {id(teacher): teacher})  # a method may hold the teacher
    compensation = twin.student().compensation
    ratios = []
    for pair in range(PAIRS + 1):
        seconds = []
        for each in (compensation, None):
            twin.student().compensation = each
            begun = time.perf_counter()
            step(twin, replace(batch, rng=np.random.default_rng(pair)))
            if batch.images.is_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
        ratios.append(seconds[0] / seconds[1])
    return sorted(ratio - 1 for ratio in ratios[1:])  # the first pair warms up


def memory(compensation: Compensation) -> float:
    """MiB that training holds for it: weights, each with gradient and momentum, and the dictionary."""
    weights = sum(each.numel() * each.element_size() for each in compensation.parameters())
    dictionary = sum(each.numel() * each.element_size() for each in compensation.buffers())
    return (3 * weights + dictionary) / 2**20
