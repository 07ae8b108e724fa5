"""What is measured: the variants of a training epoch, and what each is put in relation to. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SIZE = 32  # px
CLASSES = 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SMALLEST = 0.08  # area of a random crop, share of the image
EPOCHS = 240  # length of the schedule that the measured epochs are the first of
RATE = 0.01


@dataclass(frozen=True)
class Setting:
    """What all variants of one run share."""

    teacher: str
    student: str
    batch: int
    threads: int
    workers: int  # of the straightforward version's loaders
    device: Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Variant:
    """One way to train an epoch."""

    name: str
    label: str
    kind: Literal["naive", "ours", "synthetic"]
    # the teacher answers every batch anew; a whole view when it first comes; or has answered all views before
    answers: Literal["always", "first", "before"] = "always"
    selection: bool = True
    channels_last: bool = True
    other_precision: bool = False  # the one that `auto` does not choose here
    compiled: bool = False


@dataclass(frozen=True)
class Section:
    """One table of the output: variants, each with the one that its speed is divided by."""

    title: str
    rows: tuple[tuple[str, str], ...]


VARIANTS = {
    each.name: each
    for each in (
        Variant("naive", "straightforward version", "naive"),
        Variant("always", "views always new, each answered by the teacher", "ours"),
        Variant("first", "views that will repeat: first epoch", "ours", "first"),
        Variant("later", "views that repeat: later epochs", "ours", "before"),
        Variant("bound-always", "teacher, student and losses alone", "synthetic"),
        Variant("bound-later", "student and losses alone", "synthetic", "before"),
        Variant("unselected", "later epochs without selection", "ours", "before", selection=False),
        Variant("contiguous", "without channels_last", "ours", channels_last=False),
        Variant("precision", "in the other precision", "ours", other_precision=True),
        Variant("compiled", "with torch.compile", "ours", compiled=True),
    )
}
SECTIONS = (
    Section(
        "beside a straightforward version",
        (("naive", "naive"), ("always", "naive"), ("first", "naive"), ("later", "naive")),
    ),
    Section(
        "beside networks and losses alone, on tensors that lie on the device",
        (
            ("bound-always", "bound-always"),
            ("always", "bound-always"),
            ("bound-later", "bound-later"),
            ("later", "bound-later"),
            ("unselected", "bound-later"),
        ),
    ),
    Section(
        "one switch changed, views always new",
        (
            ("always", "always"),
            ("contiguous", "always"),
            ("precision", "always"),
            ("compiled", "always"),
        ),
    ),
)
