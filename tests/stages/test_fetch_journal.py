"""The journal of fetch: cut, torn, damaged or without room, what it says is right."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest

from stages.fetch.journal import FRAME, KEY, MAGIC, Journal, digest
from stages.fetch.outcomes import Outcome
from webdistill.core.errors import UserError
from webdistill.core.files import room_on_disk

OUTCOMES = [
    Outcome("ok", "ab" * 16, 200, 3, "cd" * 32, "", "allowed", "", 1, 2, image=b"xyz"),
    Outcome("http_error", http_status=403, detail="HTTP 403 — no"),
    Outcome("opted_out", opt_out="X-Robots-Tag: noai"),
    Outcome("ok", "ef" * 16, image=bytes(range(256)), width=5, height=6),
]
KEYS = [bytes([n]) * 15 + b"\0" for n in range(len(OUTCOMES))]


def found(path: Path, keys: list[bytes]) -> list[Outcome | None]:
    journal = Journal(path)
    places = journal.find(np.array(keys, KEY)).tolist()
    outcomes = [journal.load(at) if at >= 0 else None for at in places]
    journal.close()
    return outcomes


def written(path: Path) -> list[int]:
    journal = Journal(path)
    places = journal.append(zip(KEYS, OUTCOMES, strict=True))
    journal.close()
    return places


def test_what_is_written_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal"
    written(path)
    assert found(path, [*reversed(KEYS), b"x" * 16]) == [*reversed(OUTCOMES), None]


def test_the_last_final_record_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    may_pass = Outcome("timeout")
    journal.append([(KEYS[0], may_pass), (KEYS[1], may_pass), (KEYS[0], OUTCOMES[0])])
    journal.append([(KEYS[2], OUTCOMES[2]), (KEYS[2], OUTCOMES[1])])
    journal.close()
    assert found(tmp_path / "journal", KEYS) == [OUTCOMES[0], None, OUTCOMES[1], None]


def test_many_keys_are_found_where_a_dictionary_finds_them(tmp_path: Path) -> None:
    dice = random.Random(0)
    journal, latest = Journal(tmp_path / "journal"), {}
    for _ in range(50):
        records = [(digest(dice.randrange(300)), Outcome("ok", f"{n}")) for n in range(9)]
        journal.append(records)
        latest.update(records)
    journal.close()
    keys = [digest(n) for n in range(300)]
    assert found(tmp_path / "journal", keys) == [latest.get(key) for key in keys]


def test_a_file_cut_anywhere_keeps_the_whole_records_before(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "cut"
    places = [*written(whole)]
    data = whole.read_bytes()
    ends = [*places[1:], len(data)]
    for length in range(len(data)):
        path.write_bytes(data[:length])
        kept = sum(end <= length for end in ends)
        assert found(path, KEYS) == [*OUTCOMES[:kept], *[None] * (len(KEYS) - kept)], length
        if length % 101 == 0:
            written(path)
            assert found(path, KEYS) == OUTCOMES, "what comes after the cut is whole"


def test_no_flipped_byte_changes_a_result(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path)
    whole = path.read_bytes()
    dice = random.Random(1)
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        outcomes = found(path, KEYS)
        assert all(it in (None, right) for it, right in zip(outcomes, OUTCOMES, strict=True))
        assert outcomes != OUTCOMES, "every byte counts"
    path.write_bytes(whole)
    journal = Journal(path)
    with path.open("r+b") as file:
        file.seek(len(MAGIC) + FRAME.size + 20)
        file.write(b"\xff\xfe")
    with pytest.raises(UserError, match="is damaged; run the same command again"):
        journal.load(len(MAGIC))
    journal.close()


def test_holes_that_a_power_cut_leaves_end_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path)
    with path.open("ab") as file:
        file.write(bytes(5000))
    assert found(path, KEYS) == OUTCOMES
    assert path.stat().st_size < 5000


def test_only_what_is_named_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    places = written(path)
    journal = Journal(path)
    journal.keep_only([places[3], places[1]])
    journal.close()
    journal = Journal(path)
    added = journal.append([(b"new" * 5 + b"!", OUTCOMES[0])])
    assert journal.load(added[0]) == OUTCOMES[0]
    journal.close()
    assert found(path, [*KEYS, b"new" * 5 + b"!"]) == [
        None, OUTCOMES[1], None, OUTCOMES[3], OUTCOMES[0],
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_version_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"something else\n" * 50)
    assert found(tmp_path / "journal", KEYS) == [None] * 4
    assert (tmp_path / "journal").read_bytes() == MAGIC


def test_a_full_disk_is_said_in_one_line_and_leaves_no_cut_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.append([(KEYS[0], OUTCOMES[0])])
    before, write = path.read_bytes(), os.pwrite

    def full(file: int, data: memoryview, at: int) -> int:
        if len(data) > 50:
            return write(file, data[:50], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match="is full .No space left on device.; make room"):
            with room_on_disk(tmp_path):
                journal.append([(KEYS[3], OUTCOMES[3])])
    assert path.read_bytes() == before
    journal.append([(KEYS[3], OUTCOMES[3])])
    journal.close()
    assert found(path, KEYS) == [OUTCOMES[0], None, None, OUTCOMES[3]]
    with pytest.raises(PermissionError), room_on_disk(tmp_path):
        raise PermissionError(errno.EACCES, "other errors stay what they are")
