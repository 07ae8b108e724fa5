"""What a test bed's planted truth says of every rule. For images from the web there is no such table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.report.columns import names
from stages.report.evidence import Collected, Evidence
from stages.report.html import EMPTY, Child, Html, section, table, tag
from stages.report.sections.separation import OTHERS, separation
from stages.report.wording import count, ratio

BANNER = (
    "Test bed: this run used a small web with planted truth. It shows that the machinery works and is "
    "no evidence about the open web."
)
KEPT, SELECTED = "kept", "selected"
OPTED_OUT = ("opted_out", "opt_out")
REFUSED_KINDS = ("broken", "truncated", "oversized", "not_image")
REFUSALS = (
    "too_large",
    "not_an_image",
    "unsupported_format",
    "too_many_pixels",
    "extreme_shape",
    "truncated",
    "corrupt",
    "decoder_crash",
)
SAME_PIXELS = "same_pixels"  # the ledger's `duplicate`; the filter has a reason of that name too
DUPLICATES = (SAME_PIXELS, "duplicate")
KEYWORD = ("low_score", "low_margin")
# The order in which rules are asked: a row that ends at one has passed all that stand before it.
ORDER = (
    *OPTED_OUT,
    *REFUSALS,
    SAME_PIXELS,
    "takedown",
    "unsafe",
    "punsafe",
    "nsfw",
    "leak",
    "licence",
    "too_small",
    "elongated",
    "blank",
    "low_entropy",
    "pwatermark",
    "low_aesthetic",
    "low_similarity",
    *KEYWORD,
    "duplicate",
    "class_cap",
    KEPT,
    SELECTED,
)


@dataclass(frozen=True)
class Fate:
    """One candidate: what it really is, and where it ended."""

    row: int
    kind: str
    shift: str
    true_class: int
    keyword_right: bool
    duplicate_of: int
    end: str  # one of ORDER, or another status of the ledger
    teacher_class: int = -1  # -1 unless the row's own image is in the pool

    @property
    def pooled(self) -> bool:
        """Whether this row brought an image into the pool."""
        return self.teacher_class >= 0


@dataclass(frozen=True)
class Judged:
    """A rule against the truth: `caught` of the `planted` that reached it; of `flagged`, `right` were planted."""

    rule: str
    planted: int
    caught: int
    flagged: int
    right: int
    harmless: int  # rows that reached the rule and that it should have let pass

    @property
    def false_alarms(self) -> int:
        """Rows flagged that should have passed."""
        return self.flagged - self.right


def fates(collected: Collected, truth: Sequence[Mapping[str, Any]]) -> list[Fate]:
    """Ledger and truth joined by row. A row that the truth does not have is left out."""
    known = {row["row"]: row for row in truth}
    ledger, drops = collected.ledger.select(["row", "id", "status"]), collected.dropped
    ids = names(ledger["id"])
    labels = collected.teacher.of(ids, "label", -1).tolist()
    ends = np.where(collected.selected.has(ids), SELECTED, drops.of(ids, "reason", KEPT)).tolist()
    found = []
    for entry, label, drop in zip(ledger.to_pylist(), labels, ends, strict=True):
        if entry["row"] not in known:
            continue
        status = entry["status"]
        pooled = status == "ok"
        end = drop if pooled else SAME_PIXELS if status == "duplicate" else status
        found.append(Fate(end=end, teacher_class=label if pooled else -1, **known[entry["row"]]))
    return found


def judge(
    rule: str,
    rows: Sequence[Fate],
    ends: Sequence[str],
    is_true: Callable[[Fate], bool],
    no_loss: Callable[[Fate], bool] = lambda _: False,
) -> Judged:
    """Rows that reached a rule; one that it let pass and a later rule dropped is a miss all the same.

    Rows of `no_loss` need not be caught, but flagging them is no false alarm.
    """
    reach = ORDER[min(ORDER.index(end) for end in ends) :]
    reached = [fate for fate in rows if fate.end in reach]
    flagged = [fate for fate in reached if fate.end in ends]
    planted = [fate for fate in reached if is_true(fate)]
    return Judged(
        rule=rule,
        planted=len(planted),
        caught=sum(fate.end in ends for fate in planted),
        flagged=len(flagged),
        right=sum(is_true(fate) or no_loss(fate) for fate in flagged),
        harmless=sum(not is_true(fate) and not no_loss(fate) for fate in reached),
    )


def judge_duplicates(rows: Sequence[Fate]) -> Judged:
    """By pair: caught when only one of copy and original is left, whichever the filter preferred."""
    ends = {fate.row: fate.end for fate in rows}
    compared = (*DUPLICATES, "class_cap", KEPT, SELECTED)
    pairs = [
        f
        for f in rows
        if f.end in compared and (f.end == SAME_PIXELS or ends.get(f.duplicate_of) in compared)
    ]
    pairs = [f for f in pairs if f.duplicate_of >= 0]
    family = {f.row for f in rows if f.duplicate_of >= 0} | {f.duplicate_of for f in rows}
    reached = [f for f in rows if f.end in compared]
    flagged = [f for f in reached if f.end in DUPLICATES]
    return Judged(
        rule="duplicates, exact and near (pairs)",
        planted=len(pairs),
        caught=sum(f.end in DUPLICATES or ends[f.duplicate_of] in DUPLICATES for f in pairs),
        flagged=len(flagged),
        right=sum(f.row in family for f in flagged),
        harmless=sum(f.row not in family for f in reached),
    )


def verdicts(rows: Sequence[Fate]) -> list[Judged]:
    """Every rule that can be judged against the planted truth, in the order in which they are asked."""
    found = [
        judge("opt-out", rows, OPTED_OUT, lambda f: f.kind == "opt_out"),
        judge("broken and oversized files", rows, REFUSALS, lambda f: f.kind in REFUSED_KINDS),
        judge("too small", rows, ("too_small",), lambda f: f.kind == "tiny"),
        judge("blank", rows, ("blank",), lambda f: f.shift == "blank", lambda f: f.kind == "junk"),
        judge("leak guard", rows, ("leak",), lambda f: f.kind == "test_leak"),
        judge("CLIP: wrong keyword or junk", rows, KEYWORD, lambda f: not f.keyword_right),
        judge_duplicates(rows),
    ]
    return [item for item in found if item.planted or item.flagged]


def planted_truth(evidence: Evidence) -> Html:
    """Section `truth`; empty without planted truth."""
    if evidence.truth is None:
        return EMPTY
    rows = fates(evidence.collected, evidence.truth.to_pylist())
    shifts = [fate for fate in rows if fate.kind == "shifted"]
    return section(
        "truth",
        "Planted truth",
        "Every candidate of the test bed is known for what it is. Recall counts the planted rows that "
        "reached a rule; precision is the share of planted ones among those it flagged.",
        tag("p", BANNER, class_="note"),
        _rules(rows),
        tag(
            "div",
            _titled(
                "how well CLIP tells them apart (AUC)",
                _separation(separation(evidence.collected, evidence.truth.to_pylist())),
            ),
            _titled("how true the labels are", _labels(rows)),
            _titled("what became of each kind", _outcomes("kind", rows, lambda fate: fate.kind)),
            _titled(
                "photographs altered on purpose, by alteration",
                _outcomes("alteration", shifts, lambda fate: fate.shift),
            )
            if shifts
            else EMPTY,
            class_="grid",
        ),
    )


def _titled(title: str, content: Html) -> Html:
    return tag("div", tag("h3", title), content)


def _rules(rows: Sequence[Fate]) -> Html:
    body: list[list[Child]] = [
        [
            item.rule,
            f"{count(item.caught)} of {count(item.planted)}",
            ratio(item.caught, item.planted),
            ratio(item.right, item.flagged),
            f"{count(item.false_alarms)} of {count(item.harmless)}",
        ]
        for item in verdicts(rows)
    ]
    return table(["rule", "caught", "recall", "precision", "false alarms"], body, {1, 2, 3, 4})


def _separation(found: Mapping[str, float]) -> Html:
    body: list[list[Child]] = [
        [
            f"right keyword against {other.replace('_', ' ')}",
            f"{found[f'auc_score_{other}']:.3f}",
            f"{found[f'auc_margin_{other}']:.3f}",
        ]
        for other in OTHERS
        if f"auc_score_{other}" in found
    ]
    return table(["", "by score", "by margin"], body, {1, 2})


def truth_figures(evidence: Evidence) -> dict[str, float]:
    """Recall and false alarms of every rule, and CLIP's AUC; empty without planted truth."""
    if evidence.truth is None:
        return {}
    truth = evidence.truth.to_pylist()
    out = separation(evidence.collected, truth)
    for item in verdicts(fates(evidence.collected, truth)):
        name = "_".join(re.findall(r"[a-z]+", item.rule.lower()))
        out[f"recall/{name}"] = round(item.caught / max(item.planted, 1), 4)
        out[f"false_alarms/{name}"] = round(item.false_alarms / max(item.harmless, 1), 4)
    return out


