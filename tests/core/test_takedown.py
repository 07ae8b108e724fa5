"""takedown.txt: what an entry may look like, which images it means, and which line is wrong."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from webdistill.core.errors import UserError
from webdistill.takedown import look_up, read_takedown, taken_down

ID, SHA256 = "0123456789abcdef" * 2, "0123456789abcdef" * 4
ROOT = Path(__file__).parents[2]


def read(tmp_path: Path, *lines: str) -> object:
    path = tmp_path / "takedown.txt"
    path.write_text("\n".join(lines))
    return read_takedown(path)


def ledger(*rows: tuple[str, str, str, str]) -> pa.Table:
    origins = ["https://from.example/7.jpg" if row[2] == "photos/cat.jpg" else "" for row in rows]
    columns = [*zip(*rows, strict=True), ["walk/list.csv"] * len(rows), origins]
    names = ("id", "sha256", "url", "landing_page", "file", "origin")
    return pa.table({n: pa.array(c, pa.string()) for n, c in zip(names, columns, strict=True)})


ROWS = ledger(
    ("a" * 32, "1" * 64, "https://img.example.org/cat.jpg?w=3", "https://example.org/cats"),
    ("b" * 32, "2" * 64, "http://example.org:8080/dog.jpg", ""),
    ("c" * 32, "3" * 64, "https://notexample.org/x.jpg", "https://elsewhere.net/?u=example.org"),
    ("", "", "https://img.example.org/gone.jpg", ""),
    ("a" * 32, "4" * 64, "https://mirror.net/copy.png", ""),
    ("d" * 32, "5" * 64, "photos/cat.jpg", ""),
    ("e" * 32, "6" * 64, "https://xn--bcher-kva.example/a.jpg", ""),
    ("f" * 32, "7" * 64, "", ""),
)


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("id:" + "b" * 32, "b"),
        ("ID:" + "B" * 32, "b"),
        ("b" * 32, "b"),
        ("sha256:" + "3" * 64, "c"),
        ("3" * 64, "c"),
        ("4" * 64, "a"),  # the copy's file: its pixels are those of another host's
        ("https://img.example.org/cat.jpg?w=3", "a"),
        ("HTTP://user:secret@IMG.example.org:80/cat.jpg?w=3#top", "a"),
        ("https://img.example.org/cat.jpg?w=3&token=abc", "a"),
        ("https://img.example.org/cat.jpg", ""),
        ("https://example.org/cats", "a"),
        ("https://mirror.net/copy.png", "a"),
        ("http://example.org:8080/dog.jpg", "b"),
        ("http://example.org/dog.jpg", ""),
        ("photos/cat.jpg", "d"),
        ("walk/list.csv/photos/cat.jpg", "d"),  # as `why` finds it, too
        ("elsewhere/photos/cat.jpg", ""),
        ("http://from.example/7.jpg?utm_source=a", "d"),  # which it was downloaded from
        ("*.example", "de"),
        ("host:example.org", "ab"),  # one by its page, one in spite of its port
        ("host:img.example.org", "a"),
        ("host:EXAMPLE.org.", "ab"),
        ("host:org", ""),
        ("*.example.org", "ab"),
        ("host:*.example.org", "ab"),
        ("*.org", "abc"),
        ("*.ample.org", ""),
        ("host:bücher.example", "e"),
        ("https://bücher.example/a.jpg", "e"),
        ("https://mirror.net./copy.png", "a"),
    ],
)
def test_an_entry_means_every_image_that_any_candidate_fits(
    tmp_path: Path, entry: str, wanted: str
) -> None:
    found = taken_down(read(tmp_path, "# a list", "", entry), ROWS)
    assert found == {letter * 32: 3 for letter in wanted}


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ('"my photos/a cat.jpg"', "my photos/a cat.jpg"),
        ('  "my photos/a cat.jpg"   # asked by mail', "my photos/a cat.jpg"),
        ('"walk/list.csv/my photos/a cat.jpg"', "my photos/a cat.jpg"),
        ('"album #3 #4/a.jpg" # "both"', "album #3 #4/a.jpg"),
        ('"the ""old"" one/a.jpg"', 'the "old" one/a.jpg'),
        ('"https://a.example/my cat.jpg"', "https://a.example/my%20cat.jpg"),
        ("https://a.example/my%20cat.jpg", "https://a.example/my cat.jpg"),
        ('"host:a.example"', "https://a.example/my%20cat.jpg"),
        ('say/"so".jpg', 'say/"so".jpg'),
    ],
)
def test_in_quotes_an_entry_may_have_blanks(tmp_path: Path, line: str, url: str) -> None:
    rows = ledger(("a" * 32, "1" * 64, url, ""), ("b" * 32, "2" * 64, "my", ""))
    assert taken_down(read(tmp_path, line), rows) == {"a" * 32: 1}


def test_blanks_without_quotes_are_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: more than one word; .* in double quotes; write"):
        read(tmp_path, "my photos/a cat.jpg # asked by mail")


def test_an_id_needs_no_ledger(tmp_path: Path) -> None:
    assert taken_down(read(tmp_path, ID), ROWS) == {ID: 1}


def test_of_several_entries_the_first_is_named(tmp_path: Path) -> None:
    entries = read(tmp_path, "5" * 64, "*.net", "host:mirror.net", "1" * 64, "id:" + "a" * 32)
    assert taken_down(entries, ROWS) == {"d" * 32: 1, "a" * 32: 2, "c" * 32: 2}


def test_comments_blank_lines_and_line_ends_are_nothing(tmp_path: Path) -> None:
    path = tmp_path / "takedown.txt"
    path.write_bytes(f"\ufeff# héllo\r\n\r\n  {ID}   # asked by mail\r\n#{SHA256}\r\n".encode())
    found = read_takedown(path)
    assert dict(found.id) == {ID: 3}
    assert not any((found.sha256, found.address, found.host, found.below))


def test_a_fragment_is_no_comment(tmp_path: Path) -> None:
    entries = read(tmp_path, "https://mirror.net/copy.png#here")
    assert taken_down(entries, ROWS) == {"a" * 32: 1}


@pytest.mark.parametrize(
    "entry",
    [
        "example.org",
        "cat.jpg",
        "abcdef",
        "id:" + "g" * 32,
        "id:" + "a" * 31,
        "sha256:" + "a" * 32,
        "a" * 40,
        "host:",
        "host:exa mple.org",
        "host:https://example.org",
        "*.",
        "*",
        "img*.example.org",
        "https://",
        "https:///cat.jpg",
        "ftp://example.org/cat.jpg",
        "htps://example.org/cat.jpg",
        "https://example.org/a.jpg https://example.org/b.jpg",
        '"https://example.org/a.jpg https://example.org/b.jpg"',
        '"https://exam ple.org/a.jpg"',
        '"host:exa mple.org"',
        '"two words"',
        '"photos/a.jpg" "photos/b.jpg"',
        "https://*.example.org/a.jpg",
        "https://example.org/*",
        "example.org/*",
    ],
)
def test_a_line_that_is_no_entry_is_named_with_the_fix(tmp_path: Path, entry: str) -> None:
    with pytest.raises(UserError, match=r"takedown\.txt line 2: .*; write sha256:") as caught:
        read(tmp_path, ID, entry)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read .*takedown.txt"):
        read_takedown(tmp_path / "takedown.txt")
    (tmp_path / "takedown.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read .*takedown.txt"):
        read_takedown(tmp_path / "takedown.txt")


def test_the_projects_own_list_is_empty() -> None:
    assert taken_down(read_takedown(ROOT / "takedown.txt"), ROWS) == {}


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("https://a.example/x.jpg", "http://a.example/x.jpg?utm_source=api&utm_medium=b"),
        ("https://a.example/x.jpg?utm_source=api", "http://a.example/x.jpg"),
        ("http://a.example/x.jpg?b=1", "http://a.example/x.jpg?utm_id=2&b=1&UTM_term=3"),
        ("http://a.example/x%28y%29.jpg", "http://a.example/x(y).jpg"),
        ("//a.example/x.jpg", "https://a.example/x.jpg?gclid=1"),
        ("http://a.example/x?a=1&amp;b=2", "http://a.example/x?a=1&b=2"),
    ],
)
def test_tracking_parameters_and_escapes_make_no_other_address(
    tmp_path: Path, entry: str, url: str
) -> None:
    path = tmp_path / "takedown.txt"
    path.write_text(f"# first\n{entry}\n")
    assert read_takedown(path).by_candidate(url, "", "") == 2
    assert read_takedown(path).by_candidate(url.replace("/x", "/y"), "", "") == 0


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("Example.org/a.jpg", "https://example.org/a.jpg"),
        ("example.org/a.jpg?utm_source=b", "http://example.org/a.jpg"),
        ("www.example.org/a%28b%29.jpg", "https://www.example.org/a(b).jpg"),
        ("example.org/A.jpg", "example.org/A.jpg"),  # a folder that is called after a host
        ("./walk/photos/cat.jpg", "photos/cat.jpg"),
        ("walk//photos/cat.jpg", "./photos/cat.jpg"),
        ("photos/cat.jpg", "../photos/cat.jpg"),
        ("walk/photos/e\u0301.jpg", "photos/\u00e9.jpg"),
    ],
)
def test_an_address_without_its_scheme_and_a_path_count_however_they_are_spelt(
    tmp_path: Path, entry: str, url: str
) -> None:
    entries = read(tmp_path, entry)
    assert entries.by_candidate(url, "", "walk") == 1
    assert entries.by_candidate(url.replace(".jpg", ".png"), "", "walk") == 0


@pytest.mark.parametrize("entry", ["host:www.example.org", "*.example.org", "www.example.org/Cats"])
def test_a_page_that_a_list_names_without_its_scheme_counts(tmp_path: Path, entry: str) -> None:
    entries = read(tmp_path, entry)
    assert entries.by_candidate("https://cdn.net/1.jpg", "WWW.example.org/Cats", "") == 1
    if entry != "www.example.org/Cats":
        assert entries.by_candidate("https://cdn.net/1.jpg", "www.example.org:8080/b", "") == 1
    assert entries.by_candidate("https://cdn.net/1.jpg", "mailto:me@example.net", "") == 0
    assert entries.by_candidate("https://cdn.net/1.jpg", "www.examples.org/Cats", "") == 0


def test_lines_that_mean_no_candidate_are_known(tmp_path: Path) -> None:
    entries = read(
        tmp_path, "host:mirror.net", "https://example.org/typo", "f" * 32, ID, SHA256, "1" * 64,
        "https://img.example.org/gone.jpg", "*.org", "*.info", "https://mirror.net/copy.png",
    )  # fmt: skip
    assert look_up(entries, ROWS)[1] == [2, 4, 5, 9]
