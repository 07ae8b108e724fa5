"""A comparison in MLflow: one parent run with table and picture, below it one run per cell, `<arm>-<seed>`.

A comparison is known by what its cells have in common, a cell by its arm's parameters and its seed: making the table
again brings the same runs up to date. The stages of a cell have runs of their own, as everywhere.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.shared.cell import changes, flat, stages_of
from webdistill.core.files import read_json
from webdistill.harness.records import ComparisonCell, ComparisonTable
from webdistill.harness.spool import submit_all


def records(
    pipeline: Path, settings: Mapping[str, Any], cells: Sequence[str], artifacts: Sequence[Path]
) -> tuple[ComparisonTable, list[ComparisonCell]]:
    name = pipeline.resolve().name
    parent = _key(name, {key: settings.get(key) for key in ("data", "stages", "common")})
    every = [_cell(pipeline, settings, cell, parent) for cell in cells]
    table = ComparisonTable(
        name=name,
        parent_key=parent,
        parent_params=dict(flat(settings.get("common", {}))),
        metrics=_means(every),
        artifacts=artifacts,
        started=min(cell.started for cell in every),
        ended=max(cell.ended for cell in every),
    )
    return table, every


def _cell(pipeline: Path, settings: Mapping[str, Any], name: str, parent: str) -> ComparisonCell:
    arm, _, seed = name.rpartition("-")
    files = {
        stage: pipeline / "cells" / name / stage / "metrics.json"
        for stage in stages_of(settings, arm)
    }
    metrics = {
        f"{stage}.{key}": value
        for stage, path in files.items()
        for key, value in read_json(path).items()
    }
    times = [path.stat().st_mtime for path in files.values()]
    values = changes(settings, arm, int(seed))
    return ComparisonCell(
        cell=name,
        name=pipeline.resolve().name,
        key=_key(parent, name, values),
        parent_key=parent,
        params={"arm": arm, "seed": int(seed), **values},
        metrics=metrics,
        started=min(times),
        ended=max(times),
    )


def _means(cells: Sequence[ComparisonCell]) -> dict[str, float]:
    """`<arm>.top1`, `<arm>.agreement` and, of de-confounded students, both kinds of answers; means over seeds."""
    values: dict[str, list[float]] = {}
    for cell in cells:
        for name in ("top1", "agreement", "raw_top1", "compensated_top1"):
            if (value := cell.metrics.get(f"evaluate.{name}")) is not None:
                values.setdefault(f"{cell.params['arm']}.{name}", []).append(value)
    return {key: statistics.mean(each) for key, each in values.items()}


def _key(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def submit(
    pipeline: Path, settings: Mapping[str, Any], cells: Sequence[str], artifacts: Sequence[Path]
) -> None:
    """Spool the records of a comparison; a background flush carries them to MLflow."""
    table, every = records(pipeline, settings, cells, artifacts)
    submit_all([table, *every], Path(".work") / "spool")
