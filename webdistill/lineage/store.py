"""The project's tracking store, and the few things done there: find or make a run, log to it in batches."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from webdistill.core import tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run

T = TypeVar("T")
EXPERIMENT = "webdistill"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
KIND_TAG, TRAINING = "mlflow.experimentKind", "custom_model_development"  # else shown as GenAI
COST = "system/"  # what a run took: MLflow shows it apart, as system metrics
METRICS_PER_CALL = 1000  # from here on: MLflow's limits
PARAMS_PER_CALL = 100
KEY_LENGTH = 250
NAME_LENGTH = 500
DIGEST_LENGTH = 36  # as long as DVC's hash of a folder
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
_NAME = re.compile(r"[^\w\-. :/]", re.ASCII)


class Store(NamedTuple):
    """A client, and the id of the project's experiment."""

    client: MlflowClient
    experiment: str


def connect(root: Path) -> Store:
    """The tracking store of the project in `root`; it is made if there is none."""
    _restrain_mlflow()
    from mlflow import MlflowClient

    uri = _address(root)
    with _alone(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return Store(client, _experiment(client, root))


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Two that create one SQLite database at the same time would both fail: the second waits."""
    place = Path(uri.removeprefix("sqlite:///")).parent
    if not uri.startswith("sqlite:///") or not place.is_dir():
        yield
        return
    folder = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _experiment(client: MlflowClient, root: Path) -> str:
    """The id of the project's experiment, made or brought back from the bin as needed."""
    name = experiment_name()
    found = client.get_experiment_by_name(name)
    if found is None:
        local = not os.environ.get("MLFLOW_TRACKING_URI")
        place = (root / "mlruns").as_uri() if local else None
        tags = {KIND_TAG: TRAINING}
        return str(client.create_experiment(name, artifact_location=place, tags=tags))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if KIND_TAG not in found.tags:
        client.set_experiment_tag(found.experiment_id, KIND_TAG, TRAINING)
    return str(found.experiment_id)


def experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


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
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.getLogger("alembic").setLevel(logging.ERROR)


def find(store: Store, tags: Mapping[str, str], *, finished: bool = False) -> list[Run]:
    """Runs with all these tags, the oldest first."""
    terms = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    if finished:
        terms.append("attributes.status = 'FINISHED'")
    runs = store.client.search_runs(
        [store.experiment], " and ".join(terms), order_by=["attributes.start_time ASC"]
    )
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def find_or_create(
    store: Store, tag: str, value: str, *, name: str, start_time: int, tags: Mapping[str, str]
) -> Run:
    """The oldest run whose `tag` is `value`, made if there is none."""
    if found := find(store, {tag: value}):
        return found[0]
    labels = {k: v[:TAG_LENGTH] for k, v in {**tags, tag: value}.items()}
    made = store.client.create_run(
        store.experiment, start_time=start_time, tags=labels, run_name=name
    )
    first = next(iter(find(store, {tag: value})), made)
    if first.info.run_id != made.info.run_id:  # another machine was quicker
        store.client.delete_run(made.info.run_id)
    return first


def log_metrics(store: Store, run: str, metrics: Sequence[Metric], stage: str = "") -> None:
    """Write metrics to a run; to a parent, as those of one of its stages."""
    from mlflow.entities import Metric

    named = [Metric(of_stage(stage, m.key), m.value, m.timestamp, m.step) for m in metrics]
    for part in parts(named, METRICS_PER_CALL):
        store.client.log_batch(run, metrics=part)


def of_stage(stage: str, metric: str) -> str:
    """`loss` of distill -> `distill.loss`, `system/seconds` -> `system/distill.seconds`; as it is without a stage."""
    if not stage:
        return clean(metric)
    if metric.startswith(COST):
        return clean(f"{COST}{stage}.{metric.removeprefix(COST)}")
    return clean(f"{stage}.{metric}")


def log_params(store: Store, run: Run, params: Mapping[str, object]) -> None:
    """Parameters the run does not have yet; MLflow refuses to change one."""
    from mlflow.entities import Param

    named = {clean(k): v if isinstance(v, str) else json.dumps(v) for k, v in params.items()}
    missing = [Param(k, v[:PARAM_LENGTH]) for k, v in named.items() if k not in run.data.params]
    for part in parts(missing, PARAMS_PER_CALL):
        store.client.log_batch(run.info.run_id, params=part)


def log_tags(store: Store, run: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    named = [RunTag(clean(key), value[:TAG_LENGTH]) for key, value in tags.items()]
    for part in parts(named, PARAMS_PER_CALL):
        store.client.log_batch(run, tags=part)


def log_data(store: Store, run: str, kind: str, digests: Mapping[str, str]) -> None:
    """Files as datasets, and as tags `<kind> <path>`, by which they are found."""
    log_tags(store, run, {data_tag(kind, path): digest for path, digest in digests.items()})
    datasets = [_dataset(kind, *item) for item in digests.items()]
    for group in parts(datasets, PARAMS_PER_CALL):
        store.client.log_inputs(run, datasets=group)


def data_tag(kind: str, path: str) -> str:
    return clean(f"{kind} {path}")


def _dataset(kind: str, path: str, digest: str) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": path})
    name, short = path[:NAME_LENGTH], digest[:DIGEST_LENGTH] or "none"
    data = Dataset(name, short, source_type="local", source=source)
    return DatasetInput(data, [InputTag("mlflow.data.context", kind)])


def clean(text: str) -> str:
    """`text` as MLflow allows it for a name: its alphabet, its length, no `//`, no leading `/` or `.`"""
    return posixpath.normpath(_NAME.sub("_", text)[:KEY_LENGTH]).lstrip("./") or "_"


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def parts(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
