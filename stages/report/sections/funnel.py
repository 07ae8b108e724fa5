"""Where the images went: candidates, pool, kept, selected, with every reason in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow.compute as pc

from stages.report.charts import bar
from stages.report.evidence import Collected, Evidence
from stages.report.html import Html, section, table, tag
from stages.report.wording import count, ratio, reason, status


@dataclass(frozen=True)
class Step:
    """A line of the funnel: what is left (`loss` False) or one reason why images are gone."""

    name: str
    images: int
    loss: bool


def steps(collected: Collected) -> list[Step]:
    """All lines in order; what is left equals what was there minus the losses in between."""
    statuses = Counter(
        {
            one["values"]: one["counts"]
            for one in pc.value_counts(collected.ledger["status"]).to_pylist()
        }
    )
    pool = statuses.pop("ok", 0)
    kept, selected = collected.kept, collected.selected
    found = [Step("candidates", collected.ledger.num_rows, False), *_losses(statuses, status)]
    found += [
        Step("in the pool", pool, False),
        *_losses(Counter(collected.dropped["reason"].tolist()), reason),
    ]
    found.append(Step("kept by the filter", len(kept), False))
    if left := int((~selected.has(kept.ids)).sum()):
        found.append(Step("not selected", left, True))
    if extra := int((~kept.has(selected.ids)).sum()):
        found.append(
            Step("selected although the filter dropped them (select.source: pool)", extra, False)
        )
    found.append(Step("selected for training", len(selected), False))
    return found


def _losses(counted: Counter[str], words: Callable[[str], str]) -> list[Step]:
    return [
        Step(words(name), n, True)
        for name, n in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    ]


def funnel(evidence: Evidence) -> Html:
    """Section `funnel`."""
    found = steps(evidence.collected)
    whole = max(found[0].images, 1)
    rows = [
        [
            tag(
                "span",
                f"− {step.name}" if step.loss else step.name,
                class_="loss" if step.loss else "left",
            ),
            bar(step.images / whole, "other" if step.loss else ""),
            count(step.images),
            ratio(step.images, whole),
        ]
        for step in found
    ]
    return section(
        "funnel",
        "Where the images went",
        "Every candidate ends in one grey line, which names the reason, or in the last blue line.",
        tag("div", table(["step", "", "images", "of candidates"], rows, {2, 3}), class_="bars"),
    )
