"""Stages that DVC skipped: which run made their outputs, and how the experiment shows it.

A run is known by what it made: its tags `output <path>` hold the hashes that DVC has in dvc.lock. From what a stage
read we walk upstream to `search`. What was not made under this experiment appears below it as `<stage> (cached)`, with
a link to the run that made it; the experiment gets the figures of every stage, run or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from webdistill.core import dvc_lock
from webdistill.core.params import STAGES
from webdistill.core.tracking import Record
from webdistill.lineage import store as stores
from webdistill.lineage.store import COST, NOTE_TAG, PARENT_TAG, Store

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

STAGE_TAG = "webdistill.stage"  # on what ran
CACHED_TAG = "webdistill.cached"  # on a link
LINK_TAG = "webdistill.link"
MAKER_TAG = "webdistill.made_by"
UNKNOWN = "not in this store"


@dataclass(frozen=True)
class Source:
    """A stage that stands behind a record."""

    stage: str
    outputs: Mapping[str, str]  # path -> digest
    maker: Run | None  # None: no run in the store has made these outputs
    measured: Mapping[str, float]  # from metrics.json, where dvc.lock vouches for it


@dataclass(frozen=True)
class Locked:
    """A stage as dvc.lock has it; path -> digest."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def sources(store: Store, record: Record, parent: str) -> list[Source]:
    """The stages upstream of a record, the last first; of a workspace, all that its lock has."""
    lock = read_lock(record.lock)
    wanted: dict[str, dict[str, str]] = {}

    def want(inputs: Mapping[str, str]) -> None:
        for path, digest in inputs.items():
            if stage := made_by(path, "cell" in record.tags):
                wanted.setdefault(stage, {}).setdefault(path, digest)  # the nearer reader is right

    want(record.inputs)
    if not record.stage:
        for each in lock.values():
            want(each.outputs)
    found = []
    for stage in reversed(STAGES):
        if stage not in wanted:
            continue
        outputs, known = wanted[stage], lock.get(stage)
        if known is not None and not outputs.items() <= known.outputs.items():
            known = None  # the lock is about another run of the stage
        if known is not None:
            outputs = dict(known.outputs)
        maker = _maker(store, stage, outputs, parent)
        if known is not None:
            want(known.inputs)
        elif maker is not None:
            want(_tagged(maker, "input "))
        measured = _measured(stage, record.measured, outputs) if known is not None else {}
        found.append(Source(stage, outputs, maker, measured))
    return found


def read_lock(text: str) -> dict[str, Locked]:
    """dvc.lock -> the stages of the main pipeline."""
    try:
        stages = dvc_lock.stages(text)
    except ValueError:  # read while DVC was writing it: then the store alone knows
        return {}

    def digests(entries: list[dict[str, Any]]) -> dict[str, str]:
        return {entry["path"]: entry["md5"] for entry in entries if "md5" in entry}

    return {
        name: Locked(digests(stage.get("deps", [])), digests(stage.get("outs", [])))
        for name, stage in stages.items()
        if name in STAGES
    }


def made_by(path: str, cell: bool) -> str | None:
    """`data/filter/kept.parquet` -> `filter`; for a cell also `<any folder>/filter/kept.parquet`; else None."""
    parts = PurePosixPath(path).parts
    if len(parts) < 3 or parts[-2] not in STAGES or not (cell or parts[0] == "data"):
        return None
    return parts[-2]


def _maker(store: Store, stage: str, outputs: Mapping[str, str], parent: str) -> Run | None:
    """The run that made exactly this: one below `parent` if there is one, else the oldest."""
    tags = {stores.data_tag("output", path): digest for path, digest in outputs.items()}
    found = stores.find(store, {STAGE_TAG: stage, **tags}, finished=True)
    own = [run for run in found if run.data.tags.get(PARENT_TAG) == parent]
    return next(iter(own or found), None)


def _tagged(run: Run, prefix: str) -> dict[str, str]:
    tags = run.data.tags.items()
    return {key.removeprefix(prefix): value for key, value in tags if key.startswith(prefix)}


