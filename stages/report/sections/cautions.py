"""What a reader must know before any figure: a student at chance, a local pool, classes with hardly a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stages.report.evidence import Collected, Evidence
from stages.report.ledger import UNKNOWN
from stages.report.sections.sources import hosts, pooled
from stages.report.wording import count, percent

FEW = 10  # pictures of a class below which nothing is learnt of it,
SHARE = 0.1  # or this share of what each class would have if all had the same
SHOWN = 12  # names in a sentence


def cautions(evidence: Evidence) -> list[str]:
    """Sentences; none when all is well."""
    figures, classes = evidence.measured.figures, evidence.classes
    found = [
        at_chance(figures["top1"], int(figures["test_images"]), len(classes)),
        untested([row["class"] for row in evidence.measured.per_class if not int(row["count"])]),
        *pool_cautions(evidence.collected, classes),
    ]
    return [sentence for sentence in found if sentence]


def pool_cautions(collected: Collected, classes: Sequence[str]) -> list[str]:
    """Those that are known before any training."""
    found = [local(collected), rare(collected, classes)]
    return [sentence for sentence in found if sentence]


def at_chance(share: float, images: int, classes: int) -> str:
    """Guessing one of K equally likely classes would do as well, within two standard errors."""
    chance = 1 / classes
    needed = chance + 2 * math.sqrt(chance * (1 - chance) / images)
    if share > needed:
        return ""
    if needed >= 1:
        return (
            f"The test set has too few images, {count(images)}, to tell any student from guessing, which gives "
            f"{percent(chance)}: label more. No figure of accuracy below means anything yet."
        )
    return (
        f"The student is at chance: {percent(share)} right where guessing gives {percent(chance)}. It has learnt "
        "nothing that these test images show; no other figure of it means anything."
    )


def untested(names: Sequence[str]) -> str:
    """Classes without a test image."""
    if not names:
        return ""
    return f"No test image shows {listed(names)}: nothing is known of the student there."


def is_local(collected: Collected) -> bool:
    """Whether no image of the pool has a web address."""
    return {name for name, _ in hosts(pooled(collected))} <= {UNKNOWN}


def origin(collected: Collected) -> str:
    """Of the pool's images, in words."""
    return "local images" if is_local(collected) else "images from the web"


def local(collected: Collected) -> str:
    """The pool came from this machine's files."""
    if not is_local(collected):
        return ""
    return "The pool is local: no image of it has a web address, so nothing here is evidence about images from the web."


def rare(collected: Collected, classes: Sequence[str]) -> str:
    """Classes with hardly any picture among the selected, by the teacher."""
    counted = np.bincount(collected.selected["label"], minlength=len(classes)).tolist()
    least = max(FEW, SHARE * len(collected.selected) / len(classes))
    names = [
        f"{name} ({count(counted[place])})"
        for place, name in enumerate(classes)
        if counted[place] < least
    ]
    return f"Classes with hardly any selected picture: {listed(names)}." if names else ""


def listed(names: Sequence[str]) -> str:
    """a, b, c and 7 more"""
    more = f" and {count(len(names) - SHOWN)} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
