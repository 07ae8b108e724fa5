"""What a spooled record becomes in MLflow: a run of its own, nested in one parent per configuration.

The parent carries every parameter and, as `<stage>.<name>`, the metrics and curves of all stages, so
that MLflow's compare view has one row per experiment. Works with a server and with a database.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from webdistill.core import tracking
from webdistill.core.tracking import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run

T = TypeVar("T")
EXPERIMENT = "webdistill"
KEY_TAG = "webdistill.key"
RECORD_TAG = "webdistill.record"
PARENT_TAG = "mlflow.parentRunId"
METRICS_PER_CALL = 1000  # from here on: MLflow's limits
PARAMS_PER_CALL = 100
KEY_LENGTH = 250
NAME_LENGTH = 500
DIGEST_LENGTH = 36
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
_NAME = re.compile(r"[^\w\-. :/]", re.ASCII)


def connect(root: Path) -> tuple[MlflowClient, str]:
    """A client for the project's tracking store, and the id of the project's experiment."""
    _restrain_mlflow()
    from mlflow import MlflowClient

    uri = _address(root)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    return client, _experiment(client, root)


def _experiment(client: MlflowClient, root: Path) -> str:
    """The id of the project's experiment, made or brought back from the bin as needed."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        local = not os.environ.get("MLFLOW_TRACKING_URI")
        place = (root / "mlruns").as_uri() if local else None
        return str(client.create_experiment(name, artifact_location=place))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _address(root: Path) -> str:
    """The store's address; a password in it moves to where MLflow reads it and no message prints it."""
    uri = tracking.store_uri(root)
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _restrain_mlflow() -> None:
    """No telemetry, no long retries, no chatter. Before MLflow is imported."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    logging.getLogger("alembic").setLevel(logging.ERROR)


def replay(client: MlflowClient, experiment: str, key: str, record: Record) -> None:
    """Write one record: its own run, and its share of the parent run. Safe to repeat at any point."""
    begun, ended = _milliseconds(record.started), _milliseconds(record.ended)
    find = partial(_find_or_create, client, experiment, start_time=begun)
    own = parent = find(KEY_TAG, record.parent_key, name=record.name, tags=record.tags)
    if record.stage:
        tags = {**record.tags, PARENT_TAG: parent.info.run_id, "webdistill.stage": record.stage}
        own = find(RECORD_TAG, record.key or key, name=record.stage, tags=tags)
    shared = bool(record.stage) and not record.key  # told to the parent too
    if shared and own.info.status != "RUNNING":
        return
    run, above = own.info.run_id, parent.info.run_id
    _log_params(client, own, {**record.task, **record.params})
    _log_params(client, parent, record.parent_params)
    metrics = metrics_of(record)
    _log_metrics(client, run, metrics)
    if shared:
        _log_metrics(client, above, metrics, prefix=f"{record.stage}.")
    _log_data(client, run, record)
    for path in record.artifacts:
        if path.is_file():
            client.log_artifact(run, str(path))
    for each in (above, run) if shared else (run,):  # its own last: one that has ended is complete
        client.set_terminated(each, status=record.status, end_time=ended)


def _find_or_create(
    client: MlflowClient,
    experiment: str,
    tag: str,
    value: str,
    *,
    name: str,
    start_time: int,
    tags: Mapping[str, str],
) -> Run:
    """The oldest run whose `tag` is `value`, made if there is none."""

    def search() -> list[Run]:
        query = f"tags.`{tag}` = '{value}'"
        runs = client.search_runs([experiment], query, order_by=["attributes.start_time ASC"])
        return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    if found := search():
        return found[0]
    labels = {k: v[:TAG_LENGTH] for k, v in {**tags, tag: value}.items()}
    made = client.create_run(experiment, start_time=start_time, tags=labels, run_name=name)
    first = next(iter(search()), made)
    if first.info.run_id != made.info.run_id:  # another machine was quicker
        client.delete_run(made.info.run_id)
    return first


def metrics_of(record: Record) -> list[Metric]:
    """Metrics and curve points; raises TypeError or ValueError for what is not a number."""
    from mlflow.entities import Metric

    stamp = _milliseconds(record.ended)  # fixed: repeated points are the same points to MLflow
    single = {**record.metrics, **record.track_metrics}
    points = [(name, 0, value) for name, value in single.items()]
    points += [(name, *point) for name, curve in record.curves.items() for point in curve]
    return [Metric(_name(name), float(value), stamp, int(step)) for name, step, value in points]


def _log_metrics(client: MlflowClient, run: str, metrics: list[Metric], prefix: str = "") -> None:
    from mlflow.entities import Metric

    named = [Metric(_name(prefix + m.key), m.value, m.timestamp, m.step) for m in metrics]
    for part in _parts(named, METRICS_PER_CALL):
        client.log_batch(run, metrics=part)


def _log_params(client: MlflowClient, run: Run, params: Mapping[str, object]) -> None:
    """Parameters the run does not have yet; MLflow refuses to change one."""
    from mlflow.entities import Param

    named = {_name(k): v if isinstance(v, str) else json.dumps(v) for k, v in params.items()}
    missing = [Param(k, v[:PARAM_LENGTH]) for k, v in named.items() if k not in run.data.params]
    for part in _parts(missing, PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=part)


def _log_data(client: MlflowClient, run: str, record: Record) -> None:
    """Inputs and outputs as datasets, with 36 characters of the digest, and in full as tags."""
    from mlflow.entities import RunTag

    data = [("input", *item) for item in record.inputs.items()]
    data += [("output", *item) for item in record.outputs.items()]
    datasets = [_dataset(*item) for item in data]
    tags = [RunTag(_name(f"{kind} {path}"), digest) for kind, path, digest in data]
    for part in _parts(tags, PARAMS_PER_CALL):
        client.log_batch(run, tags=part)
    for group in _parts(datasets, PARAMS_PER_CALL):
        client.log_inputs(run, datasets=group)


def _dataset(kind: str, path: str, digest: str) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": path})
    name, short = path[:NAME_LENGTH], digest[:DIGEST_LENGTH] or "none"
    data = Dataset(name, short, source_type="local", source=source)
    return DatasetInput(data, [InputTag("mlflow.data.context", kind)])


def _name(text: str) -> str:
    """`text` as MLflow allows it for a name: its alphabet, its length, no `//`, no leading `/` or `.`"""
    return posixpath.normpath(_NAME.sub("_", text)[:KEY_LENGTH]).lstrip("./") or "_"


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _parts(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
