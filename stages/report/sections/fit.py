"""How the pool relates to the teacher: how sure it is, which classes it sees, and whether CLIP sees the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages.report import charts
from stages.report.evidence import Collected, Evidence, Verdict
from stages.report.html import Child, Html, section, table, tag
from stages.report.wording import count, percent, ratio

BINS = 20
SURE, UNSURE = 0.9, 0.5
MOST_CLASSES = 24  # rows; of more classes those with the least agreement are shown
LEAD = (
    "All images of the pool before any filter, as the teacher and CLIP see them. Where the teacher is unsure, sees few "
    "images of a class, or sees another class than CLIP, its answers teach the student less. No accuracy follows "
    "from these figures."
)


@dataclass(frozen=True)
class ClassFit:
    """One class in the pool: `searched` by its keyword, `seen` by the teacher, of those `clip` and `keyword` agree."""

    name: str
    searched: int
    seen: int
    clip: int
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
    seen: list[list[tuple[str, Verdict]]] = [[] for _ in classes]
    searched, selected = [0] * len(classes), [0] * len(classes)
    for name, verdict in collected.teacher.items():
        seen[verdict.label].append((name, verdict))
        if (wanted := collected.scores.get(name, {}).get("query_class", -1)) >= 0:
            searched[wanted] += 1
    for verdict in collected.selected.values():
        selected[verdict.label] += 1

    def same(label: int, column: str) -> int:
        return sum(collected.scores.get(i, {}).get(column, -1) == label for i, _ in seen[label])

    rows = [
        ClassFit(
            name=name,
            searched=searched[label],
            seen=len(seen[label]),
            clip=same(label, "clip_class"),
            keyword=same(label, "query_class"),
            selected=selected[label],
            confidence=_mean(v.confidence for _, v in seen[label]),
        )
        for label, name in enumerate(classes)
    ]
    sureness = [v.confidence for v in collected.teacher.values()]
    return Fit(
        images=len(sureness),
        classes=rows,
        sure=sum(value >= SURE for value in sureness),
        unsure=sum(value < UNSURE for value in sureness),
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found) if found else math.nan


def histogram(values: Iterable[float], low: float, high: float) -> list[int]:
    """Counts in BINS equal bins of [low, high]; what lies outside by rounding counts to the nearest bin."""
    counts = [0] * BINS
    for value in values:
        place = int((value - low) / (high - low) * BINS)
        counts[min(max(place, 0), BINS - 1)] += 1
    return counts


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
    keyword = sum(row.keyword for row in found.classes)
    facts: Mapping[str, str] = {
        f"at least {percent(SURE, 0)} sure": ratio(found.sure, found.images),
        f"less than {percent(UNSURE, 0)} sure": ratio(found.unsure, found.images),
        "same class as CLIP": ratio(found.agreeing, found.images),
        "same class as the keyword": ratio(keyword, found.images),
        "effective classes in the pool": f"{found.effective:.1f} of {classes}",
        "effective classes selected": f"{found.effective_selected:.1f} of {classes}",
    }
    pairs = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    return tag("dl", *pairs, class_="facts")


def _histograms(collected: Collected, classes: int) -> Html:
    pool = list(collected.teacher.values())
    chosen = [collected.teacher[i] for i in collected.selected if i in collected.teacher]
    most = math.log(classes)

    def chart(title: str, counts: Sequence[Sequence[int]], high: float, label: str) -> Html:
        layers = {"pool": counts[0], "selected": counts[1]}
        return tag("figure", tag("figcaption", title), charts.bars(layers, 0.0, high, label))

    sureness = [histogram((v.confidence for v in part), 0.0, 1.0) for part in (pool, chosen)]
    spread = [histogram((v.entropy for v in part), 0.0, most) for part in (pool, chosen)]
    return tag(
        "div",
        chart("how sure the teacher is", sureness, 1.0, "confidence in its first class"),
        chart(
            "how it spreads over the classes", spread, most, f"entropy, nats (at most {most:.2f})"
        ),
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
            ratio(row.keyword, row.seen, 0),
            "–" if math.isnan(row.confidence) else percent(row.confidence, 0),
            count(row.searched),
            count(row.selected),
        ]
        for row in rows
    ]
    header: list[Child] = [
        "class",
        "seen by the teacher (blue: by CLIP too)",
        "seen",
        "CLIP agrees",
        "keyword agrees",
        "mean confidence",
        "searched",
        "selected",
    ]
    return tag("div", note, table(header, body, {2, 3, 4, 5, 6, 7}), class_="bars many")
