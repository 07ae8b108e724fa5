"""What is known of addresses: the journal of this machine, and those that the jobs of a shared crawl have left.

    journal               of runs here; only final results count
    journal-<random>      of one job, which alone writes it; all results count, until they are published

A job that is killed and begun anew reads what it left, and writes another file. So no two processes ever write one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stages.fetch.journal import Journal
from stages.fetch.outcomes import Outcome

SHIFT = 48  # a place is that in its file, and from this bit on the file's number


class Journals:
    """All journals in a folder, as one. `job`: new results go to a file of their own."""

    def __init__(self, folder: Path, *, job: bool) -> None:
        left = sorted(folder.glob("journal-*"))
        main = folder / "journal"
        self._own = Journal(folder / f"journal-{secrets.token_hex(8)}" if job else main)
        self._left = [Journal(path, left=True) for path in left]
        before = [Journal(main, reading=True)] if job and main.exists() else []
        self._all = [self._own, *self._left, *before]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """As `Journal.find`."""
        places = np.full(len(keys), -1, np.int64)
        for number, journal in enumerate(self._all):
            missing = np.flatnonzero(places < 0)
            found = journal.find(keys[missing])
            here = found >= 0
            places[missing[here]] = found[here] + (number << SHIFT)
        return places

    def append(self, records: Iterable[tuple[bytes, Outcome]]) -> list[int]:
        """As `Journal.append`."""
        return self._own.append(records)

    def load(self, place: int) -> Outcome:
        """As `Journal.load`."""
        return self._all[place >> SHIFT].load(place & (1 << SHIFT) - 1)

    def sync(self) -> None:
        """As `Journal.sync`."""
        self._own.sync()

    def keep_only(self, places: Sequence[int]) -> None:
        """As `Journal.keep_only`; what jobs have left goes into the journal of this machine."""
        if not self._left:
            self._own.keep_only(places)
            return
        raw = (self._all[at >> SHIFT].raw(at & (1 << SHIFT) - 1) for at in places)
        if self._own.rewrite(raw):
            for journal in self._left:
                journal.remove()

    def close(self) -> None:
        """Close the files."""
        for journal in self._all:
            journal.close()
