"""fetch reads local bytes where search found them: columns, tar members, files; and nothing that changed since."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.fetch.candidates import Candidate, Candidates, Held, read_candidates
from stages.fetch.sources import LocalImages, file_mark, read_file
from stages.search.candidates import collect
from stages.search.keywords import Keywords
from stages.search.local import open_local
from webdistill.core.errors import UserError
from webdistill.core.files import write_table

ROOT = Path(__file__).parents[2]
WORDS = Keywords(["cat", "dog"])


def search(name: str) -> Candidates:
    """What search writes for search.local = `name` (in the current folder), as fetch reads it."""
    local = open_local(Path(name), name, {}, WORDS)
    table = collect(local.rows(), WORDS).table
    header = {"local": name, "files": json.dumps(local.facts(table))}
    write_table(table, Path("candidates.parquet"), header)
    return read_candidates(Path("candidates.parquet"), Path)


def bodies(candidates: Candidates, max_bytes: int = 1000) -> list[tuple[str, bytes]]:
    images = LocalImages(candidates.find)
    part = candidates.part(0, len(candidates))
    found = [images.read(one, max_bytes) for one in part if one.source != "http"]
    images.close()
    return [(body.status, body.data) for body in found]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `web` with one of each kind, in the current one."""
    monkeypatch.chdir(tmp_path)
    Path("web/cat").mkdir(parents=True)
    Path("web/cat/1.jpg").write_bytes(b"loose")
    Path("web/cat/list.csv").write_text("url\n../named.bin\nhttp://a.example/1\n../../out.bin\n")
    Path("web/named.bin").write_bytes(b"named by a list")
    Path("out.bin").write_bytes(b"outside")
    images = pa.array([{"bytes": b"first", "path": ""}, None, {"bytes": b"third", "path": ""}])
    pq.write_table(pa.table({"image": images, "url": ["", "", ""]}), "web/list.parquet")
    with tarfile.open("web/some.tar", "w") as out:
        for text in ("a.txt", "b.jpg", "c.jpg"):
            info = tarfile.TarInfo(text)
            info.size = len(text)
            out.addfile(info, io.BytesIO(text.encode()))


def test_every_kind_of_candidate_gets_its_bytes() -> None:
    candidates = search("web")
    assert len(candidates) == 8
    assert [(one.source, one.file, one.row) for one in candidates.part(0, 8)] == [
        ("file", "web/cat", 0), ("http", "", 1), ("file", "web/cat", 2),
        ("embedded", "web/list.parquet", 0), ("embedded", "web/list.parquet", 2),
        ("tar", "web/some.tar", 1), ("tar", "web/some.tar", 2), ("file", "web", 0),
    ]  # fmt: skip
    local = [one for one in candidates.part(0, 8) if one.source != "http"]
    images = LocalImages(candidates.find)
    assert [images.read(one, 1000).data for one in local] == [
        b"", b"", b"first", b"third", b"b.jpg", b"c.jpg", b"loose",
    ]  # fmt: skip
    assert [images.read(one, 1000).status for one in local[:2]] == ["outside_folder"] * 2
    assert images.read(local[0], 1).status == "outside_folder"
    for one in local[2:]:
        assert images.read(one, 4).status == "too_large"
        assert images.read(one, 5).status == "ok"
    images.close()


def test_one_list_one_tar_one_folder_as_search_local() -> None:
    assert bodies(search("web/list.parquet")) == [("ok", b"first"), ("ok", b"third")]
    assert bodies(search("web/some.tar")) == [("ok", b"b.jpg"), ("ok", b"c.jpg")]
    assert bodies(search("web/cat/"))[-1] == ("ok", b"loose")
    assert bodies(search(str(Path("web/some.tar").resolve()))) == [
        ("ok", b"b.jpg"),
        ("ok", b"c.jpg"),
    ]
    Path("here.csv").write_text("url\nout.bin\n")
    assert bodies(search("here.csv")) == [("ok", b"outside")], "a list without a folder in its name"


def test_rows_may_be_asked_for_in_any_order() -> None:
    table = pa.table({"image": [f"bytes {n}".encode() for n in range(500)]})
    pq.write_table(table, "many.parquet", row_group_size=90)
    candidates = search("many.parquet")
    images = LocalImages(candidates.find)
    part = candidates.part(0, 500)
    for n in (0, 1, 63, 64, 65, 89, 90, 499, 3, 3, 300, 0, 499):
        assert images.read(part[n], 99).data == f"bytes {n}".encode()
    with pytest.raises(UserError, match=r"many\.parquet is damaged: it has no row 500"):
        images.read(Candidate("", "embedded", "many.parquet", 500, ""), 99)


