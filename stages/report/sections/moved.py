"""What a compensation does with its prototypes: which classes each raises and lowers, and for which images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.report.columns import Names, text
from stages.report.evidence import Confounder, Evidence
from stages.report.html import EMPTY, Child, Html, join, section, tag
from stages.report.wording import count, percent

NONE: Names = np.empty(0, "S1")
CLASSES = 3  # raised and lowered, each
KINDS = {  # dictionaries whose vectors are means of no image that is kept
    "random": "The dictionary is noise, the control: its vectors belong to no images.",
    "drawn": "The dictionary was drawn from images that the method made, which are not kept.",
}
LEAD = (
    "An image asks for prototypes, and each that it asks for more than the average image does changes its answer: here "
    "the change of the logits at one standard deviation more. Both together, the student's own answer and the change, "
    "were trained to be the teacher's. So on such images the student's own answer overstates the classes that are "
    "lowered and understates those that are raised. Where the images share a context (a ground, a light, a style), it "
    "is the context that misleads: look for images of the lowered classes in other contexts, and of the raised ones in "
    "this one."
)


def moved(evidence: Evidence) -> Html:
    """Section `moved`: the prototypes that move answers most."""
    found = evidence.measured.confounders
    if not found:
        return EMPTY
    number: int = evidence.params["report"]["prototypes"]
    kind = KINDS.get(evidence.params["distill"]["deconfound"]["dictionary"], "")
    largest = sorted(found, key=lambda each: (-each.push, each.prototype))[:number]
    share = sum(each.push**2 for each in largest) / (sum(each.push**2 for each in found) or 1.0)
    summary = (
        f"The {len(largest)} prototypes of {count(len(found))} that move answers most have "
        f"{percent(share, 0)} of the squared changes."
    )
    return section(
        "moved",
        "What the compensation does with them",
        LEAD,
        tag("p", f"{summary} {kind or _belonging(evidence)}".strip()),
        *(tag("p", sentence, class_="note") for sentence in _doubts(evidence)),
        join(_shown(evidence, each, with_cluster=not kind) for each in largest),
    )


def _belonging(evidence: Evidence) -> str:
    """Whether images ask for the prototype of their own cluster; if not, a prototype's images do not explain it."""
    nearest = evidence.collected.nearest
    total = sum(map(len, nearest.values()))
    asking = {each.prototype: _names(each.asking) for each in evidence.measured.confounders}
    asked = sum(map(len, asking.values()))
    if not asked or not total:
        return ""
    own = {at: nearest.get(at, NONE) for at in asking}
    hits = sum(int(np.isin(images, own[at]).sum()) for at, images in asking.items()) / asked
    chance = sum(len(images) * len(own[at]) for at, images in asking.items()) / total / asked
    return (
        f"Of the images that ask most for a prototype, {percent(hits)} are of its own cluster, by chance "
        f"{percent(chance)}: only where that is much more do a prototype's own images explain it."
    )


def _doubts(evidence: Evidence) -> list[str]:
    """What speaks against reading anything into it: accuracy without it, and with its mean alone."""
    figures = evidence.measured.figures
    if not {"raw_top1", "compensated_top1"} <= set(figures):
        return []
    own = figures["compensated_top1"]
    others = {
        "the raw answers": figures["raw_top1"],
        "the same mean compensation for every image": figures.get("mean_top1"),
    }
    better = [
        f"{name} ({percent(v, 2)})" for name, v in others.items() if v is not None and v >= own
    ]
    if not better:
        return []
    told = f"On the test images the compensated answers ({percent(own, 2)}) are no better than {' and '.join(better)}"
    return [f"{told}: what is shown here was learned, but it did not help."]


def _shown(evidence: Evidence, each: Confounder, with_cluster: bool) -> Html:
    head = tag(
        "div",
        tag("b", f"#{each.prototype}"),
        f" asked for {percent(each.attention)} ± {percent(each.spread)}",
        _classes("raises", [pair for pair in each.moves[::-1] if pair[1] > 0]),
        _classes("lowers", [pair for pair in each.moves if pair[1] < 0]),
        class_="mix",
    )
    nearest = evidence.collected.nearest.get(each.prototype, NONE) if with_cluster else NONE
    parts: list[Child] = []
    for caption, images in (
        ("its own images", nearest),
        ("images that ask for it most", _names(each.asking)),
    ):
        shown = _images(evidence, images)
        if shown:
            parts += [tag("p", caption, class_="over"), tag("div", *shown, class_="sheet")]
    return tag("div", head, tag("div", *parts), class_="cluster")


def _classes(verb: str, moves: Sequence[tuple[str, float]]) -> Html:
    named = ", ".join(f"{name} {value:+.2f}" for name, value in moves[:CLASSES])
    return tag("div", f"{verb} {named}") if named else EMPTY


def _names(asking: Sequence[str]) -> Names:
    return np.array([name.encode() for name in asking]) if asking else NONE


def _images(evidence: Evidence, images: Names) -> list[Html]:
    collected, classes = evidence.collected, evidence.classes
    most: int = evidence.params["report"]["nearest"]
    shown = images[~collected.hidden.has(images)][:most]
    labels = collected.teacher.of(shown, "label", -1)
    return [
        collected.pool.figure(text(name), classes[label] if label >= 0 else "")
        for name, label in zip(shown, labels, strict=True)
    ]
