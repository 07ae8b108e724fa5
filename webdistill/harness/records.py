"""What tracking gets to know, one kind of record for each thing that can be told; as JSON, each with its kind.

Times in seconds since the epoch; a digest is DVC's hash, as in dvc.lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Record:
    """What all kinds say of the parent run that they belong to."""

    parent_key: str  # equal for all stages of one configuration: `spool.experiment_key`
    started: float
    ended: float
    name: str = ""  # of the parent run; empty: `spool.write` makes one of the parameters
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Sequence[Path] = ()  # copied by `spool.write`
    kind: ClassVar[str]

    @property
    def subject(self) -> str:
        """For people who look into the spool."""
        return self.kind


@dataclass(frozen=True, kw_only=True)
class Workspace(Record):
    """A workspace as it stands, though nothing ran: every stage in the lock made what is there, whoever ran it."""

    kind = "workspace"
    parent_params: Mapping[str, object]  # every section, flattened: {"filter.min_score": "0.2"}
    lock: str = ""  # text of dvc.lock: what made the inputs
    measured: Mapping[str, str] = field(default_factory=dict)  # stage -> text of its metrics.json


@dataclass(frozen=True, kw_only=True)
class StageRun(Workspace):
    """One run of one stage, in the workspace that it found."""

    kind = "stage"
    stage: str
    status: str  # "FINISHED" or "FAILED"
    params: Mapping[str, object]  # the stage's own
    inputs: Mapping[str, str] = field(default_factory=dict)  # path -> digest
    outputs: Mapping[str, str] = field(default_factory=dict)  # path -> digest
    metrics: Mapping[str, float] = field(default_factory=dict)
    track_metrics: Mapping[str, float] = field(default_factory=dict)  # durations, memory
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)  # (step, value)

    @property
    def subject(self) -> str:
        return self.stage


@dataclass(frozen=True, kw_only=True)
class ComparisonTable(Record):
    """The table of a comparison, each time it is made: metrics and artifacts of the parent run itself."""

    kind = "comparison"
    parent_params: Mapping[str, object]  # what the cells have in common
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ComparisonCell(Record):
    """One arm with one seed: a run below the comparison's, brought up to date when it comes again."""

    kind = "cell"
    cell: str  # `<arm>-<seed>`
    key: str  # of the run
    params: Mapping[str, object]
    metrics: Mapping[str, float]

    @property
    def subject(self) -> str:
        return self.cell


KINDS = {each.kind: each for each in (StageRun, Workspace, ComparisonTable, ComparisonCell)}


def to_json(record: Record) -> dict[str, Any]:
    return {**asdict(record), "kind": record.kind}


def from_json(content: Mapping[str, Any]) -> Record:
    """Raises TypeError or KeyError for what is no record."""
    if "kind" not in content:
        return _untyped(content)
    return KINDS[content["kind"]](**{k: v for k, v in content.items() if k != "kind"})


def _untyped(content: Mapping[str, Any]) -> Record:
    """Of a version whose records had one type, and told their kind by what was empty."""
    kind: type[Record]
    if content["key"]:
        kind = ComparisonCell
    elif content["stage"]:
        kind = StageRun
    else:
        kind = Workspace if content["lock"] else ComparisonTable
    renamed = {"cell": content["stage"], "params": {**content["task"], **content["params"]}}
    known = {each.name for each in fields(kind)}
    return kind(**{k: v for k, v in {**content, **renamed}.items() if k in known})
