"""A record as a finished stage makes it."""

from __future__ import annotations

from typing import Any

from webdistill.harness.records import StageRun

KEY = "3fa2c1" + "0" * 26
CURVE = [(step, 1.0 / (1 + step)) for step in range(1500)]


def record(stage: str = "distill", **changes: Any) -> StageRun:
    values: dict[str, Any] = {
        "stage": stage,
        "parent_key": KEY,
        "parent_params": {"task.seed": "0", "distill.method": "kd", "distill.student": "wrn-16-1"},
        "params": {"task.seed": 0, "distill.method": "kd"},
        "inputs": {"data/quickstart/web.parquet": "a" * 64},
        "outputs": {"data/distill/student/": "b" * 64},
        "metrics": {"loss->end": 0.5},
        "track_metrics": {"seconds": 12.5},
        "curves": {"loss": CURVE},
        "started": 1_700_000_000.25,
        "ended": 1_700_000_012.75,
        "status": "FINISHED",
    }
    return StageRun(**{**values, **changes})
