"""What a student costs beside its teacher, known before it is trained. `init` and `check-teacher` say it, too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from stages.distill.method_params import PLAIN
from stages.distill.methods import build as build_method
from stages.distill.params import AUTO, Distill
from webdistill.models import cost
from webdistill.models.classifier import Classifier
from webdistill.models.projected import Projected
from webdistill.models.zoo import build


@dataclass(frozen=True)
class Size:
    """Of one network: weights, and multiply-adds of one image."""

    parameters: int
    multiply_adds: int

    @classmethod
    def of(cls, net: Classifier, image_size: int) -> Size:
        return cls(cost.parameters(net), cost.multiply_adds(net, image_size))

    @property
    def known(self) -> bool:
        """Not of a network without weights of its own, such as one that asks another program."""
        return self.parameters > 0 and self.multiply_adds > 0

    def exceeds(self, other: Size) -> bool:
        """Whether it is larger or slower, as far as is known."""
        if not other.known:
            return False
        return self.parameters > other.parameters or self.multiply_adds > other.multiply_adds


@dataclass(frozen=True)
class Cost:
    """`student` is what answers in the end: projector, the teacher's classifier and a compensation are in it."""

    name: str  # distill.student
    method: str
    student: Size
    teacher: Size
    joined: tuple[
        str, ...
    ]  # what a student that ends in the teacher's classifier has beside its own layers
    alone: Size | None  # the same network without these; only where `student` exceeds the teacher
    stuck: bool = False  # whether its optimizer may leave it at chance, see `_stuck`
    mapless: bool = False  # whether the method wants maps of a teacher that has logits alone

    @property
    def sentence(self) -> str:
        one, other = self.student, self.teacher
        weights = f"{one.parameters:,} parameters"
        work = f"{one.multiply_adds / 1e6:,.1f} million multiply-adds an image"
        if other.known:
            weights += (
                f" ({one.parameters / other.parameters:.1%} of the teacher's {other.parameters:,})"
            )
            work += f" ({one.multiply_adds / other.multiply_adds:.1%} of {other.multiply_adds / 1e6:,.1f})"
        else:
            work += ", the teacher's size is not known, for its network has no weights"
        told = f"{self.name} with {self.method} has {weights} and takes {work}"
        return f"{told}, {' and '.join(self.joined)} included" if self.joined else told

    @property
    def warning(self) -> str | None:
        """What to do about a student that is larger or slower than its teacher, or learns hardly; None otherwise."""
        found = [each for each in (self._excess, self._slowness, self._misuse) if each is not None]
        return "; ".join(found) or None

    @property
    def _slowness(self) -> str | None:
        if not self.stuck:
            return None
        return (
            f"{self.name} has no BatchNorm, and from noise SGD may leave such a student at chance: set "
            "distill.optimizer to muon"
        )

    @property
    def _misuse(self) -> str | None:
        if not self.mapless:
            return None
        return (
            f"the teacher does not end in a linear layer, so {self.method} imitates its logits as if they were maps; "
            f"set distill.method to {PLAIN}, which learns from logits"
        )

    @property
    def _excess(self) -> str | None:
        one, other = self.student, self.teacher
        if not one.exceeds(other):
            return None
        more = ["parameters"] * (one.parameters > other.parameters)
        more += ["multiply-adds"] * (one.multiply_adds > other.multiply_adds)
        told = (
            f"the student has more {' and '.join(more)} than its teacher; name a smaller network in "
            "distill.student"
        )
        if self.joined and self.alone is not None and not self.alone.exceeds(other):
            told += (
                f", or set distill.method to {PLAIN}: {self.name} without a projector has no more"
            )
        return told

    @property
    def metrics(self) -> dict[str, int]:
        return {
            "student_parameters": self.student.parameters,
            "teacher_parameters": self.teacher.parameters,
            "student_multiply_adds": self.student.multiply_adds,
            "teacher_multiply_adds": self.teacher.multiply_adds,
        }


def measure(student: Classifier, teacher: Classifier, settings: Distill, image_size: int) -> Cost:
    """Of a method's `student()`. It stays as it was, and nothing random is drawn.

    A compensation counts where the exported student answers with it.
    """
    compensation = student.compensation
    if settings.deconfound.inference == "raw":
        student.compensation = None
    found, other = Size.of(student, image_size), Size.of(teacher, image_size)
    student.compensation = compensation
    joined, alone = _joined(student), None
    if joined and found.exceeds(other):
        with torch.random.fork_rng(devices=[]):
            plain = build(settings.student, teacher.fc.out_features, image_size)
        alone = Size.of(plain, image_size)
    stuck = _stuck(student, settings)
    mapless = settings.reuses_classifier and teacher.logits_alone
    return Cost(settings.student, settings.method, found, other, joined, alone, stuck, mapless)


def _stuck(student: Classifier, settings: Distill) -> bool:
    """A network without BatchNorm that learns by SGD from noise: a transformer and a plain convolutional network stayed
    near chance on an easy task at rates of 0.1 and 0.01, where Muon took both to within ten points of their teacher.
    """
    own = student.backbone if isinstance(student, Projected) else student
    fresh = settings.student_weights in (None, AUTO)
    norms = any(isinstance(module, _BatchNorm) for module in own.modules())
    return settings.rates.optimizer == "sgd" and fresh and not norms


def _joined(student: Classifier) -> tuple[str, ...]:
    if not isinstance(student, Projected):
        return ()
    return (*(["projector"] if student.inner else []), "the teacher's classifier")


def expected(settings: Distill, teacher: Classifier, image_size: int) -> Cost:
    """Before there are images: of the student in the shape that its method gives it. A compensation is not in it.

    Raises UserError when the method cannot work with this teacher, or when there is no such student.
    """
    student = build(settings.student, teacher.fc.out_features, image_size)
    method = build_method(settings, student, teacher, image_size)
    return measure(method.student(), teacher, settings, image_size)
