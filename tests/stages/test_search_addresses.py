"""search: what a list may mean by an address, and which rows mean the same one."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.search.candidates import collect
from stages.search.found import Found
from stages.search.keywords import Keywords
from stages.search.local import open_local

WORDS = Keywords(["cat"])


def collected(path: Path, text: str) -> list[tuple[str, str]]:
    path.write_text(text, encoding="utf-8")
    table = collect(open_local(path, path.name, {}, WORDS).rows(), WORDS).table
    return list(zip(table["url"].to_pylist(), table["source"].to_pylist(), strict=True))


def test_an_address_without_a_scheme_is_no_local_file(tmp_path: Path) -> None:
    listed = "url,caption\n//photos.example/a.jpg,x\nwww.photos.example/b.jpg,x\nHTTP://PHOTOS.example/c.jpg,x\n"
    listed += "  http://photos.example/d.jpg  ,x\n//photos.example:443/e.jpg,x\nwww/f.jpg,x\n//[::1]:80/g,x\n"
    assert collected(tmp_path / "list.csv", listed) == [
        ("http://photos.example/a.jpg", "http"),
        ("http://www.photos.example/b.jpg", "http"),
        ("http://photos.example/c.jpg", "http"),
        ("http://photos.example/d.jpg", "http"),
        ("https://photos.example/e.jpg", "http"),
        ("www/f.jpg", "file"),
        ("http://[::1]/g", "http"),
    ]


def test_a_list_without_a_header_may_begin_with_such_an_address(tmp_path: Path) -> None:
    listed = "//photos.example/a.jpg\tx\nhttp://photos.example/b.jpg\ty\n"
    urls = [url for url, _ in collected(tmp_path / "list.tsv", listed)]
    assert urls == ["http://photos.example/a.jpg", "http://photos.example/b.jpg"]


def test_escapes_of_html_are_undone_and_those_of_the_address_stay(tmp_path: Path) -> None:
    listed = (
        'url,caption\n"http://a.example/x?crop=1,2%2C3&amp;width=80",x\nhttp://a.example/%2F?b&#038;c,x\n'
        "a &amp; b.jpg,x\n"
    )
    assert collected(tmp_path / "list.csv", listed) == [
        ("http://a.example/x?crop=1,2%2C3&width=80", "http"),
        ("http://a.example/%2F?b&c", "http"),
        ("a &amp; b.jpg", "file"),
    ]


@pytest.mark.parametrize(
    "spelling",
    [
        "https://a.example/Cat%20(1).jpg?utm_source=commons.wikimedia.org&utm_campaign=index",
        "http://a.example/Cat (1).jpg",
        "//A.example/Cat%20%281%29.jpg?fbclid=1",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_opt_out_holds_for_every_spelling_of_its_address(spelling: str, first: bool) -> None:
    plain = Found("http://a.example/Cat%20(1).jpg", caption="cat")
    other = Found(spelling, opt_out="noai")
    rows = [other, plain] if first else [plain, other]
    found = collect([*rows, Found("http://a.example/Cat%20(2).jpg")], WORDS)
    assert found.table["opt_out"].to_pylist() == ["noai", ""]
    assert found.counts["duplicates"] == 1
    assert found.table["url"].to_pylist()[0].endswith(rows[0].url[-9:]), "the first is asked for"
