"""Contact sheets: the images just above and just below each threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from stages.report.evidence import HIDDEN, Collected, Drop, Evidence
from stages.report.html import EMPTY, Html, join, section, tag
from stages.report.wording import figure, reason

Facts = Mapping[str, Any]
# What a reason of the filter looks at, where it is known of kept images too.
MEASURES: dict[str, Callable[[Facts], float]] = {
    "low_score": lambda facts: float(facts["score"]),
    "low_margin": lambda facts: float(facts["margin"]),
    "elongated": lambda facts: (
        max(facts["width"], facts["height"]) / min(facts["width"], facts["height"])
    ),
    "too_small": lambda facts: float(min(facts["width"], facts["height"])),
}


def just_below(collected: Collected, why: str, number: int) -> list[Drop]:
    """Dropped images whose value lay nearest to the threshold; ties by id."""
    drops = [d for d in collected.dropped if d.reason == why]
    return sorted(drops, key=lambda d: (abs(d.value - d.threshold), d.id))[:number]


def just_above(
    collected: Collected, why: str, threshold: float, number: int
) -> list[tuple[str, float]]:
    """Kept images whose value lies nearest above the threshold, with the value; ties by id."""
    measure = MEASURES[why]
    values = [
        (name, measure(collected.scores[name]))
        for name in collected.kept
        if name in collected.scores
    ]
    return sorted(values, key=lambda item: (abs(item[1] - threshold), item[0]))[:number]


def thresholds(evidence: Evidence) -> Html:
    """Section `thresholds`."""
    collected, number = evidence.collected, int(evidence.params["report"]["pictures"])
    counted = Counter(d.reason for d in collected.dropped if not d.other and d.reason not in HIDDEN)
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
    chosen = sorted(collected.selected.items(), key=lambda item: (item[1].confidence, item[0]))[
        :number
    ]
    left = [
        (i, collected.teacher[i])
        for i in collected.kept
        if i not in collected.selected and i in collected.teacher
    ]
    left = sorted(left, key=lambda item: (-item[1].confidence, item[0]))[:number]

    def frames(items: list[Any]) -> list[Html]:
        return [
            collected.pool.figure(
                name, f"{classes[verdict.label]} {verdict.confidence:.3f}", classes[verdict.label]
            )
            for name, verdict in items
        ]

    return join(
        (
            tag("h3", "selection: the teacher's class and its confidence"),
            sheet("least confident of the selected", frames(chosen)),
            sheet("most confident of those not selected", frames(left)) if left else EMPTY,
        )
    )


def _query(facts: Mapping[str, Facts], name: str) -> str:
    return f"searched for: {facts[name].get('query', '')}" if name in facts else ""


def sheet(title: str, figures: list[Html]) -> Html:
    """A titled row of pictures."""
    return tag("div", tag("h4", title), tag("div", *figures, class_="sheet"), class_="side")
