"""Contact sheets: the images just above and just below each threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.report.columns import Columns, Places, first, text
from stages.report.evidence import HIDDEN, Collected, Evidence
from stages.report.html import EMPTY, Html, join, section, tag
from stages.report.wording import figure, reason

Values = NDArray[np.float64]
# What a reason of the filter looks at, where it is known of kept images too.
MEASURES: dict[str, Callable[[Columns], Values]] = {
    "low_score": lambda facts: facts["score"].astype(float),
    "low_margin": lambda facts: facts["margin"].astype(float),
    "elongated": lambda facts: (
        np.maximum(facts["width"], facts["height"]) / np.minimum(facts["width"], facts["height"])
    ),
    "too_small": lambda facts: np.minimum(facts["width"], facts["height"]).astype(float),
}


@dataclass(frozen=True)
class Drop:
    """One image the filter dropped; `value` against `threshold` decided."""

    id: str
    value: float
    threshold: float


def just_below(collected: Collected, why: str, number: int) -> list[Drop]:
    """Dropped images whose value lay nearest to the threshold; ties by id."""
    drops = collected.dropped
    mine = np.flatnonzero(drops["reason"] == why)
    gap = abs(drops["value"][mine] - drops["threshold"][mine])
    shown = mine[first(gap, drops.ids[mine], number)]
    values, limits = drops["value"][shown].tolist(), drops["threshold"][shown].tolist()
    return [Drop(text(i), *pair) for i, *pair in zip(drops.ids[shown], values, limits, strict=True)]


def just_above(
    collected: Collected, why: str, threshold: float, number: int
) -> list[tuple[str, float]]:
    """Kept images whose value lies nearest above the threshold, with the value; ties by id."""
    scores = collected.scores
    places = scores.places(collected.kept.ids)
    places = places[places >= 0]
    values, ids = MEASURES[why](scores)[places], scores.ids[places]
    shown = first(abs(values - threshold), ids, number)
    return [(text(ids[at]), float(values[at])) for at in shown]


def thresholds(evidence: Evidence) -> Html:
    """Section `thresholds`."""
    collected, number = evidence.collected, int(evidence.params["report"]["pictures"])
    single = collected.dropped["reason"][collected.dropped["other"] == b""]
    counted = Counter(why for why in single.tolist() if why not in HIDDEN)
    reasons = sorted(counted, key=lambda why: (-counted[why], why))
    sheets = [_filter_sheets(collected, why, number) for why in reasons]
    sheets.append(_select_sheets(evidence, number))
    return section(
        "thresholds",
        "Just above, just below",
        "The images that a slightly different threshold would have treated differently, nearest first, "
        "with the value that decided.",
        *sheets,
    )


def _filter_sheets(collected: Collected, why: str, number: int) -> Html:
    below = just_below(collected, why, number)
    threshold = below[0].threshold
    above = just_above(collected, why, threshold, number) if why in MEASURES else []
    pool, facts = collected.pool, collected.scores
    return join(
        (
            tag("h3", f"{reason(why)}: threshold {figure(threshold)}"),
            sheet("kept", [pool.figure(i, figure(v), _query(facts, i)) for i, v in above])
            if above
            else EMPTY,
            sheet(
                "dropped", [pool.figure(d.id, figure(d.value), _query(facts, d.id)) for d in below]
            ),
        )
    )


def _select_sheets(evidence: Evidence, number: int) -> Html:
    collected, classes = evidence.collected, evidence.classes
    chosen, teacher, kept = collected.selected, collected.teacher, collected.kept.ids
    left = teacher.places(kept[~chosen.has(kept)])
    left = left[left >= 0]

    def frames(verdicts: Columns, places: Places) -> list[Html]:
        return [
            collected.pool.figure(
                text(verdicts.ids[at]),
                f"{classes[verdicts['label'][at]]} {verdicts['confidence'][at]:.3f}",
                classes[verdicts["label"][at]],
            )
            for at in places
        ]

    least = first(chosen["confidence"], chosen.ids, number)
    most = left[first(-teacher["confidence"][left], teacher.ids[left], number)]
    return join(
        (
            tag("h3", "selection: the teacher's class and its confidence"),
            sheet("least confident of the selected", frames(chosen, least)),
            sheet("most confident of those not selected", frames(teacher, most))
            if len(most)
            else EMPTY,
        )
    )


def _query(facts: Columns, name: str) -> str:
    at = facts.place(name)
    return f"searched for: {facts['query'][at] or ''}" if at >= 0 else ""


def sheet(title: str, figures: list[Html]) -> Html:
    """A titled row of pictures."""
    return tag("div", tag("h4", title), tag("div", *figures, class_="sheet"), class_="side")
