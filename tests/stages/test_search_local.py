"""search.local: tars and folders, and folders with several of everything."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.search.candidates import Candidates, collect
from stages.search.folders import without_class
from stages.search.found import Found
from stages.search.keywords import Keywords
from stages.search.local import TEXT, Local, open_local
from webdistill.core.errors import UserError
from webdistill.core.files import sha256_file

WORDS = Keywords(["cat", "automobile", "maple_tree"], {"automobile": ["car", "racing car"]})


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes of " + name.encode())


def read(path: Path, name: str = "data/x") -> Local:
    return open_local(path, name, {}, WORDS)


def found(path: Path, name: str = "data/x") -> Candidates:
    return collect(read(path, name).rows(), WORDS)


def test_a_webdataset_of_img2dataset(tmp_path: Path) -> None:
    facts = {
        "url": "http://a.example/1", "caption": "a cat", "key": "000", "status": "success", "width": 64,
        "LICENSE": "CC0", "exif": "{}", "sha256": "ab",
    }  # fmt: skip
    path = tar(
        tmp_path / "00000.tar",
        {
            "000.jpg": b"1", "000.json": json.dumps(facts).encode(), "000.txt": b"a cat",
            "001.jpg": b"2", "001.txt": " ein Kätzchen ".encode(),
            "002.json": b"{}", "002.webp": b"3",
        },
    )  # fmt: skip
    assert list(read(path, "data/00000.tar").rows()) == [
        Found("http://a.example/1", "tar", "data/00000.tar", 0, "webdataset", "", "a cat", "CC0"),
        Found("", "tar", "data/00000.tar", 3, "webdataset", "", "ein Kätzchen"),
        Found("", "tar", "data/00000.tar", 6, "webdataset"),
    ]


def test_other_names_in_a_tar(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar",
        {
            "n01/img.v2.front.JPG": b"1", "n01/img.cls": b"5", "n01/img.v2.txt": b"one",
            "n02/img.png": b"2", "n02/img.txt": b"two", "n02/img.back.jpeg": b"3",
            "README": b"", "img.txt": b"none", "no_ending": b"",
        },
    )  # fmt: skip
    rows = list(read(path).rows())
    assert [(one.row, one.caption) for one in rows] == [(0, "one"), (3, "two"), (5, "two")]


def test_hostile_tars_are_inert(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    names = [
        "../../up.jpg",
        "/etc/abs.jpg",
        "a\0b.jpg",
        "same.jpg",
        "same.jpg",
        "x/../../y.jpg",
        "\udce9.jpg",
    ]
    with tarfile.open(path, "w") as out:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            out.addfile(info, io.BytesIO(b"1"))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "same.jpg")):
            info = tarfile.TarInfo("link.jpg")
            info.type, info.linkname = kind, target
            out.addfile(info)
    table = found(path).table
    assert table["row"].to_pylist() == [0, 1, 3, 4, 5, 6], (
        "what follows a NUL is no name: no ending"
    )
    assert set(table["url"].to_pylist()) == {""}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"], "nothing is extracted"


@pytest.mark.parametrize(
    "facts",
    [
        b"{", b"[1]", b'"x"', b"\xff\xfe", b"[" * 50_000, b'{"more": {"caption": "x"}}',
        b" " * (1 << 20) + b'{"caption": "x"}',
    ],
    ids=["cut", "list", "text", "bytes", "deep", "nested", "long"],
)  # fmt: skip
def test_sidecars_that_cannot_be_read_say_nothing(tmp_path: Path, facts: bytes) -> None:
    (one,) = read(tar(tmp_path / "a.tar", {"1.json": facts, "1.jpg": b"1"})).rows()
    assert one == Found("", "tar", "data/x", 1, "webdataset")


def test_a_sidecar_is_read_as_a_row_of_a_list(tmp_path: Path) -> None:
    """An empty value is filled from the next name, so that no opt-out hides behind one; structures have names."""
    facts = {
        "url": {"src": "http://a.example/1"}, "author": {"name": "Ada"}, "caption": "", "title": "a cat",
        "opt_out": 0, "noai": True,
    }  # fmt: skip
    path = tar(tmp_path / "a.tar", {"1.jpg": b"x", "1.json": json.dumps(facts).encode()})
    (one,) = open_local(path, "a.tar", {}, WORDS).rows()
    assert (one.url, one.creator, one.caption) == ("http://a.example/1", "Ada", "a cat")
    assert one.opt_out == "True"


def test_half_characters_of_json_do_not_stop_the_search(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"1.json": b'{"caption": "a \\ud83d cat"}', "1.jpg": b"1"})
    assert found(path).table["caption"].to_pylist() == ["a ? cat"]


def test_a_cut_tar_is_refused_by_name(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {f"{n}.jpg": b"x" * 600 for n in range(30)})
    path.write_bytes(path.read_bytes()[: 512 * 30])
    with pytest.raises(UserError, match=r"a\.tar is no complete tar: it is cut short"):
        found(tmp_path)


def test_a_folder_of_images_takes_its_folders_as_queries(tmp_path: Path) -> None:
    touch(
        tmp_path, "cat/1.jpg", "cat/deep/2.PNG", "car/3.webp", "Racing-Car/4.jpeg", "maple tree/5.jpg", "dog/6.jpg",
        "7.jpg", "cat/car/8.jpg", "catalogue/9.jpg",
    )  # fmt: skip
    table = found(tmp_path).table
    assert dict(zip(table["url"].to_pylist(), table["query"].to_pylist(), strict=True)) == {
        "7.jpg": "", "Racing-Car/4.jpeg": "automobile", "car/3.webp": "automobile", "cat/1.jpg": "cat",
        "cat/car/8.jpg": "automobile", "cat/deep/2.PNG": "cat", "catalogue/9.jpg": "", "dog/6.jpg": "",
        "maple tree/5.jpg": "maple_tree",
    }  # fmt: skip
    assert table["url"].to_pylist() == sorted(table["url"].to_pylist())
    assert set(table["file"].to_pylist()) == {"data/x"}
    assert set(table["source"].to_pylist()) == {"file"}
    assert found(tmp_path, "photos/cat").table["query"].to_pylist().count("cat") == 5


def test_sidecars_beside_files(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "1.json").write_text('{"url": "http://me:pw@a.example/1", "caption": "a cat"}')
    (tmp_path / "2.txt").write_text("a car")
    first, second = found(tmp_path).table.to_pylist()
    assert (first["url"], first["landing_page"]) == ("1.jpg", "http://a.example/1")
    assert (first["query"], second["query"]) == ("cat", "automobile")


def test_the_image_address_beside_a_file_is_kept_with_the_page(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    page = "http://a.example/page"
    (tmp_path / "1.json").write_text(
        json.dumps({"url": "HTTP://me:pw@A.example/1.jpg#x", "landing_page": page})
    )
    (tmp_path / "2.json").write_text(json.dumps({"image_url": "//a.example/2.jpg"}))
    (tmp_path / "3.json").write_text(json.dumps({"file": "raw/3.jpg"}))
    rows = found(tmp_path).table.to_pylist()
    assert [(row["url"], row["origin"], row["landing_page"]) for row in rows] == [
        ("1.jpg", "http://a.example/1.jpg", page),
        ("2.jpg", "http://a.example/2.jpg", "http://a.example/2.jpg"),
        ("3.jpg", "", "raw/3.jpg"),
    ]


def test_links_and_pipes_in_a_folder_are_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.jpg", "x/2.jpg")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "x" / "1.txt").symlink_to(tmp_path / "secret")
    for name in ("2.txt", "3.csv", "4.tar", "manifest.json"):
        os.mkfifo(tmp_path / "x" / name)
    assert read(tmp_path / "x").left_out == {"file of another kind": 2, TEXT: 1}
    table = found(tmp_path / "x").table
    assert table["url"].to_pylist() == ["1.jpg", "2.jpg"]
    assert set(table["caption"].to_pylist()) == {""}


def test_texts_that_say_nothing_of_an_image_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "cat/2.JPG")
    for name in ("cat/1.json", "cat/2.txt", "cat/manifest.json", "redcaps.json", "note.txt"):
        (tmp_path / name).write_text('{"url": "http://a.example/1"}')
    (tmp_path / "b.txt").write_text("http://a.example/1\n")
    assert read(tmp_path).left_out == {TEXT: 3}


def test_a_folder_with_everything(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "loose.jpg", ".hidden/2.jpg", "._loose.jpg", "notes.md", "x.psd")
    (tmp_path / "b.csv").write_text(
        "url,caption\ncat/1.jpg,told by the list\nhttp://a.example/1,\n"
    )
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "cat" / "a.parquet")
    tar(tmp_path / "z.tar", {"1.jpg": b"1"})
    (tmp_path / "again").symlink_to(tmp_path / "cat")
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"3")
    local = read(tmp_path, "data/x/")
    assert [part.name for part in local.parts] == [
        "data/x/b.csv", "data/x/cat/a.parquet", "data/x/z.tar", "data/x",
    ]  # fmt: skip
    assert local.left_out == {
        "file of another kind": 2, "file with a name that is no text": 1, "link to folders": 1,
    }  # fmt: skip
    result = collect(local.rows(), WORDS)
    assert [(r["source"], r["file"], r["url"]) for r in result.table.to_pylist()] == [
        ("file", "data/x", "cat/1.jpg"),
        ("http", "", "http://a.example/1"),
        ("embedded", "data/x/cat/a.parquet", ""),
        ("tar", "data/x/z.tar", ""),
        ("file", "data/x", "loose.jpg"),
    ]
    assert result.table["caption"].to_pylist()[0] == "told by the list"
    assert result.counts["duplicates"] == 1, "the list's file is found in the folder, too"
    assert local.facts(result.table) == {
        "data/x/cat/a.parquet": {
            "sha256": sha256_file(tmp_path / "cat" / "a.parquet"), "column": "image",
        },
        "data/x/z.tar": {"sha256": sha256_file(tmp_path / "z.tar"), "column": ""},
    }  # fmt: skip


def test_tables_beside_tars_and_folders_of_img2dataset_are_not_lists(
    tmp_path: Path,
) -> None:
    tar(tmp_path / "00000.tar", {"1.jpg": b"1"})
    touch(tmp_path, "00001/2.jpg")
    for stem in ("00000", "00001", "00002"):
        pq.write_table(
            pa.table({"url": [f"http://a.example/{stem}"]}), tmp_path / f"{stem}.parquet"
        )
        (tmp_path / f"{stem}_stats.json").write_text("{}")
    touch(tmp_path, "00003/4.jpg")
    pq.write_table(pa.table({"url": ["00003/4.jpg"], "text": ["mine"]}), tmp_path / "00003.parquet")
    (tmp_path / "00001.csv").write_text("url\nhttp://a.example/mine\n")
    local = read(tmp_path)
    assert [part.name for part in local.parts] == [
        "data/x/00001.csv", "data/x/00002.parquet", "data/x/00003.parquet", "data/x/00000.tar", "data/x",
    ]  # fmt: skip
    assert local.left_out == {"table beside tars or folders": 2}


def test_the_same_file_by_two_spellings_is_one(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "l.csv").write_text("url\n1.jpg\n./1.jpg\n../a/1.jpg\n1.JPG\n")
    result = found(tmp_path)
    assert result.table["url"].to_pylist() == ["1.jpg", "1.JPG"]
    assert result.counts["duplicates"] == 3


def test_folders_that_match_no_class_are_named_with_their_images(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "foo/1.jpg", "foo/2.jpg", "bar/3.jpg", "racing_car/1.png", "4.png")
    (tmp_path / "bar/3.txt").write_text("a cat on a car")  # a caption names its class
    told = without_class(found(tmp_path).table)
    assert told.startswith(
        "2 of 5 folders hold images that match no class: data/x/foo (2), data/x (1); name a folder"
    )
    for name in ("foo/1.jpg", "foo/2.jpg", "4.png"):
        (tmp_path / name).unlink()
    assert without_class(found(tmp_path).table) == ""
