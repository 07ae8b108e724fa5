"""How well CLIP's numbers tell right keywords from wrong ones and from junk, on a test bed with planted truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.report.columns import names
from stages.report.evidence import Collected

RIGHT, OTHERS = ("clean", "shifted"), ("wrong_keyword", "junk")


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """Probability that a random good value is above a random bad one, ties counted half. Both not empty."""
    values: NDArray[np.float64] = np.concatenate([np.asarray(good, float), np.asarray(bad, float)])
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.cumsum(times) - (times - 1) / 2  # mean rank of equal values, from 1
    total = float(rank[place][: len(good)].sum())
    return (total - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad))


def separation(collected: Collected, truth: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`auc_<score or margin>_<wrong_keyword or junk>`, over the pool; groups without an image are left out."""
    kinds = {row["row"]: row["kind"] for row in truth}
    groups: dict[str, list[int]] = {}
    ledger, scores = collected.ledger.select(["row", "id", "status"]), collected.scores
    places = scores.places(names(ledger["id"])).tolist()
    for entry, place in zip(ledger.to_pylist(), places, strict=True):
        if entry["status"] == "ok" and place >= 0:
            kind = kinds.get(entry["row"], "")
            groups.setdefault("right" if kind in RIGHT else kind, []).append(place)
    return {
        f"auc_{name}_{other}": round(
            auc(scores[name][groups["right"]].tolist(), scores[name][groups[other]].tolist()), 4
        )
        for name in ("score", "margin")
        for other in OTHERS
        if "right" in groups and other in groups
    }
