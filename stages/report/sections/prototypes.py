"""Confounder prototypes: what they look like, and which classes the teacher sees in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.report.charts import stack
from stages.report.evidence import Collected, Evidence
from stages.report.html import EMPTY, Html, join, section, tag
from stages.report.wording import count, percent

SMALLEST = 8  # images below which a mix of classes says nothing
SHOWN_CLASSES = 3


@dataclass(frozen=True)
class Cluster:
    """A prototype with its images, nearest first, and the teacher's classes in them, most frequent first."""

    index: int
    images: Sequence[str]
    mix: Sequence[tuple[int, float]]  # class, share

    @property
    def entropy(self) -> float:
        """Of the class mix, in nats: 0 for one class."""
        return -sum(share * math.log(share) for _, share in self.mix)


def clusters(collected: Collected) -> list[Cluster]:
    """All prototypes that have an image with a teacher's class."""
    found = []
    for index, images in sorted(collected.nearest.items()):
        counted = Counter(
            collected.teacher[name].label for name in images if name in collected.teacher
        )
        total = sum(counted.values())
        if total:
            mix = sorted(
                ((c, n / total) for c, n in counted.items()), key=lambda item: (-item[1], item[0])
            )
            found.append(Cluster(index, images, mix))
    return found


def prototypes(evidence: Evidence) -> Html:
    """Section `prototypes`."""
    found = clusters(evidence.collected)
    if not found:
        return EMPTY
    settings: Mapping[str, int] = evidence.params["report"]
    number = settings["prototypes"]
    largest = sorted(found, key=lambda c: (-len(c.images), c.index))[:number]
    big = [c for c in found if len(c.images) >= SMALLEST]
    mixed = sorted(big, key=lambda c: (-c.entropy, c.index))[:number]
    return section(
        "prototypes",
        "Confounders: the prototypes",
        f"{count(len(found))} clusters of the pool's features, with the images nearest to each centre. Mixed ones are "
        "where context, not the object, decides: the confounders.",
        tag("h3", "largest"),
        join(_cluster(evidence, c, settings["nearest"]) for c in largest),
        tag("h3", "most mixed") if mixed else EMPTY,
        join(_cluster(evidence, c, settings["nearest"]) for c in mixed),
    )


def _cluster(evidence: Evidence, cluster: Cluster, number: int) -> Html:
    collected, classes = evidence.collected, evidence.classes
    hidden = collected.hidden
    images = [name for name in cluster.images if name not in hidden][:number]
    named = ", ".join(
        f"{classes[c]} {percent(share, 0)}" for c, share in cluster.mix[:SHOWN_CLASSES]
    )
    figures = [
        collected.pool.figure(
            i, classes[collected.teacher[i].label] if i in collected.teacher else ""
        )
        for i in images
    ]
    head = tag(
        "div",
        tag("b", f"#{cluster.index}"),
        f" {count(len(cluster.images))} images: {named}",
        stack([share for _, share in cluster.mix]),
        class_="mix",
    )
    return tag("div", head, tag("div", *figures, class_="sheet"), class_="cluster")
