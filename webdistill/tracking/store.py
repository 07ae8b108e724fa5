"""The project's tracking store, and the few things done there: find or make a run, log to it in batches."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from webdistill.harness import spool
from webdistill.tracking import view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Experiment, Metric, Run

T = TypeVar("T")
EXPERIMENT = "webdistill"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
KIND_TAG, TRAINING = "mlflow.experimentKind", "custom_model_development"  # else shown as GenAI
TAGS = {KIND_TAG: TRAINING, view.TAG: view.STATE, view.FIRST_TAG: view.FIRST}  # of the experiment
COST = "system/"  # what a run took: MLflow shows it apart, as system metrics
PER_CALL = {"params": 100, "tags": 100, "metrics": 1000}  # from here on: MLflow's limits
ENTITIES_PER_CALL = 1000
DATASETS_PER_CALL = 100
KEY_LENGTH = 250
NAME_LENGTH = 500
DIGEST_LENGTH = 36  # as long as DVC's hash of a folder
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
_NAME = re.compile(r"[^\w\-. :/]", re.ASCII)


class Store(NamedTuple):
    """A client, the id of the project's experiment, those of others that came with a copied database, and why."""

    client: MlflowClient
    experiment: str
    others: Sequence[str]
    notice: str
    found: dict[object, Run]  # answers that one flush needs more than once
    before: dict[str, Run | None]  # run id of an experiment -> the experiment before it


