"""One short file per method. A method turns a batch into named losses and says what the exported student is.

The training loop knows no method by name; adding one is a file here, one line in `build` and its name in
`stages/distill/params.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from stages.distill.params import Distill
from webdistill.models.cifar import Classifier


@dataclass(frozen=True)
class Batch:
    """What a method sees of one step."""

    images: Tensor  # [B, 3, H, W] normalised views
    teacher_logits: Tensor  # [B, K] float32, of these very views
    weight: Tensor  # [B] from the selection, mean 1 over the selection


class Method(Protocol):
    """A module that owns the student and whatever else it trains."""

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """-> named losses (their sum is minimised) and the student's logits [B, K]."""
        ...

    def student(self) -> Classifier:
        """The network that is exported."""
        ...

    def trained(self) -> nn.Module:
        """Everything that is optimised and checkpointed."""
        ...


def build(settings: Distill, student: Classifier) -> Method:
    """The method named in the parameters."""
    match settings.method:
        case "kd":
            from stages.distill.methods.kd import Kd

            return Kd(student, settings.temperature)
