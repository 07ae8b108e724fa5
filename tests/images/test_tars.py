"""Tars as byte ranges: what tarfile reads, no less and no more, and nothing from archives that are not whole."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from webdistill.core.errors import UserError
from webdistill.images.tars import Member, read_members

FILES = {
    "0001.jpg": b"x" * 700,
    "0001.txt": b"",
    "é/größe 東.jpg": b"y" * 512,
    "long/" + "n" * 180 + ".jpg": b"z",
    "deep/" * 30 + "a.jpg": b"w" * 1025,
}


def tar(path: Path, files: dict[str, bytes] | None = None, kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as out:
        for name, data in (FILES if files is None else files).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def content(path: Path) -> list[tuple[str, bytes]]:
    data = path.read_bytes()
    return [(m.name, data[m.offset : m.offset + m.size]) for m in read_members(path)]


def header(name: str, size: bytes, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A ustar header with whatever is in `size`, and a right checksum."""
    block = bytearray(512)
    block[:100] = name.encode().ljust(100, b"\0")
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_are_those_of_tarfile(tmp_path: Path, kind: int) -> None:
    path = tar(tmp_path / "a.tar", kind=kind)
    assert content(path) == list(FILES.items())


def test_ustar_splits_long_names(tmp_path: Path) -> None:
    files = {"a" * 90 + "/" + "b" * 60: b"1", "short": b"2"}
    assert content(tar(tmp_path / "a.tar", files, tarfile.USTAR_FORMAT)) == list(files.items())


def test_only_regular_files_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as out:
        for kind in (b"1", b"2", b"3", b"4", b"5", b"6", b"S"):  # links to devices, sparse
            info = tarfile.TarInfo("trap.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            out.addfile(info)
        info = tarfile.TarInfo("sparse.jpg")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        out.addfile(info)
        info = tarfile.TarInfo("../../etc/real.jpg")
        info.size = 3
        out.addfile(info, io.BytesIO(b"abc"))
    assert content(path) == [("../../etc/real.jpg", b"abc")]


def test_every_cut_is_refused_by_name(tmp_path: Path) -> None:
    files = {"1.jpg": b"x" * 600, "2.jpg": b"y" * 512, "3.jpg": b""}
    data = tar(tmp_path / "whole.tar", files).read_bytes()
    ends = 512 * (3 + 2 + 1)  # three headers, data in two blocks and one
    assert not any(data[ends:])
    path = tmp_path / "cut.tar"
    for length in [*range(0, ends + 512, 64), ends + 511]:
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut\.tar is no complete tar: ") as caught:
            list(read_members(path))
        assert "\n" not in str(caught.value)
    path.write_bytes(data[: ends + 512])
    assert len(list(read_members(path))) == 3


def test_what_follows_the_end_mark_is_not_ignored(tmp_path: Path) -> None:
    one = tar(tmp_path / "one.tar").read_bytes()
    path = tmp_path / "two.tar"
    path.write_bytes(one + one)
    with pytest.raises(UserError, match="more follows after its end mark"):
        list(read_members(path))


@pytest.mark.parametrize(
    "data",
    [
        b"no tar at all" * 100,
        header("a", b"\xff" + b"\xff" * 11) + bytes(1024),  # a negative size: backwards for ever
        header("a", b"\x80" + b"\xff" * 11) + bytes(1024),  # 2^88 bytes
        header("a", b"77777777777\0") + bytes(1024),
        header("a", b"8x") + bytes(1024),
        header("a", b"0")[:-1] + b"!" + bytes(1024),  # wrong checksum
        header("", b"77777777\0", b"L") + bytes(1024),
        header("", b"77777777\0", b"x") + bytes(1024),
        header("", b"13\0", b"x") + padded(b"11 size=-5\n") + header("a", b"0") + bytes(1024),
        header("", b"13\0", b"x") + padded(b"3 size=99999") + header("a", b"0") + bytes(1024),
        header("", b"13\0", b"x") + padded(b"99 path=ab\n") + header("a", b"0") + bytes(1024),
    ],
)  # fmt: skip
def test_senseless_archives_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.tar is no complete tar"):
        list(read_members(path))


def test_a_chain_of_long_names_costs_nothing(tmp_path: Path) -> None:
    link = header("", b"2\0", b"L") + padded(b"x\0")
    path = tmp_path / "a.tar"
    path.write_bytes(link * 5000 + header("a.jpg", b"0") + bytes(1024))
    assert list(read_members(path)) == [Member("x", 5000 * 1024 + 512, 0)]


def test_extended_sizes_and_names_hold_for_one_entry(tmp_path: Path) -> None:
    records = b"11 path=ab\n9 size=5\n"
    extra = header("", f"{len(records):o}".encode(), b"x") + padded(records)
    first, second = header("short", b"0") + padded(b"12345"), header("next", b"1") + padded(b"6")
    path = tmp_path / "a.tar"
    path.write_bytes(extra + first + second + bytes(512))
    assert content(path) == [("ab", b"12345"), ("next", b"6")]


def test_mutated_archives_never_crash(tmp_path: Path) -> None:
    data = np.frombuffer(tar(tmp_path / "a.tar").read_bytes(), np.uint8)
    draw = np.random.default_rng(0)
    path = tmp_path / "mutated.tar"
    refused = 0
    for _ in range(300):
        changed = data.copy()
        places = draw.integers(0, len(changed), draw.integers(1, 4))
        changed[places] = draw.integers(0, 256, len(places))
        path.write_bytes(changed.tobytes())
        try:
            found = list(read_members(path))
        except UserError:
            refused += 1
        else:
            assert all(m.offset + m.size <= len(data) for m in found)
    assert 30 < refused < 300
