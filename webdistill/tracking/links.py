"""Stages that DVC skipped: which run made their outputs, and how the experiment shows it.

A run is known by what it made: its tags `output <path>` hold the hashes that DVC has in dvc.lock. From what a stage
read we walk upstream to `search`. What was not made under this experiment appears below it as `<stage> (cached)`, with
a link to the run that made it; the experiment gets the figures of every stage, run or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from webdistill.harness import dvc_lock
from webdistill.harness.params import STAGES
from webdistill.harness.records import StageRun, Workspace
from webdistill.tracking import store as stores
from webdistill.tracking.store import COST, NOTE_TAG, PARENT_TAG, Store

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

    def linked(self, parent: Run) -> bool:
        """Whether it was not made under this experiment."""
        return self.maker is None or self.maker.data.tags.get(PARENT_TAG) != parent.info.run_id


@dataclass(frozen=True)
class Locked:
    """A stage as dvc.lock has it; path -> digest."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def sources(store: Store, record: Workspace, below: Sequence[Run]) -> list[Source]:
    """The stages upstream of a record, the last first; of a workspace, all that its lock has.

    `below` are the runs of the record's experiment: made there counts before made elsewhere.
    """
    lock = read_lock(record.lock)
    wanted: dict[str, dict[str, str]] = {}

    def want(inputs: Mapping[str, str]) -> None:
        for path, digest in inputs.items():
            if stage := made_by(path, "cell" in record.tags):
                wanted.setdefault(stage, {}).setdefault(path, digest)  # the nearer reader is right

    if isinstance(record, StageRun):
        want(record.inputs)
    else:
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
        maker = _maker(store, stage, outputs, below)
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


def _maker(
    store: Store, stage: str, outputs: Mapping[str, str], below: Sequence[Run]
) -> Run | None:
    """The run that made exactly this: one of the experiment if there is one, else the oldest."""
    tags = {stores.data_tag("output", path): digest for path, digest in outputs.items()}
    tags[STAGE_TAG] = stage
    for run in below:
        if run.info.status == "FINISHED" and tags.items() <= run.data.tags.items():
            return run
    key = frozenset(tags.items())
    if key not in store.found and (runs := stores.find_finished(store, tags)):
        store.found[key] = runs[0]
    return store.found.get(key)


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


def figures_of(store: Store, parent: Run, source: Source, record: Workspace) -> list[Metric]:
    """Figures of a source that the experiment does not show yet."""
    stamp = stores.milliseconds(record.ended)
    points = []
    for key, value in _figures(source).items():
        if parent.data.metrics.get(stores.of_stage(source.stage, key)) != value:
            points += _history(store, source.maker, key, value, stamp)
    return stores.named(points, source.stage)


def _figures(source: Source) -> dict[str, float]:
    """The last values of what was measured; not what it took, for now it took nothing."""
    if source.maker is None:
        return dict(source.measured)
    values = source.maker.data.metrics.items()
    return {key: value for key, value in values if not key.startswith(COST)}


def _history(store: Store, maker: Run | None, key: str, value: float, stamp: int) -> list[Metric]:
    """A curve as it was, or one value as of now: the newest one counts."""
    from mlflow.entities import Metric

    curves = {m.key for m in maker.data.to_proto().metrics if m.step} if maker is not None else ()
    if maker is not None and key in curves:
        return list(store.client.get_metric_history(maker.info.run_id, key))
    return [Metric(key, value, stamp, 0)]


def show(store: Store, parent: Run, below: Sequence[Run], source: Source, record: Workspace) -> Run:
    """The child run `<stage> (cached)` of a source that was made elsewhere. Safe to repeat.

    There is one per stage and experiment; it is brought up to date if it names another maker.
    """
    from mlflow.entities import Metric

    key, when = _key(record, source.stage), stores.milliseconds(record.ended)
    maker = source.maker.info.run_id if source.maker is not None else UNKNOWN
    link = next((run for run in below if run.data.tags.get(LINK_TAG) == key), None)
    if link is None:
        tags = {
            **record.tags,
            PARENT_TAG: parent.info.run_id,
            CACHED_TAG: source.stage,
            LINK_TAG: key,
        }
        link = stores.create(store, name=f"{source.stage} (cached)", start_time=when, tags=tags)
    known = link.data.tags
    same = _tagged(link, "output ") == {
        stores.clean(path): digest for path, digest in source.outputs.items()
    }
    if link.info.status != "RUNNING" and known.get(MAKER_TAG) == maker and same:
        return link
    figures = [Metric(stores.clean(key), value, when, 0) for key, value in _figures(source).items()]
    tags = stores.data_tags(output=source.outputs)
    tags |= {MAKER_TAG: maker, NOTE_TAG: _note(store, source)}
    stores.log(store, link, metrics=figures, tags=tags)
    stores.log_data(store, link.info.run_id, output=source.outputs)
    store.client.set_terminated(link.info.run_id, status="FINISHED", end_time=when)
    return link


def settle(store: Store, below: list[Run], record: StageRun) -> list[Run]:
    """The stage ran below this parent after all; its record came late, and a link took its place meanwhile."""
    wrong = {LINK_TAG: _key(record, record.stage), MAKER_TAG: UNKNOWN}
    for link in below:
        if wrong.items() <= link.data.tags.items():
            store.client.delete_run(link.info.run_id)
    return [link for link in below if not wrong.items() <= link.data.tags.items()]


def _key(record: Workspace, stage: str) -> str:
    return f"{record.parent_key} {stage}"


def _note(store: Store, source: Source) -> str:
    """Markdown for the link's page."""
    if source.maker is None:
        known = (
            f"The metrics are those of `data/{source.stage}/metrics.json`, which belongs to these outputs by dvc.lock."
            if source.measured
            else "Its metrics are unknown."
        )
        return (
            f"DVC had the outputs of `{source.stage}`. The run that made them is not in this tracking store: it went "
            f"to another one, or has not arrived yet. {known}"
        )
    above, name = source.maker.data.tags.get(PARENT_TAG), source.stage
    if above is not None:
        if above not in store.found:
            store.found[above] = store.client.get_run(above)
        name = store.found[above].info.run_name
    where = address(source.maker)
    return f"DVC had the outputs of `{source.stage}`; [the run that made them]({where}) belongs to *{name}*."


def address(run: Run) -> str:
    """Of a run's page, within MLflow's pages."""
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
