"""Files are whole or refused by name (promises S2, S3, S4)."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from webdistill.core.errors import UserError
from webdistill.core.files import (
    check_manifest,
    digest,
    read_json,
    read_table,
    remove,
    replace,
    shards,
    write_json,
    write_manifest,
    write_table,
)


def table(rows: int = 3000) -> pa.Table:
    return pa.table({"id": [f"{i:08x}" * 4 for i in range(rows)], "value": list(range(rows))})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pool"
    place.mkdir()
    for number in range(3):
        write_table(table(100 + number), place / f"{number:05}.parquet")
    write_manifest(place)
    return place


def test_a_table_survives_and_has_the_same_bytes_twice(tmp_path: Path) -> None:
    write_table(table(), tmp_path / "a.parquet", {"model": "x"})
    write_table(table(), tmp_path / "b.parquet", {"model": "x"})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_table(tmp_path / "a.parquet").equals(table())
    assert read_table(tmp_path / "a.parquet").schema.metadata == {b"model": b"x"}


def test_no_flipped_bit_before_the_footer_changes_data_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(table(), path)
    data = path.read_bytes()
    noticed = 0
    positions = range(4, len(data) - 4000, 211)
    for position in positions:
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            found = read_table(path)
        except UserError:
            noticed += 1
        else:  # a page header's statistics, which no checksum covers: no data
            assert found.equals(table())
    assert noticed > 0.9 * len(positions)


@pytest.mark.parametrize("kept", [0, 3, 1000, -1])
def test_a_truncated_table_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.parquet"
    write_table(table(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"a\.parquet"):
        read_table(path)


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.parquet does not exist"):
        read_table(tmp_path / "absent.parquet")
    write_table(table(3), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column 'url'; it has id, value"):
        read_table(tmp_path / "a.parquet", ["url"])


def test_a_whole_folder_passes(folder: Path) -> None:
    assert [p.name for p in shards(folder)] == ["00000.parquet", "00001.parquet", "00002.parquet"]


def test_what_reads_as_a_shard_and_is_no_file_is_refused_by_name(folder: Path) -> None:
    """Whoever lists the shards would open it: a pipe, and wait for ever."""
    extra = folder / "extra.parquet"
    for make in (extra.mkdir, partial(extra.symlink_to, "/nowhere"), partial(os.mkfifo, extra)):
        make()
        with pytest.raises(UserError, match=r"extra\.parquet does not belong there"):
            check_manifest(folder)
        remove(extra)


def test_damage_to_a_shard_is_refused_by_name(folder: Path) -> None:
    shard, other = folder / "00001.parquet", folder / "00002.parquet"
    good, swapped = shard.read_bytes(), other.read_bytes()
    flipped = bytes([good[0], good[1] ^ 4]) + good[2:]
    for bad in (good[:-1], flipped, swapped, b""):
        shard.write_bytes(bad)
        with pytest.raises(UserError, match=r"00001\.parquet"):
            check_manifest(folder)
    shard.unlink()
    with pytest.raises(UserError, match=r"00001\.parquet is missing"):
        check_manifest(folder)
    shard.write_bytes(good)
    (folder / "extra.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match=r"extra\.parquet does not belong there"):
        check_manifest(folder)


def test_json_is_sorted_and_refuses_nan(tmp_path: Path) -> None:
    write_json({"b": 1, "a": [2.5]}, tmp_path / "x.json")
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    2.5\n  ],\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="Out of range"):
        write_json({"a": float("nan")}, tmp_path / "y.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match=r"x\.json is no readable JSON"):
        read_json(tmp_path / "x.json")


def test_replace_puts_files_and_folders_in_place(tmp_path: Path, folder: Path) -> None:
    target = tmp_path / "out" / "pool"
    before = digest(folder)
    replace(folder, target)
    assert digest(target) == before
    assert not folder.exists()
    write_json({}, tmp_path / "new")
    replace(tmp_path / "new", tmp_path / "out" / "file.json")
    assert (tmp_path / "out" / "file.json").read_text() == "{}\n"


def test_replace_brings_files_and_folders_from_another_file_system(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def refusing(new: Path, target: Path) -> None:
        if Path(new).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(new, target)

    monkeypatch.setattr(os, "replace", refusing)
    target, before = tmp_path / "out" / "pool", digest(folder)
    replace(folder, target)
    assert digest(target) == before
    assert not folder.exists()
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "new").write_text("x")
    replace(inner / "new", tmp_path / "out" / "file")
    assert (tmp_path / "out" / "file").read_text() == "x"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["file", "pool"]
    assert not (inner / "new").exists()


def test_the_digest_of_a_plain_folder_follows_names_and_bytes(tmp_path: Path) -> None:
    place = tmp_path / "teacher"
    place.mkdir()
    (place / "a").write_text("1")
    first = digest(place)
    (place / "a").rename(place / "b")
    second = digest(place)
    (place / "b").write_text("2")
    assert len({first, second, digest(place)}) == 3
