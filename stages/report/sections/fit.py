"""How the pool relates to the teacher: how sure it is, which classes it sees, and whether CLIP sees the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.report import charts
from stages.report.evidence import Collected, Evidence
from stages.report.html import Child, Html, section, table, tag
from stages.report.wording import count, percent, ratio

BINS = 20
SURE, UNSURE = 0.9, 0.5
MOST_CLASSES = 24  # rows; of more classes those with the least agreement are shown
LEAD = (
    "Predictions of the teacher and of CLIP for all images of the pool, before any filter. If the teacher is "
    "uncertain, predicts a class for few images, or disagrees with CLIP, its predictions teach the student less. None "
    "of these figures is an accuracy."
)


@dataclass(frozen=True)
class ClassFit:
    """One class in the pool: `searched` by its keyword, `seen` by the teacher, of those `clip` and `keyword` agree.

    `named` of the images seen have a keyword that is a class.
    """

    name: str
    searched: int
    seen: int
    clip: int
    named: int
    keyword: int
    selected: int
    confidence: float  # mean of the images seen; NaN without any


@dataclass(frozen=True)
class Fit:
    """The pool as a whole."""

    images: int
    classes: Sequence[ClassFit]
    sure: int  # images with a confidence of SURE or more
    unsure: int  # below UNSURE

    @property
    def agreeing(self) -> int:
        """Images to which CLIP and the teacher give the same class."""
        return sum(row.clip for row in self.classes)

    @property
    def effective(self) -> float:
        """Effective number of classes in the pool, by the teacher: exp of the entropy of its classes."""
        return effective_number([row.seen for row in self.classes])

    @property
    def effective_selected(self) -> float:
        """The same among the training images."""
        return effective_number([row.selected for row in self.classes])


def effective_number(counts: Sequence[int]) -> float:
    """exp(-sum p log p): K for K equally frequent classes, 1 for a single one, 0 without images."""
    total = sum(counts)
    shares = [n / total for n in counts if n] if total else []
    return math.exp(-sum(p * math.log(p) for p in shares)) if shares else 0.0


def measure(collected: Collected, classes: Sequence[str]) -> Fit:
    """Counts over every image that the teacher has answered."""
    teacher, number = collected.teacher, len(classes)
    label, sureness = teacher["label"], teacher["confidence"]
    clip, keyword = (
        collected.scores.of(teacher.ids, name, -1) for name in ("clip_class", "query_class")
    )

    def counted(labels: NDArray[Any]) -> list[int]:
        found: list[int] = np.bincount(labels, minlength=number).tolist()
        return found

    columns = zip(
        classes,
        counted(keyword[keyword >= 0]),
        counted(label),
        counted(label[clip == label]),
        counted(label[keyword >= 0]),
        counted(label[keyword == label]),
        counted(collected.selected["label"]),
        (_mean(sureness[label == place]) for place in range(number)),
        strict=True,
    )
    return Fit(
        images=len(teacher),
        classes=[ClassFit(*values) for values in columns],
        sure=int((sureness >= SURE).sum()),
        unsure=int((sureness < UNSURE).sum()),
    )


def _mean(values: NDArray[np.float64]) -> float:
    return math.fsum(values) / len(values) if len(values) else math.nan


def histogram(values: NDArray[np.float64], low: float, high: float) -> list[int]:
    """Counts in BINS equal bins of [low, high]; what lies outside by rounding counts to the nearest bin."""
    places = ((values - low) / (high - low) * BINS).astype(np.int64)
    found: list[int] = np.bincount(places.clip(0, BINS - 1), minlength=BINS).tolist()
    return found


def fit(evidence: Evidence) -> Html:
    """Section `fit`."""
    found = measure(evidence.collected, evidence.classes)
    return section(
        "fit",
        "How the pool fits the teacher",
        LEAD,
        _facts(found, len(evidence.classes)),
        _histograms(evidence.collected, len(evidence.classes)),
        tag("h3", "class by class"),
        _by_class(found),
    )


def _facts(found: Fit, classes: int) -> Html:
    named, keyword = (
        sum(getattr(row, key) for row in found.classes) for key in ("named", "keyword")
    )
    facts: Mapping[str, str] = {
        f"at least {percent(SURE, 0)} sure": ratio(found.sure, found.images),
        f"less than {percent(UNSURE, 0)} sure": ratio(found.unsure, found.images),
        "same class as CLIP": ratio(found.agreeing, found.images),
        "same class as the keyword": ratio(keyword, named),
        "effective classes in the pool": f"{found.effective:.1f} of {classes}",
        "effective classes selected": f"{found.effective_selected:.1f} of {classes}",
    }
    pairs = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    return tag("dl", *pairs, class_="facts")


def _histograms(collected: Collected, classes: int) -> Html:
    teacher = collected.teacher
    places = teacher.places(collected.selected.ids)
    chosen = places[places >= 0]
    most = math.log(classes)

    def chart(title: str, counts: Sequence[Sequence[int]], high: float, label: str) -> Html:
        layers = {"pool": counts[0], "selected": counts[1]}
        return tag("figure", tag("figcaption", title), charts.bars(layers, 0.0, high, label))

    def both(column: str, high: float) -> list[list[int]]:
        return [histogram(part, 0.0, high) for part in (teacher[column], teacher[column][chosen])]

    sureness, spread = both("confidence", 1.0), both("entropy", most)
    return tag(
        "div",
        chart("confidence of the teacher", sureness, 1.0, "largest probability"),
        chart("entropy of its predictions", spread, most, f"entropy, nats (at most {most:.2f})"),
        class_="grid",
    )


def _by_class(found: Fit) -> Html:
    rows, note = list(found.classes), None
    if len(rows) > MOST_CLASSES:
        rows.sort(key=lambda row: (row.clip / row.seen if row.seen else -1.0, row.name))
        note = tag(
            "p", f"The {MOST_CLASSES} of {count(len(rows))} classes with the least agreement."
        )
        rows = rows[:MOST_CLASSES]
    most = max([row.seen for row in found.classes] + [1])
    body: list[list[Child]] = [
        [
            row.name,
            charts.bar(row.seen / most, "other", inner=row.clip / most),
            count(row.seen),
            ratio(row.clip, row.seen, 0),
            ratio(row.keyword, row.named, 0),
            "–" if math.isnan(row.confidence) else percent(row.confidence, 0),
            count(row.searched),
            count(row.selected),
        ]
        for row in rows
    ]
    header: list[Child] = [
        "class",
        "predicted by the teacher (blue: by CLIP too)",
        "seen",
        "CLIP agrees",
        "keyword agrees",
        "mean confidence",
        "searched",
        "selected",
    ]
    return tag("div", note, table(header, body, {2, 3, 4, 5, 6, 7}), class_="bars many")