def _measured(stage: str, texts: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, float]:
    """Metrics from the stage's metrics.json, if it is the one of these outputs."""
    text = texts.get(stage, "")
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    if outputs.get(f"data/{stage}/metrics.json") != digest:
        return {}
    values: dict[str, float] = json.loads(text)
    return values


def show(store: Store, parent: Run, source: Source, record: Record) -> None:
    """Let the experiment show a source: its figures, and a link if it was made elsewhere. Safe to repeat."""
    maker = source.maker
    if maker is None or maker.data.tags.get(PARENT_TAG) != parent.info.run_id:
        _link(store, parent, source, record)
    stamp = stores.milliseconds(record.ended)
    for key, value in _figures(source).items():
        name = stores.of_stage(source.stage, key)
        if parent.data.metrics.get(name) == value:
            continue
        points = _history(store, maker, key, value, stamp)
        stores.log_metrics(store, parent.info.run_id, points, source.stage)


def _figures(source: Source) -> dict[str, float]:
    """The last values of what was measured; not what it took, for now it took nothing."""
    if source.maker is None:
        return dict(source.measured)
    values = source.maker.data.metrics.items()
    return {key: value for key, value in values if not key.startswith(COST)}


def _history(store: Store, maker: Run | None, key: str, value: float, stamp: int) -> list[Metric]:
    """A curve as it was, or one value as of now: the newest one counts."""
    from mlflow.entities import Metric

    points = store.client.get_metric_history(maker.info.run_id, key) if maker is not None else []
    if any(point.step for point in points):
        return list(points)
    return [Metric(key, value, stamp, 0)]


def _link(store: Store, parent: Run, source: Source, record: Record) -> None:
    """The child run `<stage> (cached)`, one per stage and experiment; brought up to date if it names another maker."""
    from mlflow.entities import Metric

    above, when = parent.info.run_id, stores.milliseconds(record.ended)
    maker = source.maker.info.run_id if source.maker is not None else UNKNOWN
    link = stores.find_or_create(
        store,
        LINK_TAG,
        _key(record, source.stage),
        name=f"{source.stage} (cached)",
        start_time=when,
        tags={**record.tags, PARENT_TAG: above, CACHED_TAG: source.stage},
    )
    known = link.data.tags
    same = _tagged(link, "output ") == {
        stores.clean(path): digest for path, digest in source.outputs.items()
    }
    if link.info.status != "RUNNING" and known.get(MAKER_TAG) == maker and same:
        return
    run = link.info.run_id
    figures = [Metric(key, value, when, 0) for key, value in _figures(source).items()]
    stores.log_metrics(store, run, figures)
    stores.log_data(store, run, "output", source.outputs)
    stores.log_tags(store, run, {MAKER_TAG: maker, NOTE_TAG: _note(store, source)})
    store.client.set_terminated(run, status="FINISHED", end_time=when)


def settle(store: Store, record: Record) -> None:
    """The stage ran below this parent after all; its record came late, and a link took its place meanwhile."""
    for link in stores.find(store, {LINK_TAG: _key(record, record.stage), MAKER_TAG: UNKNOWN}):
        store.client.delete_run(link.info.run_id)


def _key(record: Record, stage: str) -> str:
    return f"{record.parent_key} {stage}"


def _note(store: Store, source: Source) -> str:
    """Markdown for the link's page."""
    if source.maker is None:
        known = (
            f"The figures are those of `data/{source.stage}/metrics.json`, which belongs to these outputs by dvc.lock."
            if source.measured
            else "Its figures are not known."
        )
        return (
            f"DVC had the outputs of `{source.stage}`. The run that made them is not in this tracking store: it went "
            f"to another one, or has not arrived yet. {known}"
        )
    above = source.maker.data.tags.get(PARENT_TAG)
    name = store.client.get_run(above).info.run_name if above is not None else source.stage
    where = address(store, source.maker.info.run_id)
    return f"DVC had the outputs of `{source.stage}`; [the run that made them]({where}) belongs to *{name}*."


def address(store: Store, run: str) -> str:
    """Of a run's page, within MLflow's pages."""
    return f"#/experiments/{store.experiment}/runs/{run}"
