"""Carries spooled records to MLflow: `python -m webdistill.lineage.flush [--wait SECONDS]`.

One flush at a time holds the lock of a spool folder; a later one waits for it and then finds little
left to do. A record is removed only after all of it has arrived, and carries a unique id as a tag: a
flush that was killed, or whose server died, is simply repeated and makes no duplicate.

Exit codes: 0 the spool is empty, 1 something is left (for the next flush).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from webdistill.core import tracking
from webdistill.lineage import replay, store

if TYPE_CHECKING:
    from webdistill.lineage.store import Store

FAILURES = 3  # records that fail before a flush takes the store for dead


def flush(folder: Path) -> int:
    """Carry every record in `folder` to the tracking store; the caller holds the lock. -> records left

    One that fails is left behind and the next is tried; the third failure raises what MLflow raised.
    """
    if not _waiting(folder):
        return 0
    place = store.connect(folder.resolve().parent.parent)
    failed: set[Path] = set()
    while waiting := [path for path in _waiting(folder) if path not in failed]:
        for path in waiting:
            try:
                _carry(place, path)
            except Exception as error:  # whatever a server or a database can raise
                failed.add(path)
                if len(failed) == FAILURES:
                    raise
                _say(f"{path.name}: {type(error).__name__}: {error}")
    return len(_waiting(folder))


def _carry(place: Store, path: Path) -> None:
    """Replay one spooled file and remove it, or put it aside if no attempt can ever succeed."""
    from mlflow.exceptions import MlflowException

    try:
        record = tracking.load(path)
        replay.metrics_of(record)
    except (ValueError, KeyError, TypeError) as error:
        _reject(path, error)
        return
    try:
        replay.replay(place, path.stem, record)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        _reject(path, error)
        return
    path.unlink()  # first: files without a record are swept, but a record needs its files
    shutil.rmtree(path.with_suffix(".files"), ignore_errors=True)


def _waiting(folder: Path) -> list[Path]:
    """Spooled records, oldest first."""
    return sorted(folder.glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def _reject(path: Path, why: Exception) -> None:
    """Rename a record that no attempt can carry; it is kept for people to look at."""
    aside = path.rename(path.with_suffix(".json.rejected"))
    _say(f"{path.name} was put aside as {aside.name}: {type(why).__name__}: {why}")


def _say(message: str) -> None:
    line = tracking.redact(" ".join(message.split()), tracking.secrets())
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} tracking: {line[:1000]}\n")


@contextlib.contextmanager
def locked(folder: Path, seconds: float) -> Iterator[bool]:
    """Hold the spool's lock, or yield False when it was not free within `seconds`."""
    limit = time.monotonic() + seconds
    with (folder / ".lock").open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= limit:
                    yield False
                    return
                time.sleep(0.1)
        yield True


def _sweep(folder: Path, older_than: float = 86_400.0) -> None:
    """Remove what a killed stage or flush left behind, after `older_than` seconds."""
    for path in [*folder.glob("*.files"), *folder.glob("*.partial")]:
        owner = folder / f"{path.name.partition('.')[0]}.json"
        if not owner.exists() and path.stat().st_mtime < time.time() - older_than:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _give_up(_signum: int, _frame: FrameType | None) -> None:
    _say("no time left; what is in the spool goes with the next flush")
    os._exit(1)  # not sys.exit: MLflow would catch it, or wait for its threads


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m webdistill.lineage.flush",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--wait", type=int, default=tracking.FLUSH_SECONDS, metavar="SECONDS", help="then give up")
    add("--folder", type=Path, default=Path(".work/spool"), help="default: .work/spool")
    add("--background", action="store_true", help="yield to other work")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Entry point. -> exit code"""
    arguments = _arguments(argv)
    folder: Path = arguments.folder
    if not folder.is_dir():
        return 0
    if arguments.background:
        os.nice(10)
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(max(arguments.wait, 1))
    try:
        with locked(folder, arguments.wait) as free:
            left = flush(folder) if free else len(_waiting(folder))
            if free:
                _sweep(folder)
    except Exception as error:  # the store is dead or broken: the records stay
        _say(f"{type(error).__name__}: {error}")
        left = len(_waiting(folder))
    finally:
        signal.alarm(0)
    if left:
        _say(f"{left} records wait in {folder}; `python -m webdistill.lineage.flush` tries again")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
