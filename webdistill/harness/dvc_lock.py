"""dvc.lock as it is when nobody writes it."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE = 10.0  # seconds by default; a push may hold DVC's lock for hours without writing
PAUSE = 0.01


def read_lock(path: Path, root: Path, patience: float = PATIENCE) -> str:
    """Text of the dvc.lock `path` of the project in `root`; empty if there is none.

    DVC writes the file piece by piece, and `repro -j` runs several DVCs. Each holds the lock of the repository while it
    writes and gives it back while its stage's command runs: a reader takes its turn, and after `patience` seconds it
    reads anyway.
    """
    with _between_writers(root / ".dvc" / "tmp" / "lock", patience):
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def stages(text: str) -> dict[str, Any]:
    """Of a dvc.lock's text: stage -> what stands there. Every value is text, so no hash becomes a number.

    Raises ValueError with one line when it is no YAML.
    """
    import yaml  # in C: pipelines/ has locks of 8,000 lines, and DVC's own parser takes ten times as long

    loader = yaml.CBaseLoader  # builds text, lists and dicts, no objects
    try:
        content: dict[str, Any] = yaml.load(text, Loader=loader) or {}  # noqa: S506
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    found: dict[str, Any] = content.get("stages", {})
    return found


@contextlib.contextmanager
def _between_writers(lock: Path, patience: float) -> Iterator[None]:
    """Share the lock that DVC takes for itself alone; without it nobody has run DVC here."""
    try:
        handle = lock.open("rb")
    except OSError:
        yield
        return
    with handle:  # closing gives the lock back
        limit = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= limit:
                    break
                time.sleep(PAUSE)
        yield
