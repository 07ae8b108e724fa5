"""CLIP thresholds that follow the model: percentiles of what pictures reach under a keyword that is not theirs.

Cosines of one CLIP mean nothing to another. Under a wrong keyword every pool, clean or not, shows what this model gives
a picture that does not fit, and no truth is needed for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from webdistill.core.files import read_table


def threshold(wanted: float | str, scored: Path, name: Literal["score", "margin"]) -> float:
    """The number itself, or that percentile ("40%") in data/embed/scores.parquet; of no pictures 0."""
    if not isinstance(wanted, str):
        return wanted
    other = read_table(scored, [f"other_{name}"])[f"other_{name}"].to_numpy()
    if not len(other):
        return 0.0
    return float(np.percentile(other.astype(np.float64), float(wanted.removesuffix("%"))))
