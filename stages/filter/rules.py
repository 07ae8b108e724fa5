"""The filter's rules: each small function says which images it would drop, by which value against which threshold.

Rules are asked in the order of REASONS, and the first that drops an image gives its reason. Duplicates come last
and among the survivors only, so that the copy that stays is one that no other rule takes away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from webdistill.core.errors import UserError

Reason = Literal[
    "opt_out", "leak", "too_small", "elongated", "blank", "low_score", "low_margin", "duplicate"
]
REASONS: tuple[Reason, ...] = get_args(Reason)
KEYS: Mapping[Reason, str] = {
    "opt_out": "nothing: these images carry an opt-out",
    "leak": "filter.leak_similarity",
    "too_small": "filter.min_side",
    "elongated": "filter.max_aspect",
    "blank": "filter.min_contrast",
    "low_score": "filter.min_score",
    "low_margin": "filter.min_margin",
    "duplicate": "filter.duplicate_similarity",
}
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """One rule over N images: which it drops, the value it looked at, its threshold, the other image involved."""

    reason: Reason
    drop: Mask
    value: Doubles
    threshold: float
    other: Sequence[str] | None = None


def opt_out(ids: Sequence[str], refused: set[str]) -> Verdict:
    """An opt-out anywhere in the ledger counts, even if another candidate with the same pixels carries none."""
    value = np.array([name in refused for name in ids], np.float64)
    return Verdict("opt_out", value > 0, value, 0.0)


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


def leak(similarity: Doubles, test_ids: Sequence[str], threshold: float) -> Verdict:
    """A near-duplicate of a test image."""
    return Verdict("leak", similarity >= threshold, similarity, threshold, test_ids)


def low_score(score: Doubles, min_score: float) -> Verdict:
    """CLIP sees little of what the query asked for."""
    return Verdict("low_score", score < min_score, score, min_score)


def low_margin(margin: Doubles, min_margin: float) -> Verdict:
    """CLIP sees another class about as well or better."""
    return Verdict("low_margin", margin < min_margin, margin, min_margin)


@dataclass(frozen=True)
class Decision:
    """reason[i] is the number of the verdict that dropped image i, -1 = kept."""

    verdicts: tuple[Verdict, ...]
    reason: NDArray[np.int64]

    @property
    def kept(self) -> Mask:
        return np.asarray(self.reason < 0)

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
    """Raises UserError with the counts per reason and the key to loosen when nothing is left."""
    if decision.kept.any():
        return
    if not len(decision.reason):
        raise UserError(
            "data/fetch/pool holds no image; see data/fetch/ledger.parquet for what became of the candidates"
        )
    counts = {reason: count for reason, count in decision.counts().items() if count}
    worst = max(counts, key=lambda reason: counts[reason])
    told = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
    raise UserError(f"no image left of {len(decision.reason):,} ({told}); loosen {KEYS[worst]}")


def dropped_table(ids: Sequence[str], decision: Decision) -> pa.Table:
    """id | reason | value | threshold | other, in pool order."""
    rows = np.flatnonzero(~decision.kept)
    taken = [(int(row), decision.verdicts[decision.reason[row]]) for row in rows]
    return pa.table(
        {
            "id": pa.array([ids[row] for row, _ in taken], pa.string()),
            "reason": pa.array([verdict.reason for _, verdict in taken], pa.string()),
            "value": pa.array([float(verdict.value[row]) for row, verdict in taken], pa.float64()),
            "threshold": pa.array([float(verdict.threshold) for _, verdict in taken], pa.float64()),
            "other": pa.array(
                [verdict.other[row] if verdict.other else "" for row, verdict in taken], pa.string()
            ),
        }
    )
