"""Finished candidates in one append-only file: a killed run continues where it was.

    MAGIC, then records:  length u32 | crc32 u32 | key 16 B | final u8 | facts length u32 | facts (JSON) | picture

Records are appended with one write and count from then on, so a kill leaves at most a cut record at the end, which
opening cuts off. The checksum covers everything behind it; a record that a power cut or a bad disk damaged is as good
as absent. 24 bytes a record are in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

from stages.fetch.outcomes import Outcome
from webdistill.core.errors import UserError
from webdistill.core.files import FULL, replace

MAGIC = b"webdistill fetch journal 2\n"  # another first line: made by other code, so not used
FRAME = struct.Struct("<II")
BODY = struct.Struct("<16sBI")
KEY = "S16"  # numpy: keys are as long as this, so that stripping zeros at the end cannot make two equal


def digest(*parts: object) -> bytes:
    """A key made of everything that decides a candidate's result."""
    return hashlib.sha256(repr(parts).encode()).digest()[:16]


class Journal:
    """One file of finished candidates, open until `close`.

    `reading`: it is not written, for another process may be at it; `left`: neither, and results count that are not
    final, too.
    """

    def __init__(self, path: Path, *, reading: bool = False, left: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file, self._end = -1, 0
        self._open(writing=not (reading or left), every=left)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Where the last record that counts of each key is (`keys` S16 [N] -> int64 [N]); -1: there is none.

        Knows what was there when the file was opened.
        """
        if not len(self._places):
            return np.full(len(keys), -1, np.int64)
        order = np.argsort(self._keys, kind="stable")  # of equal keys the latest comes last
        nearest = np.searchsorted(self._keys[order], keys, side="right") - 1
        nearest = order[np.maximum(nearest, 0)]
        return np.where(self._keys[nearest] == keys, self._places[nearest], -1)

    def append(self, records: Iterable[tuple[bytes, Outcome]]) -> list[int]:
        """Write them down in one go. -> where each one is. Raises OSError on a full disk, and leaves no cut record."""
        pieces, places, end = [], [], self._end
        for key, outcome in records:
            body = _pack(key, outcome)
            places.append(end)
            pieces += [FRAME.pack(len(body), crc32(body)), body]
            end += FRAME.size + len(body)
        left = memoryview(b"".join(pieces))
        try:
            while left:
                left = left[os.pwrite(self._file, left, end - len(left)) :]
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end = end
        return places

    def load(self, at: int) -> Outcome:
        """The outcome at a place that `find` or `append` named. Raises UserError when the disk lost it since."""
        length, checksum = self._frame(at)
        body = os.pread(self._file, length, at + FRAME.size)
        if crc32(body) != checksum:
            raise UserError(f"{self._path} is damaged; run the same command again to mend it")
        return _unpack(body)

    def sync(self) -> None:
        """Flush to the disk, for the case of a power cut; a killed process loses nothing anyway."""
        os.fsync(self._file)

    def keep_only(self, places: Sequence[int]) -> None:
        """Drop all records but these. Where the disk has no room for the copy, everything stays as it is.

        What is written or looked for afterwards needs a new Journal.
        """
        lengths = [FRAME.size + self._frame(at)[0] for at in places]
        if len(MAGIC) + sum(lengths) != self._end:
            self.rewrite(map(self.raw, places))

    def raw(self, at: int) -> bytes:
        """The record at a place, as it stands in the file."""
        return os.pread(self._file, FRAME.size + self._frame(at)[0], at)

    def rewrite(self, records: Iterable[bytes]) -> bool:
        """Put these, as from `raw`, in place of all. False: the disk has no room, and everything stays as it is."""
        part = self._path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(MAGIC)
                for record in records:
                    file.write(record)
            replace(part, self._path)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return False
        finally:
            part.unlink(missing_ok=True)
        return True

    def remove(self) -> None:
        """The file itself; what is open stays readable until `close`."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _frame(self, at: int) -> tuple[int, int]:
        length, checksum = FRAME.unpack(os.pread(self._file, FRAME.size, at))
        return length, checksum

    def _open(self, *, writing: bool, every: bool) -> None:
        """Open the file, learn what it holds, and cut off what is not whole at its end."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT if writing else os.O_RDONLY, 0o666)
        ours = os.pread(self._file, len(MAGIC), 0) == MAGIC
        if writing and not ours:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, MAGIC, 0)
        self._end = len(MAGIC)
        keys, places = bytearray(), array("q")
        for at, body in self._whole_records() if ours else ():
            self._end = at + FRAME.size + len(body)
            key, final, _ = BODY.unpack_from(body)
            if final or every:
                keys += key
                places.append(at)
        if writing:
            os.ftruncate(self._file, self._end)
        self._keys, self._places = np.frombuffer(keys, KEY), np.frombuffer(places, np.int64)

    def _whole_records(self) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            at = file.seek(len(MAGIC))
            while len(frame := file.read(FRAME.size)) == FRAME.size:
                length, checksum = FRAME.unpack(frame)
                if not BODY.size <= length <= size - at - FRAME.size:
                    return
                body = file.read(length)
                if crc32(body) == checksum:
                    yield at, body
                at += FRAME.size + length


def _pack(key: bytes, outcome: Outcome) -> bytes:
    facts = json.dumps(outcome[:-1]).encode()
    return BODY.pack(key, outcome.final, len(facts)) + facts + outcome.image


def _unpack(body: bytes) -> Outcome:
    middle = BODY.size + BODY.unpack_from(body)[2]
    return Outcome._make([*json.loads(body[BODY.size : middle]), body[middle:]])