def _outcomes(title: str, rows: Sequence[Fate], group: Callable[[Fate], str]) -> Html:
    groups: dict[str, list[Fate]] = {}
    for fate in rows:
        groups.setdefault(group(fate), []).append(fate)
    body: list[list[Child]] = []
    for name, mine in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        numbers = [
            sum(f.pooled for f in mine),
            sum(f.end in (KEPT, SELECTED) for f in mine),
            sum(f.end == SELECTED for f in mine),
        ]
        body.append(
            [
                name.replace("_", " "),
                count(len(mine)),
                *map(count, numbers),
                ratio(numbers[-1], len(mine)),
            ]
        )
    header = [title, "candidates", "pool", "kept", "selected", "share"]
    return table(header, body, {1, 2, 3, 4, 5})


def _labels(rows: Sequence[Fate]) -> Html:
    parts = {
        "the pool": [f for f in rows if f.pooled],
        "kept": [f for f in rows if f.end in (KEPT, SELECTED)],
        "selected": [f for f in rows if f.end == SELECTED],
    }
    body: list[list[Child]] = [
        [
            name,
            count(len(part)),
            ratio(sum(f.teacher_class == f.true_class for f in part), len(part)),
            ratio(sum(f.keyword_right for f in part), len(part)),
            ratio(sum(f.true_class < 0 for f in part), len(part)),
        ]
        for name, part in parts.items()
    ]
    header = ["images", "number", "teacher is right", "keyword is right", "no class at all"]
    return table(header, body, {1, 2, 3, 4})
