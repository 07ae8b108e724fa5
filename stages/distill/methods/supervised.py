"""Cross-entropy with the keywords' classes, without the teacher: the control for methods that use labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.distill.methods import Batch, Choice, Method, Pool
from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier


class Supervised(Method):
    """mean_i w_i CE(S(x_i), y_i) over images whose keyword names a class."""

    def __init__(self, student: Classifier) -> None:
        super().__init__()
        self.net = student

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        assert batch.labels is not None
        logits = self.net(batch.images).float()
        each = F.cross_entropy(logits, batch.labels, reduction="none")
        return {"label": (batch.weight * each).mean()}, logits

    def student(self) -> Classifier:
        return self.net

    def select(self, pool: Pool, epoch: int, epochs: int) -> Choice | None:
        return labelled(pool) if epoch == 0 else None


def labelled(pool: Pool) -> Choice:
    """The images whose keyword names a class. Raises UserError when there is none."""
    keep = pool.labels >= 0
    if not bool(keep.any()):
        raise UserError(
            "no selected image has a keyword that names one of task.classes, and this distill.method learns from "
            "them; name classes in the column 'query' of search.local, or choose another method"
        )
    return Choice(keep, pool.labels.clamp_min(0), torch.ones_like(pool.labels, dtype=torch.float32))
