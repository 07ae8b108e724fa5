"""search: any user's list becomes candidates, or one readable line says why not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from stages.search.found import Found
from stages.search.keywords import Keywords
from stages.search.local import open_local
from webdistill.core.errors import UserError

ROOT = Path(__file__).parents[2]
WEBMETA = ROOT.parent / "shared" / "data" / "webmeta"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def rows(path: Path, columns: Mapping[str, str] | None = None) -> list[Found]:
    return list(open_local(path, "lists/" + path.name, columns or {}, Keywords(["cat"])).rows())


def test_csv_with_url_and_caption_is_enough(tmp_path: Path) -> None:
    text = 'caption,url,clicks\n"A cat, asleep",http://a.example/1.jpg,3\nnone,b/2.png,4\n'
    assert rows(write(tmp_path / "a.csv", text)) == [
        Found("http://a.example/1.jpg", "http", "", 0, "list", caption="A cat, asleep"),
        Found("b/2.png", "file", "lists", 1, "list", caption="none"),
    ]


def test_quotes_tabs_and_newlines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'URL\tTEXT\n1.jpg\t"two\nlines, dog"\n2.jpg\t007\n')
    assert [one.caption for one in rows(path)] == ["two\nlines, dog", "007"], "text stays text"


@pytest.mark.parametrize(
    ("header", "url", "caption"),
    [
        ("SAMPLE_ID,URL,TEXT,HEIGHT,WIDTH,LICENSE,NSFW,similarity", "URL", "TEXT"),  # LAION
        ("uid,url,text,original_width,original_height,sha256", "url", "text"),  # DataComp
        ("url,key,status,error_message,caption,width,exif", "url", "caption"),  # img2dataset
        ("image_url,Alt Text", "image_url", "Alt Text"),
        ("id,url,image_url,title,description", "image_url", "description"),  # iNaturalist's export
        ("URL,img_url,text", "img_url", "text"),
        ("url,image_urls,thumbnail_url,title", "image_urls", "title"),  # Scrapy
        (
            "url,thumbnail_url,download_url,title",
            "url",
            "title",
        ),  # ours goes before the others of its group
        ("image,caption", "image", "caption"),  # Flickr8k: file names
        ("file_name,text", "file_name", "text"),  # Hugging Face image folders
        ("Path,URL,Title", "URL", "Title"),
        ("filename,file_url,description", "file_url", "description"),
        ("photo_id,photo_url,photo_image_url,title", "photo_image_url", "title"),
    ],
)
def test_the_usual_names_are_known(tmp_path: Path, header: str, url: str, caption: str) -> None:
    names = header.split(",")
    path = write(tmp_path / "a.csv", f"{header}\n{','.join(f'<{name}>' for name in names)}\n")
    (one,) = rows(path)
    assert (one.url, one.caption) == (f"<{url}>", f"<{caption}>")


def test_rights_are_read_and_unknown_ones_are_empty(tmp_path: Path) -> None:
    text = (
        "url,LICENSE,license_url,author,page_url,credit,opt-out,keyword\n"
        "1,CC0,http://l.example/0,Ada,http://p.example/1,Ada/CC0,noai,cat\n2,?,nan,None,,?,,\n"
    )
    first, second = rows(write(tmp_path / "a.csv", text))
    assert first[5:10] == ("cat", "", "CC0", "http://l.example/0", "Ada")
    assert first[10:13] == ("http://p.example/1", "Ada/CC0", "noai")
    assert second[5:13] == ("", "", "", "", "", "", "?", "")


def test_columns_named_by_the_user_go_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "url,link,text,words\n1,2,3,4\n")
    (one,) = rows(path, {"url": "link", "caption": "words"})
    assert (one.url, one.caption) == ("2", "4")
    (one,) = rows(path, {"landing_page": "url", "url": "link"})
    assert (one.url, one.landing_page) == ("2", "1")


def test_two_columns_of_one_meaning_are_a_question(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "image_url,img_url,text\n1,2,3\n")
    with pytest.raises(
        UserError, match=r"image_url and img_url could each be the url; .*{url: image_url}"
    ):
        rows(path)
    assert rows(path, {"url": "img_url"})[0].url == "2"


PAGE, PICTURE = "http://a.example/observations/1", "http://a.example/1/medium.jpg"


@pytest.mark.parametrize(
    "name", ["a.csv", "a.jsonl", "a.parquet", "large.parquet", "view.parquet", "dictionary.parquet"]
)
def test_beside_the_address_of_a_picture_url_is_its_page(tmp_path: Path, name: str) -> None:
    kinds = {
        "a.parquet": pa.string(), "large.parquet": pa.large_string(), "view.parquet": pa.string_view(),
        "dictionary.parquet": pa.dictionary(pa.int32(), pa.string()),
    }  # fmt: skip

    def first(columns: Mapping[str, str] | None = None, **cells: str) -> tuple[str, str]:
        path = tmp_path / name
        if name == "a.csv":
            write(path, f"{','.join(cells)}\n{','.join(cells.values())}\n")
        elif name == "a.jsonl":
            write(path, json.dumps(cells))
        else:
            kind = kinds[name]
            table = pa.table({key: pa.array([cell], kind) for key, cell in cells.items()})
            pq.write_table(table, path)
        (one,) = rows(path, columns)
        return one.url, one.landing_page

    export = {"id": "1", "url": PAGE, "image_url": PICTURE, "sound_url": ""}
    assert first(**export) == (PICTURE, PAGE)
    assert first({"url": "image_url"}, **export) == (PICTURE, PAGE)
    assert first({"landing_page": "id"}, **export) == (PICTURE, "1")
    assert first(**export, page_url="") == (PICTURE, PAGE)
    assert first(**export, page_url="http://a.example/p") == (PICTURE, "http://a.example/p")
    assert first({"url": "url"}, **export) == (PAGE, "")
    for empty in ("", "1.jpg"):
        assert first(url=PICTURE, image_url=empty) == (PICTURE, ""), "the only addresses"
    assert first(url=PICTURE, references=PAGE) == (PICTURE, PAGE)


def test_without_a_header_the_address_is_found_by_its_look(tmp_path: Path) -> None:
    for name, text in (
        ("cc3m.tsv", 'a "cat" , asleep\thttps://a.example/1\n"dog\thttp://a.example/2\n'),
        ("cc12m.tsv", 'https://a.example/1\ta "cat" , asleep\nhttp://a.example/2\t"dog\n'),
    ):
        found = rows(write(tmp_path / name, text))
        assert [one.url for one in found] == ["https://a.example/1", "http://a.example/2"]
        assert [one.caption for one in found] == ['a "cat" , asleep', '"dog'], "quotes are text"
        assert [one.row for one in found] == [0, 1]
    (one,) = rows(write(tmp_path / "one.csv", "https://a.example/1\n"))
    assert one == Found("https://a.example/1", "http", "", 0, "list")


def test_without_a_header_columns_have_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "http://a.example/1,http://a.example/page,a cat,CC0\n")
    with pytest.raises(
        UserError, match=r"several columns: 1 \('http://a.example/1'\), 2 .*{url: \"1\"}"
    ):
        rows(path)
    (one,) = rows(path, {"url": "1", "landing_page": "2", "licence": "4"})
    assert (one.url, one.landing_page, one.caption, one.licence) == (
        "http://a.example/1", "http://a.example/page", "", "CC0",
    )  # fmt: skip


def test_parquet_with_embedded_bytes_in_both_shapes(tmp_path: Path) -> None:
    urls = ["http://a.example/1", "", "http://a.example/3", "c.png", "", ""]
    data = [b"x", b"", None, None, None, b""]
    for name, images in (
        ("plain", pa.array(data, pa.binary())),
        ("struct", pa.array([d if d is None else {"bytes": d, "path": None} for d in data])),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"url": urls, "photo": images}), path, row_group_size=2)
        found = rows(path, {"image": "photo"})
        assert [one.source for one in found] == [
            "embedded", "embedded", "http", "file", "http", "embedded",
        ]  # fmt: skip
        assert [one.row for one in found] == list(range(6))
        assert {one.file for one in found if one.source == "embedded"} == {f"lists/{name}.parquet"}


@pytest.mark.parametrize("name", ["image", "jpg", "Picture", "image_bytes", "anything"])
def test_image_columns_are_found_by_name_or_by_being_the_only_one(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"label": [3, 4], name: [b"x", b"y"]}), path)
    part = open_local(path, "a.parquet", {}, Keywords(["cat"])).parts[0]
    assert part.column == name
    assert [one.row for one in part.rows()] == [0, 1]


def test_bytes_beside_addresses_are_images_only_when_called_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": ["http://a.example/1"], "phash": [b"x"]}), path)
    assert rows(path)[0].source == "http"
    pq.write_table(pa.table({"url": ["u"], "photo": [{"bytes": b"x", "path": None}]}), path)
    assert rows(path)[0].source == "embedded", "the shape of Hugging Face says what it is"


def test_other_columns_become_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"url": [b" u "], "caption": [["a", None, "b"]], "opt_out": [True]}), path
    )
    (one,) = rows(path)
    assert (one.url, one.caption, one.opt_out) == ("u", "a, b", "True")
    pq.write_table(
        pa.table({"image_urls": [["u"]], "caption": [float("nan")], "text": ["a"]}), path
    )
    (one,) = rows(path)
    assert (one.url, one.caption) == ("u", "a"), (
        "what pandas writes where there is none says nothing"
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, text, expected in (
        ("a.xls", "x", r"search\.local: expected a list \(\.csv, \.tsv, .* a \.tar or a folder"),
        ("a.parquet", "x", "cannot read"),
        ("empty.csv", "", "cannot read"),
        ("ragged.csv", "url,caption\n1,2,3\n", "cannot read"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=expected) as caught:
            rows(write(tmp_path / name, text))
        assert "\n" not in str(caught.value)
    (tmp_path / "latin.csv").write_bytes(b"url,caption\n1,caf\x81\xe9\n")
    with pytest.raises(UserError, match="cannot read"):
        rows(tmp_path / "latin.csv")
    (tmp_path / "head.csv").write_bytes(b"url,caf\x81\xe9\n1,a\n2,b\n")
    with pytest.raises(UserError, match="its first line is no UTF-8; convert it"):
        rows(tmp_path / "head.csv")


def test_a_damaged_page_is_no_shorter_list(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"url": [f"http://a.example/{n}" for n in range(100)]})
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    data = bytearray(path.read_bytes())
    data[data.index(b"a.example/50")] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot read"):
        rows(path)


def test_missing_columns_name_those_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "link,words\n1,2\n")
    with pytest.raises(
        UserError, match=r"no column 'url'; it has link, words.*columns: {url: link}"
    ):
        rows(path)
    with pytest.raises(
        UserError, match=r"search\.columns\.caption: .* no column 'txt'; it has link, words"
    ):
        rows(path, {"url": "link", "caption": "txt"})
    for header in (f"{'n,' * 100_000}x", "x" * 100_000, "abc\0\x1b[2Jx,y"):
        with pytest.raises(UserError, match="no column 'url'") as caught:
            rows(write(tmp_path / "a.csv", f"{header}\n1,2\n"))
        assert len(str(caught.value)) < 500
        assert str(caught.value).isprintable()
    pq.write_table(pa.table({"image": ["text"]}), tmp_path / "a.parquet")
    for columns in ({}, {"image": "image"}):
        with pytest.raises(UserError, match=r"must hold bytes .* found string"):
            rows(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=r"search\.columns\.image: .* no column 'photo'"):
        rows(tmp_path / "a.parquet", {"image": "photo"})


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_no_id_is_proposed_as_an_address(tmp_path: Path, name: str) -> None:
    def refused(table: dict[str, str]) -> str:
        path = tmp_path / name
        match path.suffix:
            case ".csv":
                write(path, f"{','.join(table)}\n{','.join(table.values())}\n")
            case ".jsonl":
                write(path, json.dumps(table))
            case _:
                pq.write_table(pa.table({key: [cell] for key, cell in table.items()}), path)
        with pytest.raises(UserError) as caught:
            rows(path)
        return str(caught.value)

    address = {"id": "1", "image_id": "2", "where": "https://a.example/1", "label": "cat"}
    assert "columns: {url: where}" in refused(address), "its cells are addresses"
    assert "columns: {url: photo_link}" in refused({"id": "1", "image_id": "2", "photo_link": "3"})
    page = {"occurrenceID": "https://a.example/o/1", "page": "https://a.example/1"}
    assert "{url: thumb}" in refused({**page, "thumb": "https://a.example/1.JPG?w=9"}), "a picture"
    assert "{url: page}" in refused(page), "an id whose cells are addresses is one"
    line = refused(
        {"id": "1", "image_id": "2", "identifier": "x", "file_hash": "y", "mediaType": "z"}
    )
    assert line.endswith("with the addresses as `columns.url` under search in params.yaml")


def test_class_numbers_of_hugging_face_become_names(tmp_path: Path) -> None:
    """As `datasets` writes them: images as structs, classes as numbers whose names stand in the header."""
    table = pa.table({
        "img": [{"bytes": b"a", "path": None}, {"bytes": b"b", "path": None}, {"bytes": b"c", "path": None}],
        "label": [1, 0, -1],
    })  # fmt: skip
    features = {
        "img": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    }
    header = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(header), tmp_path / "a.parquet")
    assert [(one.source, one.query) for one in rows(tmp_path / "a.parquet")] == [
        ("embedded", "dog"), ("embedded", "cat"), ("embedded", ""),
    ]  # fmt: skip
    assert [one.caption for one in rows(tmp_path / "a.parquet", {"caption": "label"})] == [
        "dog",
        "cat",
        "",
    ]
    for broken in (
        "{",
        "[]",
        '{"info": 1}',
        '{"info": {"features": {"label": {"_type": "ClassLabel"}}}}',
    ):
        pq.write_table(
            table.replace_schema_metadata({"huggingface": broken}), tmp_path / "b.parquet"
        )
        assert [one.query for one in rows(tmp_path / "b.parquet")] == [""] * 3


@pytest.mark.skipif(not WEBMETA.is_dir(), reason="the real lists are not on this machine")
@pytest.mark.parametrize(
    ("local", "total"),
    [
        (
            "webmeta/img2dataset_test_10000.parquet",
            "9,998",
        ),  # one address twice, one by http and https
        ("webmeta/Validation_GCC-1.1.0-Validation.tsv", "15,833"),
        ("pacs/pacs_s64.parquet", "9,991"),
    ],
)
def test_real_lists_and_images_in_a_dry_run(local: str, total: str) -> None:
    command = [
        sys.executable,
        "-m",
        "stages.search",
        "--dry-run",
        "--set",
        f"search.local={WEBMETA.parent / local}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].split() == ["total", total, total]


@pytest.mark.skipif(not WEBMETA.is_dir(), reason="the real lists are not on this machine")
def test_the_real_lists_load_unchanged() -> None:
    for name in ("img2dataset_test_1000.parquet", "img2dataset_test_10000.parquet"):
        expected = pq.read_table(WEBMETA / name)
        found = rows(WEBMETA / name)
        assert [one.url for one in found] == [url.strip() for url in expected["URL"].to_pylist()]
        assert [one.caption for one in found] == [t.strip() for t in expected["TEXT"].to_pylist()]
    lines = (WEBMETA / "Validation_GCC-1.1.0-Validation.tsv").read_text().splitlines()
    found = rows(WEBMETA / "Validation_GCC-1.1.0-Validation.tsv")
    assert [f"{one.caption}\t{one.url}" for one in found] == lines
    assert {one.source for one in found} == {"http"}


def test_a_long_list_is_read_in_pieces(tmp_path: Path) -> None:
    table = pa.table({"url": [f"http://a.example/{n}" for n in range(20_000)]})
    pacsv.write_csv(
        table.append_column("caption", pa.array(["x" * 300] * 20_000)), tmp_path / "a.csv"
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7_000)
    for name in ("a.csv", "a.parquet"):
        found = rows(tmp_path / name)
        assert [one.url for one in found] == table["url"].to_pylist()
        assert [one.row for one in found] == list(range(20_000))
