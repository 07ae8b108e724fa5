"""Have a task done to all shards by the engine that the environment names."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from webdistill.core import files
from webdistill.core.errors import UserError
from webdistill.engine import choice, machine
from webdistill.engine.jobs import Job, Task, perform, whole
from webdistill.harness.progress import progress
from webdistill.harness.wording import plural

if TYPE_CHECKING:
    from webdistill.harness.stage import Stage


RANKS = "array.json"  # what kind of machine the first rank of an array job is
_AGAIN = f"or remove {RANKS} beside the shards when all ranks have changed"


class RankDoneError(Exception):
    """A rank of an array job has done its share, and the stage ends without publishing anything."""


def run(stage: Stage, task: Task, jobs: Sequence[Job], cpus: int = 1) -> None:
    """Afterwards every job's target is there. `cpus`: what one shard needs of a worker, where bytes depend on it.

    Raises RankDoneError in an array job.
    """
    engine = choice.chosen()
    stage.tags["engine"] = engine
    rank, ranks = choice.rank() if engine == "array" else (0, 1)
    if other := _other(stage.work / RANKS, task, begin=engine == "array"):
        if engine == "array":
            raise UserError(
                f"this rank would compute other bytes than the first: {other}; {_AGAIN}"
            )
        stage.log(
            f"an array job computed other bytes than this machine does: {other}; its shards are made again"
        )
    mine = jobs[rank::ranks]
    todo = [job for job in mine if not whole(job.target)]
    if len(todo) < len(mine):
        done = len(mine) - len(todo)
        stage.log(f"an earlier run finished {done} of {plural(len(mine), 'shard')}")
    note: Callable[[], str] = str
    steps: Iterator[int] = (
        step for job in todo for step in perform(task.here, job.shard, job.target)
    )
    if engine == "ray" and todo:
        from webdistill.engine.cluster import Cluster

        cluster = Cluster(stage, task, cpus)
        steps, note = cluster.map(todo), cluster.note
    total = sum(job.images for job in todo)
    for _ in progress(steps, total=total, unit="img", label=stage.name, size=int, note=note):
        pass
    if engine == "array":
        raise RankDoneError(
            f"rank {rank} of {ranks} has finished its {len(mine)} of {plural(len(jobs), 'shard')}; "
            f"`dvc repro {stage.name}` takes them from here"
        )
    stage.when_published(lambda: files.remove(stage.work / RANKS))


def _other(path: Path, task: Task, *, begin: bool) -> str:
    """How this machine differs from that of the first rank. `begin`: it may be the first one, and says what it is."""
    facts = machine.facts(task.facts.get("device"))
    if begin:
        own = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
        files.write_json(facts, own)
        with suppress(FileExistsError):
            os.link(own, path)  # in one step: several ranks start at once
        files.remove(own)
    return machine.difference(files.read_json(path), facts) if path.exists() else ""