def connect(root: Path) -> Store:
    """The tracking store of the project in `root`; it is made if there is none."""
    _restrain_mlflow()
    from mlflow import MlflowClient

    uri = _address(root)
    with _alone(uri):
        _create(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return _experiment(client, uri, root.resolve())


@contextlib.contextmanager
def bound(store: Store) -> Iterator[None]:
    """This store as the process's own: MLflow asks the environment, not its client, what `models:/` stands for."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, store.client.tracking_uri))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _file(uri: str) -> Path | None:
    """Of an SQLite database."""
    dialect, separator, file = uri.partition(":///")
    return Path(file.partition("?")[0]) if separator and dialect.startswith("sqlite") else None


def _create(uri: str) -> None:
    """Make an SQLite database that is not there under another name first, and move it into place when it is whole.

    MLflow makes its tables in many transactions and cannot go on where a kill has left them.
    """
    file = _file(uri)
    if file is None or file.exists() or not file.parent.is_dir():
        return
    from mlflow import MlflowClient

    new = file.with_name(f"{file.name}.new")
    for path in (new, new.with_name(f"{new.name}-journal")):
        path.unlink(missing_ok=True)
    unfinished = uri.replace(str(file), str(new), 1)
    MlflowClient(tracking_uri=unfinished, registry_uri=unfinished).search_experiments()
    os.replace(new, file)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Two that create one SQLite database at the same time would both fail: the second waits."""
    file = _file(uri)
    if file is None or not file.parent.is_dir():
        yield
        return
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _experiment(client: MlflowClient, uri: str, root: Path) -> Store:
    """The project's experiment, made or brought back from the bin as needed.

    The project's own database names folders in full. In a copy of the project they are the original's, and no run of
    the copy may write there: it gets `webdistill (2)`, or the first that lies inside.
    """
    name, own = experiment_name(), _file(uri) == root / "mlflow.db"
    others: list[Experiment] = []
    for number in itertools.count(1):
        label = name if number == 1 else f"{name} ({number})"
        found = client.get_experiment_by_name(label)
        if not (own and found is not None and _outside(found.artifact_location, root)):
            break
        others.append(found)
    notice = ""
    if others:
        notice = (
            f"mlflow.db came from another place: files of its experiment '{others[-1].name}' go to "
            f"{others[-1].artifact_location}; runs of {root} are in experiment '{label}', their files in mlruns here"
        )
    if found is None:
        ident = _made(client, label, _artifacts(uri, root), notice)
    else:
        ident = _ready(client, found)
    return Store(client, ident, [str(each.experiment_id) for each in others], notice, {}, {})


def _outside(location: str, root: Path) -> bool:
    """Whether an experiment's files go to a folder of this machine that is not in the project."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return False
    path = Path(unquote(parts.path) if parts.scheme else location)
    return not any(each.is_relative_to(root) for each in (path, path.resolve()))


def _artifacts(uri: str, root: Path) -> str | None:
    """Where the files of a new experiment go; None: the server decides, a database would take the working folder."""
    if urlsplit(uri).scheme in ("http", "https"):
        return None
    file = _file(uri)
    return ((root if file is None else file.parent) / "mlruns").as_uri()


def _made(client: MlflowClient, name: str, place: str | None, notice: str) -> str:
    tags = {**TAGS, **({NOTE_TAG: notice} if notice else {})}
    return str(client.create_experiment(name, artifact_location=place, tags=tags))


def _ready(client: MlflowClient, found: Experiment) -> str:
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    for key, value in TAGS.items():
        if found.tags.get(key) != value and not (key == KIND_TAG and key in found.tags):
            client.set_experiment_tag(found.experiment_id, key, value)
    return str(found.experiment_id)


def experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def _address(root: Path) -> str:
    """The store's address; a password in it moves to where MLflow reads it and no message prints it."""
    uri = spool.store_uri(root)
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


def find(store: Store, tags: Mapping[str, str]) -> list[Run]:
    """Runs of the project's experiment with all these tags, the oldest first."""
    return _search([store.experiment], store, _having(tags))


def find_finished(store: Store, tags: Mapping[str, str]) -> list[Run]:
    """As `find`, of those that succeeded; also in experiments that came with a copied database."""
    terms = [*_having(tags), "attributes.status = 'FINISHED'"]
    return _search([store.experiment, *store.others], store, terms)


def _having(tags: Mapping[str, str]) -> list[str]:
    return [f"tags.`{key}` = '{value}'" for key, value in tags.items()]


def _search(experiments: list[str], store: Store, terms: list[str]) -> list[Run]:
    runs = store.client.search_runs(
        experiments, " and ".join(terms), order_by=["attributes.start_time ASC"]
    )
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def find_or_create(
    store: Store, tag: str, value: str, *, name: str, start_time: int, tags: Mapping[str, str]
) -> Run:
    """The oldest run whose `tag` is `value`, made if there is none."""
    if found := find(store, {tag: value}):
        return found[0]
    made = create(store, name=name, start_time=start_time, tags={**tags, tag: value})
    first = next(iter(find(store, {tag: value})), made)
    if first.info.run_id != made.info.run_id:  # another machine was quicker
        store.client.delete_run(made.info.run_id)
    return first


def create(store: Store, *, name: str, start_time: int, tags: Mapping[str, str]) -> Run:
    labels = {key: value[:TAG_LENGTH] for key, value in tags.items()}
    return store.client.create_run(
        store.experiment, start_time=start_time, tags=labels, run_name=name
    )


def log(
    store: Store,
    run: Run,
    *,
    params: Mapping[str, object] | None = None,
    metrics: Sequence[Metric] = (),
    tags: Mapping[str, str] | None = None,
) -> None:
    """Everything in as few requests as MLflow's limits allow; parameters that the run has are left alone."""
    from mlflow.entities import Param, RunTag

    named = texts(params or {}).items()
    rows: dict[str, list[Any]] = {
        "params": [Param(key, value) for key, value in named if key not in run.data.params],
        "tags": [RunTag(clean(k), v[:TAG_LENGTH]) for k, v in (tags or {}).items()],
        "metrics": list(metrics),
    }
    while any(rows.values()):
        batch: dict[str, Any] = {}
        room = ENTITIES_PER_CALL
        for kind, limit in PER_CALL.items():
            size = min(limit, room)
            batch[kind], rows[kind] = rows[kind][:size], rows[kind][size:]
            room -= len(batch[kind])
        store.client.log_batch(run.info.run_id, **batch)


def texts(params: Mapping[str, object]) -> dict[str, str]:
    """Parameters as MLflow has them."""
    every = {clean(k): v if isinstance(v, str) else json.dumps(v) for k, v in params.items()}
    return {key: value[:PARAM_LENGTH] for key, value in every.items()}


def named(metrics: Sequence[Metric], stage: str) -> list[Metric]:
    """Metrics of a stage as those of its experiment."""
    from mlflow.entities import Metric

    return [Metric(of_stage(stage, m.key), m.value, m.timestamp, m.step) for m in metrics]


def of_stage(stage: str, metric: str) -> str:
    """`loss` of distill -> `distill.loss`, `system/seconds` -> `system/distill.seconds`."""
    if metric.startswith(COST):
        return clean(f"{COST}{stage}.{metric.removeprefix(COST)}")
    return clean(f"{stage}.{metric}")


def log_data(store: Store, run: str, **digests: Mapping[str, str]) -> None:
    """Files as datasets: `input` and `output`, path -> digest."""
    datasets = [_dataset(kind, *item) for kind, each in digests.items() for item in each.items()]
    for group in parts(datasets, DATASETS_PER_CALL):
        store.client.log_inputs(run, datasets=group)


def data_tags(**digests: Mapping[str, str]) -> dict[str, str]:
    """Files as tags `<kind> <path>`, by which they are found."""
    return {
        data_tag(kind, path): digest
        for kind, each in digests.items()
        for path, digest in each.items()
    }


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
