"""What the stage leaves: kept and dropped images, counts, and contact sheets for tracking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from stages.filter import rules
from stages.filter.rules import Decision
from stages.filter.thumbnails import Thumbnails
from webdistill.core.files import write_table
from webdistill.harness.stage import Stage
from webdistill.images.sheet import contact_sheet

SHOWN = 200  # images on each of the two contact sheets


def write(
    stage: Stage, ids: Sequence[str], decision: Decision, thresholds: Mapping[str, float]
) -> None:
    """kept.parquet, dropped.parquet and metrics; `thresholds`: those that the pool itself decides."""
    kept = [name for name, keep in zip(ids, decision.kept, strict=True) if keep]
    with stage.output("kept.parquet") as path:
        write_table(pa.table({"id": pa.array(kept, pa.string())}), path)
    with stage.output("dropped.parquet") as path:
        write_table(rules.dropped_table(ids, decision), path)
    counts = decision.counts()
    stage.metrics(
        {
            "images": len(ids),
            "kept": len(kept),
            **{f"dropped_{r}": n for r, n in counts.items()},
            **thresholds,
        }
    )
    for key, value in thresholds.items():
        if isinstance(wanted := getattr(stage.params, key), str):
            stage.log(f"{key}: {wanted} of the pool under another keyword miss {value:.4f}")
    told = ", ".join(f"{reason} {count:,}" for reason, count in counts.items() if count)
    stage.log(f"{len(kept):,} of {len(ids):,} images kept; dropped: {told or 'none'}")


def show(stage: Stage, thumbnails: Thumbnails, decision: Decision) -> None:
    """A sheet of kept and one of dropped images, without those that nobody shall see."""
    for label, where in (("kept", decision.kept), ("dropped", ~decision.kept)):
        places = np.flatnonzero(where & ~decision.hidden)
        places = places[:: max(len(places) // SHOWN, 1)][:SHOWN]
        stage.picture(f"{label}.png", contact_sheet(thumbnails[places], columns=20))
