"""Confounder prototypes: what they look like, and which classes the teacher sees in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.report.charts import stack
from stages.report.columns import Names, text
from stages.report.evidence import Collected, Evidence
from stages.report.html import EMPTY, Html, join, section, tag
from stages.report.wording import count, percent

SMALLEST = 8  # images below which a mix of classes says nothing
SHOWN_CLASSES = 3


@dataclass(frozen=True)
class Cluster:
    """A prototype with its images, nearest first, and the teacher's classes in them, most frequent first."""

    index: int
    images: Names
    mix: Sequence[tuple[int, float]]  # class, share

    @property
    def entropy(self) -> float:
        """Of the class mix, in nats: 0 for one class."""
        return -sum(share * math.log(share) for _, share in self.mix)


def clusters(collected: Collected) -> list[Cluster]:
    """All prototypes that have an image with a teacher's class."""
    found = []
    for index, images in sorted(collected.nearest.items()):
        labels = collected.teacher.of(images, "label", -1)
        counted = Counter(labels[labels >= 0].tolist())
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
        f"{count(len(found))} clusters of the pool's features, with the images nearest to each centre. In mixed "
        "clusters the context decides, not the object: these are the confounders.",
        tag("h3", "largest"),
        join(_cluster(evidence, c, settings["nearest"]) for c in largest),
        tag("h3", "most mixed") if mixed else EMPTY,
        join(_cluster(evidence, c, settings["nearest"]) for c in mixed),
    )


def _cluster(evidence: Evidence, cluster: Cluster, number: int) -> Html:
    collected, classes = evidence.collected, evidence.classes
    images = cluster.images[~collected.hidden.has(cluster.images)][:number]
    labels = collected.teacher.of(images, "label", -1)
    named = ", ".join(
        f"{classes[c]} {percent(share, 0)}" for c, share in cluster.mix[:SHOWN_CLASSES]
    )
    figures = [
        collected.pool.figure(text(name), classes[label] if label >= 0 else "")
        for name, label in zip(images, labels, strict=True)
    ]
    head = tag(
        "div",
        tag("b", f"#{cluster.index}"),
        f" {count(len(cluster.images))} images: {named}",
        stack([share for _, share in cluster.mix]),
        class_="mix",
    )
    return tag("div", head, tag("div", *figures, class_="sheet"), class_="cluster")
