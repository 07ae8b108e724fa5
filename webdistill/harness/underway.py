"""A run from its lock to its record: it has its work folder to itself, publishes all or nothing, and tells tracking."""

from __future__ import annotations

import contextlib
import fcntl
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from webdistill.core import files
from webdistill.core.errors import UserError
from webdistill.engine.running import RankDoneError
from webdistill.harness import spool
from webdistill.harness.records import StageRun

if TYPE_CHECKING:
    from webdistill.harness.stage import Stage


def carry_out(stage: Stage, main: Callable[[Stage], None], *, shared: bool = False) -> None:
    """Call `main` and publish what it wrote; exits with 1 and a traceback at a defect.

    Arguments:
        shared: with the other ranks of an array job, which work in the same folder.

    Raises:
        UserError: `main` has, the disk is full, or another run of the stage is under way.
    """
    with files.room_on_disk(stage.work), _locked(stage.work, shared=shared):
        _carry_out(stage, main)


@contextlib.contextmanager
def _locked(work: Path, *, shared: bool) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run of stage '{work.name}' is under way in this folder; wait for it"
            ) from None
        yield


def _carry_out(stage: Stage, main: Callable[[Stage], None]) -> None:
    started = time.time()
    stage.discard()
    status, outputs = "FAILED", {}
    try:
        with files.room_on_disk(stage.work):
            main(stage)
            outputs = stage.publish()
        status = "FINISHED"
    except RankDoneError as done:
        status = "RANK"
        stage.log(str(done))
    except UserError:
        raise
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        stage.discard()
        if status != "RANK":  # which is no run of the stage
            spool.submit(record(stage, started, status, outputs), stage.root / ".work" / "spool")
    stage.log(f"done in {time.time() - started:.1f} s")


def record(stage: Stage, started: float, status: str, outputs: Mapping[str, str]) -> StageRun:
    """The record of this run for tracking, as plain data; `outputs`: path -> DVC's hash, as from `publish`."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    flat = stage.settings.flat()
    ended = time.time()
    lock, measured = spool.locked(stage.root) if stage.places.cell is None else ("", {})
    return StageRun(
        stage=stage.name,
        params={k: v for k, v in flat.items() if k.split(".")[0] in (stage.name, "task")},
        parent_key=spool.experiment_key(flat, stage.root),
        parent_params=flat,
        inputs=dict(stage.hashes),
        outputs=dict(outputs),
        lock=lock,
        measured=measured,
        metrics=dict(stage.metric_values),
        track_metrics={
            **stage.track_values,
            "seconds": ended - started,
            "peak_memory_mib": memory,
        },
        curves=stage.curves,
        artifacts=stage.artifacts,
        tags=stage.tags,
        started=started,
        ended=ended,
        status=status,
    )
