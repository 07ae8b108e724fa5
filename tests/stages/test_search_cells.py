"""search: what stands in the cell of an address: one, several, a structure, marks around it, a word for none."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.search.cells import addresses
from stages.search.found import Found
from stages.search.keywords import Keywords
from stages.search.local import open_local
from tests.stages.test_search_text import GOOD, HEAD, read, urls
from webdistill.core.errors import UserError


@pytest.mark.parametrize(
    "cell",
    [
        "http://a.example/1 http://a.example/2", "http://a.example/1|http://a.example/2",
        "http://a.example/1 | http://a.example/2", "http://a.example/1;https://a.example/2",
        "http://a.example/1, http://a.example/2", "http://a.example/1\nhttp://a.example/2",
        "http://a.example/1 300w, http://a.example/2 1.5x",
        "['http://a.example/1', 'http://a.example/2']", '["http://a.example/1","http://a.example/2"]',
        "{http://a.example/1,http://a.example/2}", "(http://a.example/1, http://a.example/2)",
    ],
)  # fmt: skip
def test_a_cell_with_several_addresses_gives_several_candidates(tmp_path: Path, cell: str) -> None:
    quoted = cell.replace('"', '""')
    text = f'url,caption,md5\n"{quoted}",a cat,{"0" * 32}\nhttp://a.example/3,a dog,{"1" * 32}\n'
    found = list(read(tmp_path / "a.csv", text).rows())
    assert [one.url.replace("https", "http") for one in found] == [
        f"http://a.example/{n}" for n in (1, 2, 3)
    ]
    assert [one.caption for one in found] == ["a cat", "a cat", "a dog"]
    assert [one.md5 for one in found] == ["", "", "1" * 32], "nobody says whose digest it is"


@pytest.mark.parametrize("cell", ['["{}"]', "['{}']", "{{{}}}", "<{}>", "'{}'"])
def test_one_address_may_be_a_list_or_stand_between_marks(tmp_path: Path, cell: str) -> None:
    row = cell.format("http://a.example/b[1]_(2)").replace('"', '""')
    assert urls(tmp_path / "a.csv", f'{HEAD}"{row}",x\n') == ["http://a.example/b[1]_(2)"]


@pytest.mark.parametrize(
    "cell",
    [
        "\u200b{}\u200b", "\ufeff{}", "\u202a{}\u202c", " \u200e{}\u200e ", "\u201c{}\u201d", "\u00ab{}\u00bb",
        '![a cat]({} "a cat")',
        "a cat.jpg ({})", "![a cat]({})", "[a cat]({})", '<img src="{}" alt="a cat">', "<a href='{}'>", '=IMAGE("{}")',
        '=HYPERLINK("{}", "a cat")',
    ],
)  # fmt: skip
def test_an_address_may_be_copied_with_what_stood_around_it(tmp_path: Path, cell: str) -> None:
    address = "https://a.example/b_(1).jpg?c=d,e"
    quoted = cell.format(address).replace('"', '""')
    assert urls(tmp_path / "a.csv", f'url,caption\n"{quoted}",a cat\n') == [address]


def test_several_addresses_may_stand_in_brackets(tmp_path: Path) -> None:
    """As Airtable exports attachments."""
    cell = "a.jpg (https://a.example/1),b.jpg (https://a.example/2)"
    assert urls(tmp_path / "a.csv", f'url\tcaption\n"{cell}"\tcat\n') == [
        "https://a.example/1",
        "https://a.example/2",
    ]


def test_an_address_may_be_in_a_structure(tmp_path: Path) -> None:
    cell = {"id": "x", "src": "http://a.example/1", "width": 3}
    for name, value in (
        ("url", cell),
        ("image_url", [cell, {**cell, "src": "http://a.example/2"}]),
        ("image", {"thumb": "http://a.example/3", **cell}),
        ("images", [cell, {**cell, "src": "http://a.example/2"}]),
        ("image", {"id": "x", "large": cell}),
    ):
        pq.write_table(pa.table({name: [value]}), tmp_path / "a.parquet")
        (tmp_path / "a.jsonl").write_text(json.dumps({name: value}) + "\n")
        for path in (tmp_path / "a.parquet", tmp_path / "a.jsonl"):
            rows = open_local(path, path.name, {}, Keywords(["cat"])).rows()
            found = [one.url for one in rows]
            assert found == ["http://a.example/1", "http://a.example/2"][: len(found)]
            assert len(found) == (2 if isinstance(value, list) else 1)
    assert urls(tmp_path / "b.jsonl", '{"url": {"id": "x"}}\n') == [""]
    cells = pa.array([["http://a.example/1"]], pa.list_(pa.string(), 1))
    pq.write_table(pa.table({"image": cells}), tmp_path / "b.parquet")
    (one,) = open_local(tmp_path / "b.parquet", "b.parquet", {}, Keywords(["cat"])).rows()
    assert one.url == "http://a.example/1"


@pytest.mark.parametrize(
    "text",
    ['[{},\n{},\n]\n', "[\n{}\n,{}\n]", "{},\n{},\n", "\x1e{}\n\x1e{}\n", " {} \r\n\r\n{}", "[{}, {}]", "{}{}"],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1])
def test_lines_of_json_may_be_those_of_an_array(
    tmp_path: Path, text: str, indent: int | None
) -> None:
    for n in (1, 2):
        row = {"url": f"http://a.example/{n}", "x": [n, {"y": "}{"}]}
        text = text.replace("{}", json.dumps(row, indent=indent), 1)
    local = read(tmp_path / "a.jsonl", text)
    assert [one.url for one in local.rows()] == ["http://a.example/1", "http://a.example/2"]
    assert not local.lost()
    with pytest.raises(UserError, match=r"\(line 1\); JSON must be one object a line"):
        list(read(tmp_path / "b.jsonl", '[{"url": "http://a.example/1"}, 2]').rows())


def test_json_that_breaks_off_costs_its_row_alone(tmp_path: Path) -> None:
    good = json.dumps({"url": "http://a.example/1"})
    text = f'{{"url": "http://a.exa\n{good}\n{{"url":\n{good}\n{{"url": {{\n'
    local = read(tmp_path / "a.jsonl", text)
    assert [one.url for one in local.rows()] == ["http://a.example/1"] * 2
    assert local.lost()["a.jsonl"].lines == [1, 3, 5]
    local = read(tmp_path / "b.jsonl", '{"url": [\n' * 20_000 + good)
    assert [one.url for one in local.rows()] == ["http://a.example/1"], "and takes no hour"


def test_a_structure_says_what_it_is_called_by(tmp_path: Path) -> None:
    row = {
        "url": "http://a.example/1",
        "creator": {"id": 7, "name": "Ada"},
        "license": {"value": "CC0", "source": "x"},
        "caption": {"en": "a cat", "de": "eine Katze"},
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    for path in (tmp_path / "a.parquet", tmp_path / "a.jsonl"):
        (one,) = open_local(path, path.name, {}, Keywords(["cat"])).rows()
        assert (one.creator, one.licence) == ("Ada", "CC0")
        assert one.caption == "a cat, eine Katze"


def test_a_list_in_a_cell_of_parquet(tmp_path: Path) -> None:
    cells = [
        ["http://a.example/1", None, "http://a.example/2", "http://a.example/1"],
        [],
        None,
        ["b.jpg"],
    ]
    pq.write_table(pa.table({"url": cells}), tmp_path / "a.parquet")
    local = open_local(tmp_path / "a.parquet", "a.parquet", {}, Keywords(["cat"]))
    assert [one.url for one in local.rows()] == [
        "http://a.example/1", "http://a.example/2", "", "", "b.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [
        "https://web.archive.org/web/2010/http://a.example/1.jpg",
        "https://proxy.example/?url=http://a.example/1.jpg&w=2",
        "https://i.example/fetch/w_100,h_100/http://a.example/1.jpg",
        "http://a.example/1.jpg;v=2,3|x",
        "http://a.example/a b.jpg",
    ],
)
def test_an_address_within_an_address_is_not_cut_out(tmp_path: Path, address: str) -> None:
    assert urls(tmp_path / "a.csv", f'url,caption\n"{address}",a cat\n') == [address]


@pytest.mark.parametrize("word", ["NULL", "nan", "None", "#N/A", "<NA>", "\\N", "-", "---", "?"])
def test_a_word_for_no_address_is_no_path(tmp_path: Path, word: str) -> None:
    text = f"url,caption\n{word},a cat\n{GOOD}"
    (tmp_path / "a.jsonl").write_text(json.dumps({"url": word}) + "\n")
    pq.write_table(pa.table({"url": [word]}), tmp_path / "a.parquet")
    assert urls(tmp_path / "a.csv", text) == ["", "http://a.example/1"]
    for name in ("a.jsonl", "a.parquet"):
        (one,) = open_local(tmp_path / name, name, {}, Keywords(["cat"])).rows()
        assert (one.url, one.source) == ("", "http")


@pytest.mark.parametrize("word", ["NULL", "nan", "None", "#N/A", "<NA>", "\\N", "-", "n/a"])
def test_a_word_for_nothing_says_nothing(tmp_path: Path, word: str) -> None:
    names = "license,license_url,creator,landing_page,sha256,md5,opt_out,noai"
    text = f"url,{names}\nhttp://a.example/1{f',{word}' * 8}\nhttp://a.example/2,,,,,,,{word},1\n"
    first, second = read(tmp_path / "a.csv", text).rows()
    assert first == Found("http://a.example/1", row=0, provider="list")
    assert second.opt_out == "1"


def test_paths_of_windows_lead_somewhere(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("pictures/1.jpg", "pictures\\2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    rows = "path\n" + "\n".join(f".\\pictures\\{n}.jpg\npictures\\{n}.jpg" for n in (1, 2, 3))
    assert urls(tmp_path / "a.csv", rows) == [
        "./pictures/1.jpg", "pictures/1.jpg", ".\\pictures\\2.jpg", "pictures\\2.jpg",
        ".\\pictures\\3.jpg", "pictures\\3.jpg",
    ]  # fmt: skip


def test_a_column_of_images_may_hold_their_addresses(tmp_path: Path) -> None:
    address = "http://a.example/1"
    pq.write_table(pa.table({"image": [address], "label": ["cat"]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": address, "label": "cat"}) + "\n")
    (tmp_path / "a.csv").write_text(f"image,label\n{address},cat\n")
    for name in ("a.parquet", "a.jsonl", "a.csv"):
        (one,) = open_local(tmp_path / name, name, {}, Keywords(["cat"])).rows()
        assert (one.url, one.source) == (address, "http")


def test_addresses_without_a_protocol_are_of_the_web(tmp_path: Path) -> None:
    text = "url,caption\n//a.example/1.jpg,x\nwww.a.example/2.jpg,x\nwww.b.example/3.jpg,x\n"
    (tmp_path / "www.b.example").mkdir()
    (tmp_path / "www.b.example" / "3.jpg").write_bytes(b"x")
    found = list(read(tmp_path / "a.csv", text).rows())
    assert [(one.url, one.source) for one in found] == [
        ("//a.example/1.jpg", "http"),
        ("http://www.a.example/2.jpg", "http"),
        ("www.b.example/3.jpg", "file"),
    ], "a folder that is called like a host holds files"


def test_bytes_that_are_no_text_cost_no_parquet_list(tmp_path: Path) -> None:
    caption = pa.array([b"caf\xe9", b"a cat"]).cast(pa.binary()).view(pa.string())
    table = pa.table({"url": ["http://a.example/1", "http://a.example/2"], "caption": caption})
    pq.write_table(table, tmp_path / "a.parquet")
    local = open_local(tmp_path / "a.parquet", "a.parquet", {}, Keywords(["cat"]))
    assert [one.caption for one in local.rows()] == ["caf\ufffd", "a cat"]


@pytest.mark.parametrize("sign", [" ", "\u200b", "'", ",", "]", "(", "' "])
@pytest.mark.parametrize("start", ["http://a.example/1", "x //"])
def test_a_long_run_of_signs_in_a_cell_is_read_at_once(start: str, sign: str) -> None:
    """Tried from each of its places, a run of spaces took a quarter of an hour."""
    cell = f"{start}{sign * 300_000}b"
    assert addresses(cell) == [cell]
