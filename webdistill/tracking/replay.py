"""What a spooled record becomes in MLflow: a run of its own, nested in one parent per configuration.

The parent carries every parameter and, as `<stage>.<name>`, the metrics and curves of all stages, so
that MLflow's compare view has one row per experiment. Works with a server and with a database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from webdistill.harness.records import (
    ComparisonCell,
    ComparisonTable,
    Record,
    StageRun,
    Workspace,
)
from webdistill.tracking import links, model, summary
from webdistill.tracking import store as stores
from webdistill.tracking.links import CACHED_TAG, STAGE_TAG
from webdistill.tracking.store import COST, NOTE_TAG, PARENT_TAG, Store

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

    from webdistill.tracking.links import Source

KEY_TAG = "webdistill.key"
RECORD_TAG = "webdistill.record"


def replay(store: Store, key: str, record: Record) -> None:
    """Write one record: its own run, and its share of the parent run. Safe to repeat at any point."""
    parent = stores.find_or_create(
        store,
        KEY_TAG,
        record.parent_key,
        name=record.name,
        start_time=stores.milliseconds(record.started),
        tags={**record.tags, summary.KIND_TAG: summary.kind(record)},
    )
    match record:
        case ComparisonTable():
            _update(store, parent, parent, record, record.parent_params)
        case ComparisonCell():
            tags = {**record.tags, PARENT_TAG: parent.info.run_id, STAGE_TAG: record.cell}
            start = stores.milliseconds(record.started)
            own = stores.find_or_create(
                store, RECORD_TAG, record.key, name=record.cell, start_time=start, tags=tags
            )
            _update(store, parent, own, record, record.params)
        case Workspace():
            below = stores.find(store, {PARENT_TAG: parent.info.run_id})
            if isinstance(record, StageRun):
                _stage(store, parent, below, key, record)
            else:
                _share(store, parent, below, record)


def _stage(store: Store, parent: Run, below: list[Run], key: str, record: StageRun) -> None:
    """A stage that ran: everything of its own, and its figures to the parent when it came to its end."""
    own = next((run for run in below if run.data.tags.get(RECORD_TAG) == key), None)
    data = {"input": record.inputs, "output": record.outputs}
    if own is None:
        tags = {
            **record.tags,
            PARENT_TAG: parent.info.run_id,
            STAGE_TAG: record.stage,
            RECORD_TAG: key,
        }
        start = stores.milliseconds(record.started)
        own = stores.create(store, name=record.stage, start_time=start, tags=tags)
    elif own.info.status != "RUNNING":  # all of it has arrived
        return
    run, metrics = own.info.run_id, metrics_of(record)
    tags = {**stores.data_tags(**data), NOTE_TAG: summary.told(record, metrics, parent)}
    stores.log(store, own, params=record.params, metrics=metrics, tags=tags)
    stores.log_data(store, run, **data)
    for path in model.other_artifacts(record):
        store.client.log_artifact(run, str(path))
    below = links.settle(store, below, record)
    found = _share(store, parent, below, record, own, metrics)
    if model.belongs_to(record):
        model.register(store, own, record, found)
    ended = stores.milliseconds(record.ended)  # last: a run that has ended is complete
    store.client.set_terminated(run, status=record.status, end_time=ended)


def _share(
    store: Store,
    parent: Run,
    below: list[Run],
    record: Workspace,
    own: Run | None = None,
    metrics: Sequence[Metric] = (),
) -> list[Source]:
    """The parent's: parameters, figures of the stage and of those that DVC skipped, note, state. -> what was skipped"""
    found = links.sources(store, record, below)
    below = list({run.info.run_id: run for run in [*below, *([own] if own else [])]}.values())
    figures = []
    for source in found:
        if source.linked(parent):
            below.append(links.show(store, parent, below, source, record))
        figures += links.figures_of(store, parent, source, record)
    if isinstance(record, StageRun) and record.status == "FINISHED":
        figures += stores.named(metrics, record.stage)
        figures += summary.minutes(record, found)
    figures += summary.headline(figures)
    values = {**parent.data.metrics, **{metric.key: metric.value for metric in figures}}
    tags = {NOTE_TAG: summary.note(store, parent, record, values, below)}
    stores.log(store, parent, params=record.parent_params, metrics=figures, tags=tags)
    _close(store, parent, below, record, own)
    return found


def _update(
    store: Store,
    parent: Run,
    run: Run,
    record: ComparisonTable | ComparisonCell,
    params: Mapping[str, object],
) -> None:
    """A run that may have been told before."""
    metrics = metrics_of(record)
    tags = {NOTE_TAG: summary.told(record, metrics, parent)}
    stores.log(store, run, params=params, metrics=metrics, tags=tags)
    for path in record.artifacts:
        if path.is_file():
            store.client.log_artifact(run.info.run_id, str(path))
    end = stores.milliseconds(record.ended)
    store.client.set_terminated(run.info.run_id, status="FINISHED", end_time=end)


def _close(store: Store, parent: Run, below: list[Run], record: Workspace, own: Run | None) -> None:
    """End the parent. It has failed as long as the last attempt at one of its stages has, told in any order."""
    ended = stores.milliseconds(record.ended)
    last: dict[str, tuple[int, str]] = {}  # of a stage: when it was tried or linked, how it went
    for run in below:
        went = "FINISHED" if CACHED_TAG in run.data.tags else run.info.status
        if run is own and isinstance(record, StageRun):
            went = record.status
        stage = run.data.tags.get(STAGE_TAG) or run.data.tags.get(CACHED_TAG)
        if stage and went != "RUNNING":
            last[stage] = max(last.get(stage, (0, "")), (run.info.start_time, went))
    failed = any(went == "FAILED" for _, went in last.values())
    store.client.set_terminated(
        parent.info.run_id,
        status="FAILED" if failed else "FINISHED",
        end_time=max((run.info.end_time or ended for run in below), default=ended),
    )


def metrics_of(record: Record) -> list[Metric]:
    """Metrics and curve points; raises TypeError or ValueError for what is not a number."""
    from mlflow.entities import Metric

    end = stores.milliseconds(record.ended)  # fixed: repeated points are the same points to MLflow
    points: list[tuple[str, float, int, int]] = []
    match record:
        case ComparisonTable() | ComparisonCell():
            points += [(name, value, end, 0) for name, value in record.metrics.items()]
        case StageRun():
            single = {
                key: value for key, value in record.metrics.items() if key not in record.curves
            }
            single |= {f"{COST}{key}": value for key, value in record.track_metrics.items()}
            points += [(name, value, end, 0) for name, value in single.items()]
            points += _curve_points(record)
    return [
        Metric(stores.clean(name), float(value), when, step) for name, value, when, step in points
    ]


def _curve_points(record: StageRun) -> Iterator[tuple[str, float, int, int]]:
    """Spread over the run: some of MLflow's charts have time as their axis."""
    for name, curve in record.curves.items():
        for at, (step, value) in enumerate(curve, 1):
            share = (record.ended - record.started) * at / len(curve)
            yield name, value, stores.milliseconds(record.started + share), int(step)
