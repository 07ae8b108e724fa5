"""Pictures at thresholds that nobody has set yet: of every measure, those where so many percent would be dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.report.columns import Columns, text
from stages.report.evidence import Evidence
from stages.report.html import Html, join, section, tag
from stages.report.sections.thresholds import MEASURES, sheet
from stages.report.wording import figure, percent, reason

SHARES = (0.01, 0.05, 0.25, 0.5)  # of the pool's images that a threshold would drop
KEYS = {
    "low_score": ("filter.min_score", "below"),
    "low_margin": ("filter.min_margin", "below"),
    "elongated": ("filter.max_aspect", "above"),
    "too_small": ("filter.min_side", "below"),
}
LEAD = (
    "All images of the pool, whatever the rules of today: the ones at the place where a threshold would drop so many "
    "of them. Of rules that measure pixels (contrast, entropy, copies) only what they dropped is known, as shown above."
)


def candidates(evidence: Evidence, thresholds: Mapping[str, float]) -> Html:
    """Section `candidates`; `thresholds`: `section.key` -> number, of those that the pool itself decides."""
    blocks = [_block(evidence, why, measure, thresholds) for why, measure in MEASURES.items()]
    return section("candidates", "Where other thresholds would lie", LEAD, *blocks)


def _block(
    evidence: Evidence,
    why: str,
    measure: Callable[[Columns], NDArray[Any]],
    thresholds: Mapping[str, float],
) -> Html:
    """One measure: the threshold now, then a row of pictures per share."""
    collected = evidence.collected
    facts, (key, side) = collected.scores, KEYS[why]
    shown = np.flatnonzero(collected.pool.has(facts.ids) & ~collected.hidden.has(facts.ids))
    values, ids = measure(facts)[shown], facts.ids[shown]
    order = np.lexsort((ids, values))
    if side == "above":
        order = order[::-1]
    many = max(1, int(evidence.params["report"]["pictures"]) // 2)
    rows = []
    for share in SHARES:
        at = min(int(share * len(order)), len(order) - 1)
        pictures = [
            collected.pool.figure(
                text(ids[near]), figure(values[near]), facts["query"][shown[near]] or ""
            )
            for near in order[max(0, at - many // 2) :][:many]
        ]
        place = figure(values[order[at]])
        rows.append(sheet(f"{percent(share, 0)} lie {side} {place}", pictures))
    section_name, name = key.split(".")
    wanted = evidence.params[section_name][name]
    now = thresholds.get(key, wanted)
    told = f"{wanted}, that is {figure(now)}" if isinstance(wanted, str) else figure(float(now))
    dropped = _dropped(values, float(now), side)
    title = f"{reason(why)}: {key} is {told}, {percent(dropped)} lie {side} it"
    return join((tag("h3", title), *rows))


def _dropped(values: np.ndarray, threshold: float, side: str) -> float:
    return float((values < threshold).mean() if side == "below" else (values > threshold).mean())
