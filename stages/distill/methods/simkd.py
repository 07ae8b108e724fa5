"""SimKD (Chen et al. 2022, arXiv 2203.14001): the teacher's classifier is reused, its last maps are imitated.

KD3 without selection, weights and contrast; the control for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.distill.method_params import SimKdSettings
from stages.distill.methods import Batch, Choice, Method, Pool
from stages.distill.methods.kd import kl_divergence
from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier
from webdistill.models.device import device_of
from webdistill.models.projected import Projected, map_side, negative, shrink


def join(student: Classifier, teacher: Classifier, image_size: int, width: int | None) -> Projected:
    """The student with a projector of `width` and the teacher's classifier; maps meet at the smaller of both sizes.

    Raises UserError for a teacher whose answers are more than its classifier's.
    """
    if teacher.compensation is not None:
        raise UserError(
            "this distill.method reuses the teacher's classifier, but task.teacher answers compensated; set "
            "compensation.inference to raw in its config.json"
        )
    side = min(map_side(student, image_size), map_side(teacher, image_size))
    joined = Projected(student, teacher, side, width, negative(teacher, image_size))
    return joined.to(device_of(teacher))


def feature_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Mean over batch, channel and position of w_i (F_S - F_T)^2; maps [B, C, h, w], weight [B] (KD3, eq. 5)."""
    difference = (student - shrink(teacher, student.shape[-1])).float()
    return (weight * difference.square().mean(dim=(1, 2, 3))).mean()


class FeatureMethod(Method):
    """A method whose student imitates the teacher's maps. Its loss is divided by their variance over the pool.

    So the loss is the share of the variance that is left to learn, 1 for a student that always answers the mean map,
    and one learning rate serves every pair of networks and every size of image.
    """

    variance: Tensor  # [], saved with the method: a resumed run goes on with the same
    late_kl = 0.0  # weight of the answers' KL divergence at the end of the training

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(()))
        self.kl = 0.0  # its weight in this epoch

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.kl = self.late_kl * epoch / epochs

    def measure(self, pool: Pool, net: Projected) -> None:
        """Measure the teacher's maps, before the first epoch. Raises UserError when they are all equal."""
        found = pool.map_variance(net.side)
        if not found > 0:
            raise UserError(
                "the teacher's last maps are the same for every image, so there is nothing to imitate; "
                "`python -m webdistill check-teacher` looks at it, distill.method: kd needs no maps"
            )
        self.variance.fill_(found)
        self.unit = found**0.5


class SimKd(FeatureMethod):
    """L = mean (projector(F_S) - F_T)^2 / variance of F_T + kl e / E * KL of the softened answers, in epoch e of E.

    The published method is `kl: 0`. Our addition, because a student that cannot follow the maps in the time it has
    learns next to nothing from them: late in the training the answers count as well.
    """

    needs_maps = True

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        image_size: int,
        temperature: float,
        settings: SimKdSettings,
    ) -> None:
        super().__init__()
        self.net = join(student, teacher, image_size, settings.projector_width)
        self.temperature, self.late_kl = temperature, settings.kl

    def select(self, pool: Pool, epoch: int, epochs: int) -> Choice | None:
        if epoch == 0:
            self.measure(pool, self.net)
        return None

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        assert batch.teacher_maps is not None
        maps = self.net.features(batch.images)
        logits = self.net.classify(maps).float()
        losses = {"features": feature_loss(maps, batch.teacher_maps, batch.weight) / self.variance}
        if self.late_kl:
            told = kl_divergence(logits, batch.teacher_logits, self.temperature, batch.weight)
            losses["kd"] = self.kl * told
        return losses, logits

    def student(self) -> Classifier:
        return self.net
