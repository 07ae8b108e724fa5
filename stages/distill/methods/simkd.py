"""SimKD (Chen et al. 2022, arXiv 2203.14001): the teacher's classifier is reused, its last maps are imitated.

KD3 without selection, weights and contrast; the control for it.
"""

from __future__ import annotations

from torch import Tensor

from stages.distill.methods import Batch, Method
from webdistill.core.errors import UserError
from webdistill.models.cifar import Classifier
from webdistill.models.projected import Projected, map_side, shrink


def join(student: Classifier, teacher: Classifier, image_size: int) -> Projected:
    """The student with projector and the teacher's classifier; maps meet at the smaller of both sizes.

    Raises UserError for a teacher whose answers are more than its classifier's.
    """
    if teacher.compensation is not None:
        raise UserError(
            "this distill.method reuses the teacher's classifier, but task.teacher answers compensated; set "
            "compensation.inference to raw in its config.json"
        )
    side = min(map_side(student, image_size), map_side(teacher, image_size))
    return Projected(student, teacher, side).to(next(teacher.parameters()).device)


def feature_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Mean over batch, channel and position of w_i (F_S - F_T)^2; maps [B, C, h, w], weight [B] (KD3, eq. 5)."""
    difference = (student - shrink(teacher, student.shape[-1])).float()
    return (weight * difference.square().mean(dim=(1, 2, 3))).mean()


class SimKd(Method):
    """Mean squared error of the projected maps; no loss on the logits."""

    needs_maps = True

    def __init__(self, student: Classifier, teacher: Classifier, image_size: int) -> None:
        super().__init__()
        self.net = join(student, teacher, image_size)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        assert batch.teacher_maps is not None
        maps = self.net.features(batch.images)
        loss = feature_loss(maps, batch.teacher_maps, batch.weight)
        return {"features": loss}, self.net.classify(maps).float()

    def student(self) -> Classifier:
        return self.net
