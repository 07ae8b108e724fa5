"""search: any user's list becomes candidates, or one readable line says why not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stages.search.candidates import SCHEMA, Found, Keywords, find_candidates, normalise_url
from stages.search.params import Search
from webdistill.core.errors import UserError

CLASSES = ("cat", "dog", "maple_tree", "maple", "truck")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def column(found: Found, name: str) -> list[object]:
    values: list[object] = found.table.column(name).to_pylist()
    return values


def test_csv_with_url_and_caption_is_enough(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        'caption,url,clicks\n"A cat, asleep",http://a.example/1.jpg,3\nnone,b/2.png,4\n',
    )
    found = find_candidates(path, {}, CLASSES)
    assert found.table.schema == SCHEMA
    assert found.table.to_pylist()[0] == {
        "url": "http://a.example/1.jpg", "source": "http", "row": 0, "query": "cat", "caption": "A cat, asleep",
        "licence": "", "licence_url": "", "creator": "", "landing_page": "", "opt_out": "",
    }  # fmt: skip
    assert found.table.to_pylist()[1]["source"] == "file"
    assert found.image_column == ""
    assert found.counts == {
        "rows": 2, "duplicate_urls": 0, "rows_without_url": 0, "candidates": 2, "source_embedded": 0,
        "source_file": 1, "source_http": 1, "with_query": 1, "opted_out": 0,
    }  # fmt: skip


def test_renamed_columns_tabs_and_newlines_in_captions(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'URL\tTEXT\n1.jpg\t"two\nlines, dog"\n2.jpg\t007\n')
    found = find_candidates(path, {"url": "URL", "caption": "TEXT"}, CLASSES)
    assert column(found, "caption") == ["two\nlines, dog", "007"], "text stays text"
    assert column(found, "query") == ["dog", ""]


def test_parquet_with_embedded_bytes_in_both_shapes(tmp_path: Path) -> None:
    urls = ["http://a.example/1", "", "http://a.example/3", "c.png", "", ""]
    data = [b"x", b"", None, None, None, b""]
    for name, images in (
        ("plain", pa.array(data, pa.binary())),
        ("struct", pa.array([d if d is None else {"bytes": d, "path": None} for d in data])),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"url": urls, "picture": images}), path, row_group_size=2)
        found = find_candidates(path, {"image": "picture"}, CLASSES)
        assert column(found, "source") == ["embedded", "embedded", "http", "file", "embedded"]
        assert column(found, "row") == [0, 1, 2, 3, 5], (
            "rows without a URL are candidates of their own"
        )
        assert found.counts["rows_without_url"] == 1
        assert found.image_column == "picture"


def test_a_list_of_images_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array([b"x", b"y"])}), path)
    found = find_candidates(path, {}, CLASSES)
    assert column(found, "row") == [0, 1]


def test_the_first_of_equal_urls_wins(tmp_path: Path) -> None:
    lines = [
        "HTTP://A.Example:80/x#top,one",
        "http://me:secret@a.example/x,two",
        "http://a.example/X,three",
    ]
    found = find_candidates(
        write(tmp_path / "a.csv", "url,caption\n" + "\n".join(lines)), {}, CLASSES
    )
    assert column(found, "url") == ["http://a.example/x", "http://a.example/X"]
    assert column(found, "caption") == ["one", "three"]
    assert found.counts["duplicate_urls"] == 1


def test_an_opt_out_counts_for_every_row_of_its_url(tmp_path: Path) -> None:
    lines = [
        "x.jpg,",
        "http://A.example/x#1,",
        ",",
        "x.jpg,noai",
        "http://a.example/x,tdm",
        ",noai",
    ]
    path = write(tmp_path / "a.csv", "url,opt_out\n" + "\n".join(lines))
    assert column(find_candidates(path, {}, CLASSES), "opt_out") == ["noai", "tdm"]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b"x", b"y"], "opt_out": ["", "noai"]}), path)
    assert column(find_candidates(path, {}, CLASSES), "opt_out") == ["", "noai"]


def test_no_user_info_is_kept(tmp_path: Path) -> None:
    line = "http://me:pw@a.example/x," * 3
    path = write(tmp_path / "a.csv", f"url,landing_page,licence_url\n{line[:-1]}\n")
    row = find_candidates(path, {}, CLASSES).table.to_pylist()[0]
    assert {row[name] for name in ("url", "landing_page", "licence_url")} == {"http://a.example/x"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  https://Example.COM ", "https://example.com/"),
        ("https://example.com:443/a?b=C&d#e", "https://example.com/a?b=C&d"),
        ("https://example.com:8443/%7Ea", "https://example.com:8443/%7Ea"),
        ("http://user:pw@example.com/a", "http://example.com/a"),
        ("http://user:p@ss@example.com/a", "http://example.com/a"),
        ("http://user:pw@[::1]:80/a", "http://[::1]/a"),
        ("http://user:pw@[broken/a", "http://[broken/a"),
        ("ftp://user:pw@example.com/a", "ftp://example.com/a"),
        ("http://user:pw@example.com:port/a", "http://example.com:port/a"),
        ("http://a.example/\r\nHost: b", "http://a.example/\r\nHost: b"),
        ("http://me:p w@host/", "http://host/"),
        ("http://me:p\\w@host/", "http://host/"),
        ("//me:pw@host/a", "//host/a"),
        ("http://host/a@b?c=d@e", "http://host/a@b?c=d@e"),
        ("photos//cat@2x.jpg", "photos//cat@2x.jpg"),
        ("photos/Cat 1.JPG", "photos/Cat 1.JPG"),
        ("../up.png", "../up.png"),
        ("C:pic.png", "C:pic.png"),
    ],
)
def test_normalise_url(text: str, expected: str) -> None:
    assert normalise_url(text) == expected
    assert normalise_url(expected) == expected, "normalising twice changes nothing"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a CAT on a mat", "cat"),
        ("concatenate the category", ""),
        ("truck and dog", "truck"),
        ("a maple tree in autumn", "maple_tree"),
        ("maple_tree", "maple_tree"),
        ("maple syrup, cat", "maple"),
        ("dogs", ""),
        ("hot-dog", "dog"),
        ("", ""),
    ],
)
def test_query_from_the_caption(caption: str, expected: str) -> None:
    assert Keywords(CLASSES).first_in(caption) == expected


def test_a_class_name_is_no_pattern() -> None:
    assert Keywords(["c++", "a.b"]).first_in("axb or c++ code") == "c++"


def test_a_given_query_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "url,query,caption\n1.jpg,truck,a dog\n2.jpg,,a dog\n")
    assert column(find_candidates(path, {}, CLASSES), "query") == ["truck", "dog"]


def test_opt_out_in_any_spelling(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    urls = [f"{n}.jpg" for n in range(3)]
    pq.write_table(pa.table({"url": urls, "opt_out": [True, False, None]}), path)
    assert column(find_candidates(path, {}, CLASSES), "opt_out") == ["True", "", ""]
    path = write(
        tmp_path / "a.csv", "url,opt_out\n1,\n2,False\n3,0\n4,noai\n5,tdm-reservation: 1\n"
    )
    found = find_candidates(path, {}, CLASSES)
    assert column(found, "opt_out") == ["", "", "", "noai", "tdm-reservation: 1"]
    assert found.counts["opted_out"] == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, text, expected in (
        ("a.xls", "x", r"expected a \.csv, \.tsv or \.parquet file"),
        ("a.parquet", "x", "cannot read"),
        ("empty.csv", "", "cannot read"),
        ("ragged.csv", "url,caption\n1,2,3\n", "cannot read"),
        ("header.csv", "url,caption\n", "holds no candidate"),
        ("blank.csv", "url,caption\n,x\n", "holds no candidate"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            find_candidates(write(tmp_path / name, text), {}, CLASSES)
        assert "\n" not in str(caught.value)
    (tmp_path / "latin.csv").write_bytes(b"url,caption\n1,caf\xe9\n")
    with pytest.raises(UserError, match="cannot read"):
        find_candidates(tmp_path / "latin.csv", {}, CLASSES)


def test_missing_columns_name_those_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "link,text\n1,2\n")
    with pytest.raises(
        UserError, match=r"no column 'url'; it has link, text.*columns: {url: link}"
    ):
        find_candidates(path, {}, CLASSES)
    with pytest.raises(
        UserError, match=r"search\.columns\.caption: .* no column 'txt'; it has link, text"
    ):
        find_candidates(path, {"url": "link", "caption": "txt"}, CLASSES)
    pq.write_table(pa.table({"image": ["text"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"must hold bytes .* found string"):
        find_candidates(tmp_path / "a.parquet", {}, CLASSES)


def test_params_know_our_columns_only() -> None:
    parsed = Search.model_validate_json('{"list": "a.csv", "columns": {"url": "URL"}}')
    assert parsed.columns == {"url": "URL"}
    with pytest.raises(ValidationError):
        Search.model_validate_json('{"list": "a.csv", "columns": {"captoin": "TEXT"}}')
