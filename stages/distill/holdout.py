"""Images of the selection that are never trained on: does the student imitate the teacher beyond what it has seen?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stages.distill.forward import Forward
from stages.distill.history import Row
from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier


def held_out(ids: Sequence[str], share: float) -> NDArray[np.bool_]:
    """[N]: whether an image is held out. It follows from the ids alone, so that students of one pool can be compared.

    An id is a hash of the image; those with the smallest ends are taken. Raises UserError when fewer than one is.
    """
    count = round(share * len(ids))
    if share and not count:
        raise UserError(
            f"distill.holdout = {share:g} of {len(ids)} images is none; raise it, or set it to 0"
        )
    order = sorted(range(len(ids)), key=lambda place: ids[place][::-1])
    held = np.zeros(len(ids), dtype=bool)
    held[order[:count]] = True
    return held


class Holdout:
    """Measures a student on the held-out images, unaugmented, against the teacher. Labels are not involved."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward  # its views are those of the held-out images

    @property
    def count(self) -> int:
        """Held-out images."""
        return len(self.forward.views.pool)

    @cached_property
    def _teacher(self) -> Tensor:
        return self.forward.logits(self.forward.teacher)

    def measure(self, student: Classifier) -> Row:
        """`holdout_agreement`: share of equal first classes; `holdout_kl`: mean KL(teacher || student), nats."""
        logits = self.forward.logits(student)
        same = (logits.argmax(1) == self._teacher.argmax(1)).float().mean()
        told = F.kl_div(
            logits.log_softmax(1),
            self._teacher.log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        return {"holdout_agreement": float(same), "holdout_kl": float(told)}
