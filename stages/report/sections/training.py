"""How the student trained: its curves, how the choice of images changed, what the images looked like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stages.report import charts
from stages.report.evidence import Evidence
from stages.report.html import EMPTY, Child, Html, section, tag
from stages.report.pictures import whole_uri

MOST_CLASSES = 24  # curves per class beyond that say less than they cost
PICTURES = {  # of data/distill/pictures
    "views.png": "training views of the student: a row per image",
    "kept_most_then_least.png": "images the method kept most often, then those it kept least",
    "over_training.png": "a row per image: the image, then what the method made from it during training, four times in "
    "every phase; with augkd: the generator's image, that of its anchor, and the mixtures; with dafl, "
    "fast, cmi and deepinv: images that the method made, a column for each of four moments",
}


def curves(evidence: Evidence) -> Html:
    """Section `training`: how the method's choice of images changed, then one small chart per column of curve.csv."""
    shown = _series(evidence.measured.curve)
    parts = _choices(evidence.measured.choices)
    if not shown and not parts:
        return EMPTY
    lead = "All curves of the training, by epoch. The student is that of the last epoch, not of the best one."
    if shown:
        parts += [tag("h3", "losses and rates"), tag("div", *shown, class_="grid small")]
    parts += _pictures(evidence.measured.pictures)
    return section("training", "Training, and selection over its epochs", lead, *parts)


def _choices(choices: Mapping[str, Sequence[tuple[float, float]]]) -> list[Child]:
    """The method's own selection: shares and churn, then the images kept of every class."""
    whole = _series({name: v for name, v in choices.items() if not name.startswith("class/")})
    classes = {n.removeprefix("class/"): v for n, v in choices.items() if n.startswith("class/")}
    if not whole:
        return []
    parts: list[Child] = [
        tag("h3", "images the method chose"),
        tag("p", "churn: share of the images whose verdict changed from one choice to the next."),
        tag("div", *whole, class_="grid small"),
    ]
    if classes and len(classes) <= MOST_CLASSES:
        parts += [
            tag("h3", "images it kept, by the teacher's class"),
            tag("div", *_series(classes, "kept: "), class_="grid small"),
        ]
    return parts


def _pictures(found: Mapping[str, bytes]) -> list[Child]:
    """What the training showed of itself, closed until asked for."""
    return [
        tag(
            "details",
            tag("summary", caption),
            tag("img", src=whole_uri(found[name]), alt=caption, class_="wide"),
        )
        for name, caption in PICTURES.items()
        if name in found
    ]


def _series(values: Mapping[str, Sequence[tuple[float, float]]], prefix: str = "") -> list[Html]:
    """One small chart per series of more than one point."""
    return [
        tag(
            "figure",
            tag("figcaption", prefix + name.replace("_", " ")),
            charts.lines({name: points}, "epoch", charts.SMALL),
        )
        for name, points in values.items()
        if len(points) > 1
    ]
