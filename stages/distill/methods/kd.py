"""Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531) without labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from stages.distill.methods import Batch, Method
from webdistill.models.classifier import Classifier


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float, weight: Tensor) -> Tensor:
    """T^2 * mean_i w_i * KL(softmax(teacher_i / T) || softmax(student_i / T)); logits [B, K], weight [B]."""
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    per_image = (log_teacher.exp() * (log_teacher - log_student)).sum(1)
    return temperature**2 * (weight * per_image).mean()


class Kd(Method):
    """The student imitates the teacher's softened answer to every view."""

    def __init__(self, student: Classifier, temperature: float) -> None:
        super().__init__()
        self.net, self.temperature = student, temperature

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        logits = self.net(batch.images).float()
        loss = kl_divergence(logits, batch.teacher_logits, self.temperature, batch.weight)
        return {"kd": loss}, logits

    def student(self) -> Classifier:
        return self.net
