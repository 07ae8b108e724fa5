"""What a spooled record becomes in MLflow: a run of its own, nested in one parent per configuration.

The parent carries every parameter and, as `<stage>.<name>`, the metrics and curves of all stages, so
that MLflow's compare view has one row per experiment. Works with a server and with a database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from webdistill.core.tracking import Record
from webdistill.lineage import links, model, summary
from webdistill.lineage import store as stores
from webdistill.lineage.links import CACHED_TAG, STAGE_TAG
from webdistill.lineage.store import COST, NOTE_TAG, PARENT_TAG, Store

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

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
    if record.key or not (record.stage or record.lock):
        _comparison(store, parent, record)
        return
    own = _child(store, parent, key, record) if record.stage else None
    if own is not None and own.info.status != "RUNNING":
        return
    stores.log_params(store, parent, record.parent_params)
    if own is not None:
        _stage(store, parent, own, record)
        links.settle(store, record)
    found = links.sources(store, record, parent.info.run_id)
    for source in found:
        links.show(store, parent, source, record)
    if own is not None and model.belongs_to(record):
        model.register(store, own, record, found)
    _close(store, parent, own, record)


def _child(store: Store, parent: Run, key: str, record: Record) -> Run:
    tags = {**record.tags, PARENT_TAG: parent.info.run_id, STAGE_TAG: record.stage}
    start = stores.milliseconds(record.started)
    return stores.find_or_create(
        store, RECORD_TAG, record.key or key, name=record.stage, start_time=start, tags=tags
    )


def _stage(store: Store, parent: Run, own: Run, record: Record) -> None:
    """A stage that ran: everything of its own, and its figures to the parent when it came to its end."""
    run, metrics = own.info.run_id, metrics_of(record)
    stores.log_params(store, own, {**record.task, **record.params})
    stores.log_metrics(store, run, metrics)
    if record.status == "FINISHED":
        stores.log_metrics(store, parent.info.run_id, metrics, record.stage)
    stores.log_data(store, run, "input", record.inputs)
    stores.log_data(store, run, "output", record.outputs)
    for path in model.other_artifacts(record):
        store.client.log_artifact(run, str(path))


def _comparison(store: Store, parent: Run, record: Record) -> None:
    """The parent's own figures, or those of one of its cells, brought up to date."""
    own = _child(store, parent, record.key, record) if record.stage else parent
    run = own.info.run_id
    stores.log_params(store, own, {**record.task, **record.params})
    stores.log_params(store, parent, record.parent_params)
    stores.log_metrics(store, run, metrics_of(record))
    for path in record.artifacts:
        if path.is_file():
            store.client.log_artifact(run, str(path))
    end = stores.milliseconds(record.ended)
    store.client.set_terminated(run, status=record.status, end_time=end)


def _close(store: Store, parent: Run, own: Run | None, record: Record) -> None:
    """End the runs. A parent has failed as long as the last attempt at one of its stages has, told in any order."""
    above = parent.info.run_id
    end = stores.milliseconds(record.ended) if own is not None else 0
    last: dict[
        str, tuple[int, str]
    ] = {}  # of a stage: when it was tried or linked, and how it went
    for run in stores.find(store, {PARENT_TAG: above}):
        end = max(end, run.info.end_time or 0)
        mine = own is not None and run.info.run_id == own.info.run_id
        stage = run.data.tags.get(STAGE_TAG) or run.data.tags.get(CACHED_TAG)
        if stage and (mine or run.info.status != "RUNNING"):
            status = record.status if mine else run.info.status
            last[stage] = max(last.get(stage, (0, "")), (run.info.start_time, status))
    failed = any(status == "FAILED" for _, status in last.values())
    stores.log_tags(store, above, {NOTE_TAG: summary.note(store, store.client.get_run(above))})
    store.client.set_terminated(above, status="FAILED" if failed else "FINISHED", end_time=end)
    if own is not None:  # last: a run that has ended is complete
        ended = stores.milliseconds(record.ended)
        store.client.set_terminated(own.info.run_id, status=record.status, end_time=ended)


def metrics_of(record: Record) -> list[Metric]:
    """Metrics and curve points; raises TypeError or ValueError for what is not a number."""
    from mlflow.entities import Metric

    end = stores.milliseconds(record.ended)  # fixed: repeated points are the same points to MLflow
    single = {key: value for key, value in record.metrics.items() if key not in record.curves}
    single |= {f"{COST}{key}": value for key, value in record.track_metrics.items()}
    points = [(name, value, end, 0) for name, value in single.items()]
    for name, curve in record.curves.items():
        for at, (step, value) in enumerate(
            curve, 1
        ):  # spread: some of MLflow's charts have time as their axis
            share = (record.ended - record.started) * at / len(curve)
            points.append((name, value, stores.milliseconds(record.started + share), int(step)))
    return [
        Metric(stores.clean(name), float(value), when, step) for name, value, when, step in points
    ]
