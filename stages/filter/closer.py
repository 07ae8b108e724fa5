"""The second look of leaks and duplicates: pairs that are alike at 32 px are compared in detail where both are large.

Pictures smaller than `details.SIDE` have no details, and from a similarity of TRUSTED on no pair was found that differs
in them (records/2026-11-29-near-duplicates): for these the first look decides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from webdistill.core.errors import UserError
from webdistill.core.files import read_table
from webdistill.images.copies import Pairs
from webdistill.images.details import SIDE, details
from webdistill.images.hashes import Bytes, Doubles, Rows, luminance
from webdistill.images.neighbours import side_by_side
from webdistill.images.pool import read_files, square
from webdistill.images.stored import decode

TRUSTED = 0.995  # similarity from which the first look is enough
SAME = 0.92  # details of duplicates: copies damaged in one way keep 0.93 and more
DOUBT = 0.8  # of leaks: in doubt a picture is taken for a copy of a test image
PAIRS = 128  # looked at together
AHEAD = 256  # pictures decoded together
BYTES = SIDE * SIDE


class Large:
    """Luminance of pictures of some Parquet files by their rows, counted over all files; uint8 [SIDE, SIDE] each.

    Pictures are decoded when they are first asked for and then lie in a file without a name; a context manager.
    """

    def __init__(self, files: Sequence[Path], folder: Path, threads: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._files, self._threads = files, threads
        self._place: dict[int, int] = {}  # row -> place in the file, -1: smaller than SIDE
        self._count = 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by __exit__)

    def __enter__(self) -> Large:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getitem__(self, rows: Rows) -> Bytes:
        """[n, SIDE, SIDE] of rows that were read and are large."""
        places = [self._place[row] for row in rows.tolist()]
        if not places:
            return np.empty((0, SIDE, SIDE), np.uint8)
        stored = np.memmap(self._file, np.uint8, "r", shape=(self._count, SIDE, SIDE))
        return np.array(stored[places])

    def read(self, rows: Rows) -> NDArray[np.bool_]:
        """Decode what was not asked for before. -> which of the rows [n] are large enough"""
        wanted = set(rows.tolist()) - self._place.keys()
        batch: list[tuple[int, bytes]] = []
        with ThreadPoolExecutor(self._threads) as threads:
            for item in self._encoded(wanted) if wanted else ():
                batch.append(item)
                if len(batch) == AHEAD:
                    self._append(batch, threads)
                    batch = []
            self._append(batch, threads)
        return np.array([self._place[row] >= 0 for row in rows.tolist()], bool)

    def _encoded(self, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
        """(row, encoded picture); a file without any of them is not opened further than for its number of rows."""
        start = 0
        for file in self._files:
            count = read_table(file, ["id"]).num_rows
            if not wanted.isdisjoint(range(start, start + count)):
                row = start
                for part in read_files(file):
                    for place in range(len(part)):
                        if row in wanted:
                            yield row, part[place].as_py() or b""
                        row += 1
            start += count

    def _append(self, batch: Sequence[tuple[int, bytes]], threads: ThreadPoolExecutor) -> None:
        self._file.seek(self._count * BYTES)
        for (row, _), gray in zip(batch, threads.map(_gray, batch), strict=True):
            self._place[row] = -1 if gray is None else self._count
            if gray is not None:
                self._file.write(gray.tobytes())
                self._count += 1
        self._file.flush()


def _gray(item: tuple[int, bytes]) -> Bytes | None:
    row, data = item
    try:
        image = decode(data)
        if min(image.size) < SIDE:
            return None
        pixels = np.asarray(square(image, SIDE))[None]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"the image of row {row} cannot be decoded: {error}") from None
    return np.rint(luminance(pixels)[0]).astype(np.uint8)


class Closer:
    """Which pairs stay: `confirm` of `copies.find_pairs`."""

    def __init__(self, one: Large, other: Large, least: float, threads: int) -> None:
        """`one`, `other`: where queries and references are; `least`: similarity in detail that they must have."""
        self.one, self.other, self.least, self.threads = one, other, least, threads

    def __call__(self, pairs: Pairs) -> NDArray[np.bool_]:
        """[P]"""
        keep = np.ones(len(pairs.query), bool)
        asked = np.flatnonzero(pairs.similarity < TRUSTED)
        large = self.one.read(pairs.query[asked]) & self.other.read(pairs.reference[asked])
        asked = asked[large]

        def look(part: Rows) -> Doubles:
            return details(self.one[pairs.query[part]], self.other[pairs.reference[part]])

        parts = (asked[start : start + PAIRS] for start in range(0, len(asked), PAIRS))
        found = list(side_by_side(look, parts, self.threads))
        keep[asked] = np.concatenate([np.empty(0), *found]) >= self.least
        return keep
