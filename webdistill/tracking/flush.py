"""Sends spooled records to MLflow: `python -m webdistill.tracking.flush [--wait SECONDS]`.

One flush at a time holds the lock of a spool folder; a later one waits for the lock. A record is removed
only after all of it has arrived. Its unique id is a tag of its run, so a flush that was killed, or whose
server died, can be repeated without making duplicates.

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

from webdistill.harness import spool
from webdistill.harness.lifetime import quiet_interrupt
from webdistill.harness.wording import plural
from webdistill.tracking import replay, store, view

if TYPE_CHECKING:
    from webdistill.tracking.store import Store

FAILURES = 3  # records that fail before a flush takes the store for dead
BACKGROUND = 10  # priority of a background flush, as `nice` counts
IDLE = 0.005  # share of a CPU below which a flush counts as waiting for its store, not for its turn
LONGEST = 3600.0  # seconds after which a background flush ends itself, however busy it is


def flush(folder: Path) -> int:
    """Carry every record in `folder` to the tracking store; the caller holds the lock. -> records left

    One that fails is left behind and the next is tried; the third failure raises what MLflow raised.
    """
    if not _waiting(folder):
        return 0
    place = store.connect(folder.resolve().parent.parent)
    if place.notice:
        _say(place.notice)
    with store.bound(place):
        _carry_all(place, folder)
    (folder / spool.PAGE).write_text(view.page(place.experiment))  # for `webdistill results`
    return len(_waiting(folder))


def _carry_all(place: Store, folder: Path) -> None:
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


def _carry(place: Store, path: Path) -> None:
    """Replay one spooled file and remove it, or put it aside if no attempt can ever succeed."""
    from mlflow.exceptions import MlflowException

    try:
        record = spool.load(path)
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
    line = spool.redact(" ".join(message.split()), spool.secrets())
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


def _limit(seconds: int, *, background: bool) -> None:
    """End the process after `seconds`; in the background, after as long without work of its own.

    At low priority on a busy machine the import of MLflow alone may take minutes, and a flush that was cut short there
    would begin anew with the next stage, as often as there are stages.
    """
    begun = time.monotonic()
    used = time.process_time()

    def out_of_time(_signum: int, _frame: FrameType | None) -> None:
        nonlocal used
        before, used = used, time.process_time()
        works = used - before > IDLE * seconds
        if background and works and time.monotonic() - begun < LONGEST:
            signal.alarm(seconds)
            return
        _say("out of time; the next flush sends the remaining records")
        os._exit(1)  # not sys.exit: MLflow would catch it, or wait for its threads

    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(seconds)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m webdistill.tracking.flush",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--wait",
        type=int,
        default=spool.FLUSH_SECONDS,
        metavar="SECONDS",
        help="give up after that time; in the background after as long without progress",
    )
    add("--folder", type=Path, default=Path(".work/spool"), help="default: .work/spool")
    add("--background", action="store_true", help="run at low priority")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Entry point. -> exit code"""
    arguments = _arguments(argv)
    folder: Path = arguments.folder
    if not folder.is_dir():
        return 0
    if arguments.background:
        os.nice(max(BACKGROUND - os.nice(0), 0))  # no lower still below a stage at low priority
    begun = time.monotonic()
    try:
        with locked(folder, arguments.wait) as free:
            if not free:
                _say(f"another flush is at work in {folder}")
                return 1
            spent = 0 if arguments.background else int(time.monotonic() - begun)
            _limit(max(arguments.wait - spent, 1), background=arguments.background)
            left = flush(folder)
            _sweep(folder)
    except Exception as error:  # the store is dead or broken: the records stay
        _say(f"{type(error).__name__}: {error}")
        left = len(_waiting(folder))
    finally:
        signal.alarm(0)
    if left:
        waiting = f"{plural(left, 'record')} {'waits' if left == 1 else 'wait'}"
        _say(f"{waiting} in {folder}; `python -m webdistill.tracking.flush` tries again")
    return 1 if left else 0


if __name__ == "__main__":
    quiet_interrupt()
    sys.exit(main())