@pytest.mark.parametrize("name", ["web/list.parquet", "web/some.tar"])
def test_a_list_or_tar_that_changed_after_search_is_refused(name: str) -> None:
    search("web")
    data = Path(name).read_bytes()
    for changed in (data + b"\0" * 512, data[:-1] + b"!"):
        Path(name).write_bytes(changed)
        with pytest.raises(UserError, match=rf"{name} changed since search read it; run"):
            read_candidates(Path("candidates.parquet"), Path)
    Path(name).unlink()
    with pytest.raises(UserError, match="changed since search read it"):
        read_candidates(Path("candidates.parquet"), Path)
    Path(name).write_bytes(data)
    assert len(bodies(read_candidates(Path("candidates.parquet"), Path), 99)) == 7


def test_lists_of_addresses_are_not_needed_any_more() -> None:
    Path("only.csv").write_text("url\nhttp://a.example/1\n")
    assert len(search("only.csv")) == 1
    Path("only.csv").unlink()
    assert len(read_candidates(Path("candidates.parquet"), Path)) == 1


def test_marks_change_with_the_bytes() -> None:
    def marks() -> list[tuple[object, ...]]:
        found = search("web")
        return [LocalImages(found.find).mark(one) for one in found.part(0, 8)]

    before = marks()
    assert before == marks()
    assert before[1] == (), "nothing is known of the web"
    Path("web/cat/1.jpg").write_bytes(b"changed")
    images = pa.array([{"bytes": b"FIRST", "path": ""}, None, {"bytes": b"third", "path": ""}])
    pq.write_table(pa.table({"image": images, "url": ["", "", ""]}), "web/list.parquet")
    Path("web/some.tar").write_bytes(Path("web/some.tar").read_bytes() + bytes(512))
    changed = [old != new for old, new in zip(before, marks(), strict=True)]
    assert changed == [False, False, False, True, True, True, True, True]


def test_a_damaged_list_is_named() -> None:
    table = pa.table({"image": [b"needle %d" % n for n in range(100)]})
    pq.write_table(table, "a.parquet", write_page_checksum=True, compression="none")
    data = bytearray(Path("a.parquet").read_bytes())
    data[data.index(b"needle 50")] ^= 1
    Path("a.parquet").write_bytes(data)
    images = LocalImages({"a.parquet": Held(Path("a.parquet"), "", "image")}.__getitem__)
    with pytest.raises(UserError, match=r"a\.parquet is damaged: .*; restore it") as caught:
        images.read(Candidate("", "embedded", "a.parquet", 0, ""), 99)
    assert "\n" not in str(caught.value)


def test_local_files_stay_in_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside, inside / "deep"):
        folder.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (inside / "deep" / "a.png").write_bytes(b"picture")
    (inside / "link.png").symlink_to(outside / "secret.png")
    (inside / "door").symlink_to(outside)
    (inside / "loop").symlink_to(inside / "loop")
    os.mkfifo(inside / "pipe")
    for name in ("../out/secret.png", "link.png", "door/secret.png", str(outside / "secret.png"), "/etc/hostname",
                 "deep/../../out/secret.png"):  # fmt: skip
        assert read_file(inside, name, 10_000).status == "outside_folder", name
    for name in ("deep", "pipe", "nul\0.png", "loop", "x" * 5000, "deep/a.png/b", "."):
        assert read_file(inside, name, 10_000).status == "not_found", name
        assert file_mark(inside, name) is not None
    for name in ("deep/a.png", "./deep/../deep/a.png", str(inside / "deep" / "a.png")):
        assert read_file(inside, name, 10_000).data == b"picture"
    assert read_file(inside, "deep/a.png", 6).status == "too_large"


def test_a_row_group_is_not_held_in_memory(tmp_path: Path) -> None:
    """One row group with 128 MiB of images in small pages; read at once it would cost more than that."""
    table = pa.table({"image": pa.array([bytes([n]) * (1 << 20) for n in range(128)], pa.binary())})
    pq.write_table(
        table, "big.parquet", compression="none", use_dictionary=False, write_batch_size=4
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], env=environment, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 110


GROWTH = """
from pathlib import Path
from stages.fetch.candidates import Candidate, Held
from stages.fetch.sources import LocalImages
images = LocalImages({"big.parquet": Held(Path("big.parquet"), "", "image")}.__getitem__)
def peak():  # of this program: ru_maxrss would start with that of the test that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
before = peak()
for row in range(128):
    body = images.read(Candidate("", "embedded", "big.parquet", row, ""), 1 << 21)
    assert body.data == bytes([row]) * (1 << 20)
print(peak() - before)
"""
