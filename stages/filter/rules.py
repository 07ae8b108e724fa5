"""The filter's rules: each small function says which images it would drop, by which value against which threshold.

Rules are asked in the order of REASONS, and the first that drops an image gives its reason. What nobody may use comes
first, matters of quality after it: an experiment that ignores quality (select.source: pool) never gets the former.
Duplicates are sought among the survivors only, so that the copy that stays is one that no other rule takes away, and
the cap counts what is left of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from webdistill.core.errors import UserError

Reason = Literal[
    "takedown", "opt_out", "unsafe", "punsafe", "nsfw", "leak", "licence", "too_small", "elongated", "blank",
    "low_entropy", "pwatermark", "low_aesthetic", "low_similarity", "low_score", "low_margin", "duplicate",
    "class_cap",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)
HIDDEN: frozenset[Reason] = frozenset(
    {"takedown", "opt_out", "unsafe", "punsafe", "nsfw"}
)  # never shown to anybody
KEYS: Mapping[Reason, str] = {  # what to change when a rule leaves nothing
    "takedown": "takedown.txt",
    "opt_out": "nothing: these images carry an opt-out",
    "unsafe": "filter.max_unsafe",
    "punsafe": "filter.max_punsafe",
    "nsfw": "filter.max_nsfw",
    "leak": "filter.leak_similarity",
    "licence": "filter.licences or filter.unknown_licence",
    "too_small": "filter.min_side",
    "elongated": "filter.max_aspect",
    "blank": "filter.min_contrast",
    "low_entropy": "filter.min_entropy",
    "pwatermark": "filter.max_pwatermark",
    "low_aesthetic": "filter.min_aesthetic",
    "low_similarity": "filter.min_similarity",
    "low_score": "filter.min_score",
    "low_margin": "filter.min_margin",
    "duplicate": "filter.duplicate_similarity",
    "class_cap": "filter.per_class",
}
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Verdict:
    """One rule over N images: which it drops, the value it looked at, its threshold.

    `other`: the other image involved; `detail`: what decided where a number does not say it.
    """

    reason: Reason
    drop: Mask
    value: Doubles
    threshold: float
    other: Sequence[str] | None = None
    detail: Sequence[str] | None = None


def takedown(ids: Sequence[str], lines: Mapping[str, int]) -> Verdict:
    """Listed in takedown.txt, at line `lines[id]`, by any of the candidates with these pixels."""
    value = np.array([name in lines for name in ids], np.float64)
    detail = [f"takedown.txt line {lines[name]}" if name in lines else "" for name in ids]
    return Verdict("takedown", value > 0, value, 0.0, detail=detail)


def opt_out(ids: Sequence[str], refused: Mapping[str, str]) -> Verdict:
    """An opt-out anywhere in the ledger counts, even if another candidate with the same pixels carries none.

    `refused`: id -> what it says.
    """
    value = np.array([name in refused for name in ids], np.float64)
    return Verdict("opt_out", value > 0, value, 0.0, detail=[refused.get(n, "") for n in ids])


def licence(codes: Sequence[str], allowed: Collection[str], *, keep_unknown: bool) -> Verdict:
    """Stated, but not among the `allowed` (none named = all); or not stated (""), where that is refused.

    Value: 1 = the licence is in order.
    """
    fine = [bool(not allowed or code in allowed) if code else keep_unknown for code in codes]
    value = np.array(fine, np.float64)
    return Verdict("licence", value < 1, value, 1.0, detail=[code or "unknown" for code in codes])


def unsafe(probability: Doubles, most: float) -> Verdict:
    """CLIP takes it for one of embed.unsafe_texts. Catches some of them and others too: no guarantee."""
    return Verdict("unsafe", probability > most, probability, most)


def too_small(width: Doubles, height: Doubles, min_side: float) -> Verdict:
    """Shorter side below min_side px."""
    value = np.minimum(width, height)
    return Verdict("too_small", value < min_side, value, min_side)


def elongated(width: Doubles, height: Doubles, max_aspect: float) -> Verdict:
    """Longer side more than max_aspect times the shorter one."""
    value = np.maximum(width, height) / np.minimum(width, height)
    return Verdict("elongated", value > max_aspect, value, max_aspect)


def blank(contrast: Doubles, min_contrast: float) -> Verdict:
    """Next to no picture: luminance varies by less than min_contrast grey levels."""
    return Verdict("blank", contrast < min_contrast, contrast, min_contrast)


def low_entropy(entropy: Doubles, least: float) -> Verdict:
    """Few grey levels: text on white, charts, placeholders."""
    return Verdict("low_entropy", entropy < least, entropy, least)


def leak(similarity: Doubles, test_ids: Sequence[str], threshold: float) -> Verdict:
    """A near-duplicate of a test image."""
    return Verdict("leak", similarity >= threshold, similarity, threshold, test_ids)


def low_score(score: Doubles, min_score: float) -> Verdict:
    """CLIP sees little of what the query asked for."""
    return Verdict("low_score", score < min_score, score, min_score)


def low_margin(margin: Doubles, min_margin: float) -> Verdict:
    """CLIP sees another class about as well or better."""
    return Verdict("low_margin", margin < min_margin, margin, min_margin)


def class_cap(
    classes: NDArray[np.integer], score: Doubles, ids: Sequence[str], rows: Rows, most: int
) -> Verdict:
    """More than `most` images of one class keyword: the best scored of the images `rows` stay, on a tie the smaller id.

    Images whose keyword names no class (-1) count as one more class. Value: the image's rank in its class, from 1.
    """
    rank = np.zeros(len(ids))
    ordered = sorted(rows.tolist(), key=lambda row: (classes[row], -score[row], ids[row]))
    before, last = 0, None
    for row in ordered:
        before = before + 1 if classes[row] == last else 1
        last = classes[row]
        rank[row] = before
    return Verdict("class_cap", rank > most, rank, float(most))


@dataclass(frozen=True)
class Decision:
    """reason[i] is the number of the verdict that dropped image i, -1 = kept."""

    verdicts: tuple[Verdict, ...]
    reason: NDArray[np.int64]

    @property
    def kept(self) -> Mask:
        return np.asarray(self.reason < 0)

    @property
    def hidden(self) -> Mask:
        """Images that nobody shall see, whichever rule was the first to drop them."""
        refused = [verdict.drop for verdict in self.verdicts if verdict.reason in HIDDEN]
        return np.asarray(np.logical_or.reduce(refused, initial=False, axis=0))

    def counts(self) -> dict[Reason, int]:
        """Dropped images per reason, zeros included, in the order of the rules."""
        found: dict[Reason, int] = dict.fromkeys(REASONS, 0)
        for number, verdict in enumerate(self.verdicts):
            found[verdict.reason] += int((self.reason == number).sum())
        return found


def first_hit(verdicts: Sequence[Verdict], images: int) -> Decision:
    """The first verdict, in the given order, that drops an image decides."""
    reason = np.full(images, -1, np.int64)
    for number, verdict in enumerate(verdicts):
        reason[(reason < 0) & verdict.drop] = number
    return Decision(tuple(verdicts), reason)


def check_some_left(decision: Decision) -> None:
    """Raises UserError with the counts per reason and the key to loosen when nothing is left of a pool with images."""
    if decision.kept.any() or not len(decision.reason):
        return
    counts = {reason: count for reason, count in decision.counts().items() if count}
    worst = max(counts, key=lambda reason: counts[reason])
    told = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
    raise UserError(f"no image left of {len(decision.reason):,} ({told}); loosen {KEYS[worst]}")


def dropped_table(ids: Sequence[str], decision: Decision) -> pa.Table:
    """id | reason | value | threshold | other | detail, in pool order."""
    rows = np.flatnonzero(~decision.kept)
    taken = [(int(row), decision.verdicts[decision.reason[row]]) for row in rows]
    return pa.table(
        {
            "id": pa.array([ids[row] for row, _ in taken], pa.string()),
            "reason": pa.array([verdict.reason for _, verdict in taken], pa.string()),
            "value": pa.array([float(verdict.value[row]) for row, verdict in taken], pa.float64()),
            "threshold": pa.array([float(verdict.threshold) for _, verdict in taken], pa.float64()),
            "other": pa.array([_text(v.other, row) for row, v in taken], pa.string()),
            "detail": pa.array([_text(v.detail, row) for row, v in taken], pa.string()),
        }
    )


def _text(column: Sequence[str] | None, row: int) -> str:
    return column[row] if column else ""
