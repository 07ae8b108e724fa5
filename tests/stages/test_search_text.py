"""search: text lists as they come. What is wrong with a row costs that row; separators, headers, addresses differ."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stages.search.__main__ as program
from stages.search import textlines
from stages.search.found import Found
from stages.search.keywords import Keywords
from stages.search.local import Local, open_local
from tests.stages.test_search import stage
from webdistill.core.errors import UserError
from webdistill.core.files import read_json


def read(path: Path, text: str | bytes) -> Local:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_local(path, path.name, {}, Keywords(["cat"]))


def urls(path: Path, text: str | bytes) -> list[str]:
    return [one.url for one in read(path, text).rows()]


HEAD = "url,caption\n"
GOOD = "http://a.example/1,a cat\n"
LAST = "http://a.example/9,a dog\n"


@pytest.mark.parametrize(
    "bad",
    [
        "http://a.example/2,a cat, asleep\n",
        "http://a.example/2\n",
        "http://a.example/2,a cat,,CC0\n",
        'http://a.example/2,"a "cat", "asleep"\n',
        b"http://a.example/2,caf\xe9\x81\n",
        "x" * 3000 + "\n",
        '"' + "x" * 3000 + "\n",
    ],
    ids=["long", "short", "empty between", "quotes", "bytes", "endless", "both"],
)  # fmt: skip
def test_a_ragged_row_costs_that_row(
    tmp_path: Path, bad: str | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textlines, "LONGEST", 2000)
    row = bad if isinstance(bad, bytes) else bad.encode()
    local = read(tmp_path / "a.csv", (HEAD + GOOD).encode() + row + LAST.encode())
    assert [one.url for one in local.rows()] == ["http://a.example/1", "http://a.example/9"]
    assert local.lost()["a.csv"].lines == [3]
    assert len(list(local.rows())) == 2, "read again"
    assert local.lost()["a.csv"].count == 1


@pytest.mark.parametrize("sign", [",", "\t", ";"])
@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("url,caption", ["U1,a cat", "U2,a dog,", "U3,,", "U4,a cow, ,,", '"U5","a pig",']),
        ("url,caption", ["U1,a cat,", "U2,a dog,", "U3,,", "U4,a cow,", "U5,a pig,"]),
        ("url,caption,", ["U1,a cat", "U2,a dog,", "U3,", "U4,a cow,,", '"U5","a pig"']),
        ("url,caption,,", ["U1,a cat,,", "U2,a dog,,", "U3,,,", "U4,a cow", "U5,a pig,,,"]),
        ("", ["U1,a cat,", "U2,a dog,", "U3,,", "U4,a cow,", "U5,a pig,"]),
        ("", ["U1,a cat", "U2,a dog,", "U3,", "U4,a cow,", "U5,a pig"]),
    ],
)
def test_empty_cells_at_the_end_of_a_row_say_nothing(
    tmp_path: Path, header: str, rows: list[str], sign: str
) -> None:
    if sign == ";" and not header:
        return  # between addresses without a header it is no sign that we look for
    text = "\r\n".join([header, *rows] if header else rows).replace("U", "http://a.example/")
    local = read(tmp_path / ("a.tsv" if sign == "\t" else "a.csv"), text.replace(",", sign))
    found = [(one.url[-1], one.caption) for one in local.rows()]
    assert found == [("1", "a cat"), ("2", "a dog"), ("3", ""), ("4", "a cow"), ("5", "a pig")]
    assert not local.lost()


def test_an_unnamed_column_that_says_something_is_no_row_too_long(tmp_path: Path) -> None:
    text = "url,caption,\nhttp://a.example/1,a cat,7\nhttp://a.example/2,a cat,7,8\n"
    local = read(tmp_path / "a.csv", text)
    assert [one.url for one in local.rows()] == ["http://a.example/1"]
    assert local.lost()["a.csv"].lines == [3]
    (one,) = read(
        tmp_path / "b.csv", "url,caption,licence\nhttp://a.example/1,a cat,CC0,,\n"
    ).rows()
    assert (one.caption, one.licence) == ("a cat", "CC0")


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "headed.csv", "headed.txt"])
def test_a_comma_at_the_end_of_an_address_separates_it_from_nothing(
    tmp_path: Path, name: str
) -> None:
    head = "url\n" if name.startswith("headed") else ""
    lines = "http://a.example/1.jpg,\nhttp://a.example/b,c.jpg,\nhttp://a.example/2.jpg\n"
    found = urls(tmp_path / name, head + lines)
    assert found == [f"http://a.example/{one}" for one in ("1.jpg", "b,c.jpg", "2.jpg")]
    quoted = '"http://a.example/1.jpg",\n"http://a.example/b,c.jpg" ,\n'
    found = urls(tmp_path / name, head + quoted)
    assert found == ["http://a.example/1.jpg", "http://a.example/b,c.jpg"]


@pytest.mark.parametrize(
    "row",
    ['U, "a ""cat"", asleep"', 'U,"a \\"cat\\", asleep"', '"U", "a \\"cat\\", asleep"', '"U" ,"a ""cat"", asleep"'],
)  # fmt: skip
def test_quotes_as_people_and_programs_write_them(tmp_path: Path, row: str) -> None:
    text = HEAD + GOOD + row.replace("U", "http://a.example/2") + "\n" + LAST
    local = read(tmp_path / "a.csv", text)
    found = [(one.url, one.caption) for one in local.rows()]
    assert found[1:2] == [("http://a.example/2", 'a "cat", asleep')]
    assert (len(found), local.lost()) == (3, {})


def test_lists_that_were_joined_name_their_columns_again(tmp_path: Path) -> None:
    assert urls(tmp_path / "a.csv", HEAD + GOOD + HEAD + LAST) == [
        "http://a.example/1",
        "http://a.example/9",
    ]
    assert urls(tmp_path / "a.txt", "url\nhttp://a.example/1\nurl\nhttp://a.example/2\n") == [
        "http://a.example/1",
        "http://a.example/2",
    ]


@pytest.mark.parametrize("sign", ";|")
def test_without_a_header_other_signs_separate_too(tmp_path: Path, sign: str) -> None:
    rows = ["http://a.example/1.jpg,a cat, asleep", "http://a.example/2.jpg,a dog, awake"]
    text = "\n".join(row.replace(",", sign, 1) for row in rows)
    found = [(one.url, one.caption) for one in read(tmp_path / "a.csv", text).rows()]
    assert found == [tuple(row.split(",", 1)) for row in rows]
    addresses = [f"http://a.example/{n}.jpg{sign}jsessionid={n}?a, b" for n in range(3)]
    assert urls(tmp_path / "b.csv", "\n".join(addresses)) == addresses


def test_quotes_that_nobody_closes_swallow_no_rows(tmp_path: Path) -> None:
    rows = [f"http://a.example/{n},a {'cat' if n % 7 else chr(34)}\n" for n in range(3000)]
    rows[100] = 'http://a.example/100,"a cat\n'
    rows[200] = 'http://a.example/200,"5"x7 cat\n'
    rows[300] = 'http://a.example/300,"two\nlines"\n'
    found = list(read(tmp_path / "a.csv", HEAD + "".join(rows)).rows())
    assert [one.url for one in found] == [f"http://a.example/{n}" for n in range(3000)]
    assert [found[n].caption for n in (100, 200, 300)] == ["a cat", "5x7 cat", "two\nlines"]


def test_a_quote_that_closes_far_away_costs_nothing(tmp_path: Path) -> None:
    rows = [f"http://a.example/{n},cat,CC0\n" for n in range(50)]
    rows[10], rows[20] = 'http://a.example/10,"cat,CC0\n', 'http://a.example/20,cat",CC0\n'
    local = read(tmp_path / "a.csv", "url,caption,license\n" + "".join(rows))
    found = [one.url for one in local.rows()]
    assert found == [f"http://a.example/{n}" for n in range(50)]
    assert not local.lost()
    (one, _) = read(tmp_path / "b.csv", HEAD + '"http://a.example/1,a cat\n' + LAST).rows()
    assert (one.url, one.caption) == ("http://a.example/1", "a cat")


def test_a_cell_of_several_lines_may_speak_of_addresses(tmp_path: Path) -> None:
    caption = "a cat\nfrom http://b.example/2, by Ada\nand more"
    (one,) = read(tmp_path / "a.csv", f'{HEAD}http://a.example/1,"{caption}"\n').rows()
    assert one.caption == caption
    local = read(tmp_path / "b.csv", f'{HEAD}{GOOD}http://a.example/1,"{caption}",more\n{LAST}')
    assert len(list(local.rows())) == 2
    assert local.lost()["b.csv"].lines == [3], "one row, though it has three lines"


def test_the_first_lines_are_told_and_all_are_counted(tmp_path: Path) -> None:
    (tmp_path / "web.csv").write_text(HEAD + GOOD + "a,b,c\n" * 12 + LAST)
    at_work = stage(tmp_path / "out", local=str(tmp_path / "web.csv"))
    told: list[str] = []
    at_work.log = told.append
    program.main(at_work)
    at_work.publish()
    assert [line for line in told if "left out" in line] == [
        f"12 rows of {tmp_path}/web.csv left out, which are not as its first: lines 3, 4, 5, 6, 7, ..."
    ]
    metrics = read_json(tmp_path / "out/search/metrics.json")
    assert (metrics["rows"], metrics["rows_unreadable"]) == (2, 12)


def test_nul_bytes_and_blank_lines_cost_nothing(tmp_path: Path) -> None:
    local = read(tmp_path / "a.csv", f"\n\n{HEAD}\nhttp://a.example/1,a c\0at\n\r\n\n{LAST}")
    assert [(one.url, one.caption) for one in local.rows()] == [
        ("http://a.example/1", "a cat"),
        ("http://a.example/9", "a dog"),
    ]
    assert not local.lost()


@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
def test_a_list_may_begin_with_notes_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    for before in ("", "sep=,\n", '"sep=,"\n', "# made by Ada, in 2026\n\n"):
        local = read(tmp_path / "a.csv", (before + HEAD + GOOD + "1,2,3\n").encode(encoding))
        assert [(one.url, one.caption) for one in local.rows()] == [("http://a.example/1", "a cat")]
        assert local.lost()["a.csv"].lines == [before.count("\n") + 3]


def test_lists_that_were_joined_have_marks_in_the_middle(tmp_path: Path) -> None:
    text = "\ufeffhttp://a.example/1\n\ufeffhttp://a.example/2\n"
    assert urls(tmp_path / "a.txt", text) == ["http://a.example/1", "http://a.example/2"]


def test_a_bar_separates_cells_where_it_separates_names(tmp_path: Path) -> None:
    (one,) = read(tmp_path / "a.csv", "url|caption\nhttp://a.example/1|a cat, asleep\n").rows()
    assert (one.url, one.caption) == ("http://a.example/1", "a cat, asleep")


@pytest.mark.parametrize(
    "lines",
    [
        ["http://a.example/1.jpg?crop=2669,1999,x0,y0&amp;width=80", "http://a.example/b.jpg"],
        ["http://a.example/b.jpg", "http://a.example/1.jpg?crop=2669,1999,x0,y0&width=80"],
        ["http://a.example/1.jpg?crop=1,2,3,4", "http://a.example/2.jpg?crop=5,6,7,8"],
        ["https://a.example/filters:fixed_height(100,100):o()/b.jpg"],
        ["https://a.example/width=80,quality=75/1.jpg", "https://a.example/width=9,quality=75/2.jpg"],
        ["http://a.example/b,c.jpg", "http://a.example/d,e.png"],
        ["//a.example/b,c.jpg", "//a.example/d.jpg"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "headed.csv", "headed.txt"])
def test_commas_in_a_list_of_addresses_separate_nothing(
    tmp_path: Path, lines: list[str], name: str
) -> None:
    whole = (["url"] if name.startswith("headed") else []) + lines
    assert urls(tmp_path / name, "\n".join(whole)) == lines
    quoted = [f'"{line}"' if "," in line else line for line in whole]
    assert urls(tmp_path / name, "\n".join(quoted)) == lines


@pytest.mark.parametrize(
    "rows",
    [
        ["http://a.example/1.jpg,cat", "http://a.example/2.jpg,dog"],
        ["http://a.example/1?id=7,cat", "http://a.example/2?id=8,dog"],
        ["http://a.example/1.jpg,3", "http://a.example/2.jpg,5"],
        ["http://a.example/1.jpg,a cat, asleep", "http://a.example/2.jpg,a dog", "http://a.example/3.jpg,a cow"],
    ],
)  # fmt: skip
def test_captions_without_a_header_stay_captions(tmp_path: Path, rows: list[str]) -> None:
    found = list(read(tmp_path / "a.csv", "\n".join(rows)).rows())
    right = [row.split(",") for row in rows if row.count(",") == 1]
    assert [[one.url, one.caption] for one in found] == right


@pytest.mark.parametrize("packed", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl"])
def test_packed_lists(tmp_path: Path, name: str, packed: str) -> None:
    text = {
        "a.csv": HEAD + GOOD,
        "a.tsv": (HEAD + GOOD).replace(",", "\t"),
        "a.txt": "http://a.example/1\n",
        "a.jsonl": '{"url": "http://a.example/1", "caption": "a cat"}\n',
    }[name]
    zst = pa.Codec("zstd")
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst.compress}
    ending = f".{packed}"
    data = bytes(pack[packed](text.encode()))
    assert urls(tmp_path / (name + ending), data) == ["http://a.example/1"]
    with pytest.raises(UserError, match=r"cannot read .*a\.") as caught:
        list(read(tmp_path / (name + ending), data[: len(data) * 2 // 3]).rows())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_what_spreadsheets_write(tmp_path: Path, encoding: str) -> None:
    text = "\ufeff" * (encoding == "utf-16-le") + "url;caption\r\nhttp://a.example/1;größe\r\n"
    (one,) = read(tmp_path / "a.csv", text.encode(encoding)).rows()
    assert (one.url, one.caption) == ("http://a.example/1", "größe")
    tabs = text.replace(";", "\t").encode(encoding)
    assert urls(tmp_path / "a.txt", tabs) == ["http://a.example/1"]
    assert urls(tmp_path / "b.csv", tabs) == ["http://a.example/1"], "as iNaturalist's .csv"


def test_what_excel_saves_without_unicode(tmp_path: Path) -> None:
    text = (
        "url;légende;caption\r\nhttp://a.example/1;x;größe, 5 €\r\nhttp://a.example/2;x;a cat\r\n"
    )
    (tmp_path / "web.csv").write_bytes(text.encode("cp1252"))
    at_work = stage(tmp_path / "out", local=str(tmp_path / "web.csv"))
    told: list[str] = []
    at_work.log = told.append
    program.main(at_work)
    at_work.publish()
    assert [line for line in told if "UTF-8" in line] == [
        f"2 lines of {tmp_path}/web.csv are no UTF-8 and were read as Windows-1252"
    ]
    table = pq.read_table(tmp_path / "out/search/candidates.parquet")
    assert table.column("caption").to_pylist() == ["größe, 5 €", "a cat"]
    assert read_json(tmp_path / "out/search/metrics.json")["rows_unreadable"] == 0


def test_a_list_that_is_unicode_is_no_other(tmp_path: Path) -> None:
    """Neither behind a line that shows it, nor with a mark, nor in a line that is UTF-8 in part."""
    bad = b"http://a.example/2,caf\xe9\n"
    for name, head in (("a", "url,größe\n"), ("b", "\ufeffurl,caption\n")):
        local = read(tmp_path / f"{name}.csv", head.encode() + bad + GOOD.encode())
        assert [one.url for one in local.rows()] == ["http://a.example/1"]
        assert local.lost()[f"{name}.csv"].lines == [2]
    local = read(tmp_path / "c.csv", HEAD.encode() + b"http://a.example/2,\xc3\xa9\xe9\n" + bad)
    assert [one.caption for one in local.rows()] == ["café"]


def test_rows_that_say_nothing_may_stand_before_a_list(tmp_path: Path) -> None:
    for before, sign in ((",,\n", ","), ("\n;\n; ;\n", ";"), ("// made by Ada\n", ",")):
        text = before + (HEAD + GOOD).replace(",", sign)
        (one,) = read(tmp_path / "a.csv", text).rows()
        assert (one.url, one.caption) == ("http://a.example/1", "a cat")
    lines = "// my list\nhttp://a.example/1\n// more\n//a.example/2\n"
    assert urls(tmp_path / "a.txt", lines) == ["http://a.example/1", "//a.example/2"]


def test_lines_of_text(tmp_path: Path) -> None:
    text = "# my list\nhttp://a.example/1.jpg\n\n  //a.example/2.jpg \ncat/3.jpg\n# end\n"
    found = list(read(tmp_path / "a.txt", text).rows())
    assert [(one.url, one.source) for one in found] == [
        ("http://a.example/1.jpg", "http"), ("//a.example/2.jpg", "http"), ("cat/3.jpg", "file"),
    ]  # fmt: skip


def test_texts_in_a_folder_are_lists_where_they_hold_addresses(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    (tmp_path / "1.txt").write_text("a cat")
    (tmp_path / "README.txt").write_text("see http://a.example\n")
    (tmp_path / "list.txt").write_text("http://a.example/1\n")
    (tmp_path / "multimedia.txt").write_text("gbifID\tidentifier\n1\thttp://a.example/2\n")
    (tmp_path / "more.csv.gz").write_bytes(gzip.compress((HEAD + GOOD).encode()))
    local = open_local(tmp_path, "data", {}, Keywords(["cat"]))
    assert [part.name for part in local.parts] == [
        "data/list.txt", "data/more.csv.gz", "data/multimedia.txt", "data",
    ]  # fmt: skip
    assert [one.caption for one in local.rows() if one.source == "file"] == ["a cat"]


def test_json_by_lines(tmp_path: Path) -> None:
    rows = [
        {"image_url": "http://a.example/1", "text": "a cat", "license": "CC0", "punsafe": 0.25},
        {"image_url": ["http://a.example/2", "http://a.example/3"], "text": None, "more": {"x": [1]}},
        {"text": "no address"},
    ]  # fmt: skip
    text = "\n".join(map(json.dumps, rows)) + '\n{"image_url": \n[1]\n"http://a.example/5"\n'
    local = read(tmp_path / "a.jsonl", text)
    found = list(local.rows())
    assert [one.url for one in found] == [f"http://a.example/{n}" for n in (1, 2, 3)] + [""]
    assert (found[0].caption, found[0].licence, found[0].punsafe) == ("a cat", "CC0", 0.25)
    assert local.lost()["a.jsonl"].lines == [4, 5, 6]
    (one,) = read(tmp_path / "metadata.jsonl", '{"file_name": "1.jpg", "text": "a cat"}').rows()
    assert one == Found("1.jpg", "file", ".", 0, "list", caption="a cat")
    with pytest.raises(UserError, match=r"cannot read .*: not one row is as its first \(line 1\)"):
        list(read(tmp_path / "b.jsonl", "{").rows())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
def test_a_list_that_was_cut_within_a_character_loses_its_last_row(
    tmp_path: Path, encoding: str, name: str
) -> None:
    rows = ["http://a.example/1", "http://a.example/2", "http://a.example/3"]
    if name == "a.jsonl":
        rows = [json.dumps({"url": row}) for row in rows]
    local = read(
        tmp_path / name, "\n".join(["url", *rows][name == "a.jsonl" :]).encode(encoding)[:-1]
    )
    assert [one.url for one in local.rows()] == ["http://a.example/1", "http://a.example/2"]
    assert local.lost()[name].count == 1


@pytest.mark.parametrize(
    "above",
    [
        "My images\n",
        '"Images of cats, 2026"\n\n',
        "My images,\n",
        ",,\nMade by,Ada\n,\n",
        "Exported from https://a.example\n",
        "a\nb\nc\nd\ne\n",
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_title_may_stand_above_the_header(tmp_path: Path, above: str, name: str) -> None:
    text = above + HEAD + GOOD + "1,2,3\n"
    local = read(tmp_path / name, text if name == "a.csv" else text.replace(",", "\t"))
    assert [(one.url, one.caption) for one in local.rows()] == [("http://a.example/1", "a cat")]
    assert local.lost()[name].lines == [text.count("\n")]


def test_above_a_header_that_params_yaml_names_there_may_be_a_title(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Bilder\nBild;Text\nhttp://a.example/1;a cat\n")
    local = open_local(path, path.name, {"url": "Bild"}, Keywords(["cat"]))
    assert [one.url for one in local.rows()] == ["http://a.example/1"]
    path.write_text("Bild;file\nhttp://a.example/1;url\n")
    assert [one.url for one in local.rows()] == ["http://a.example/1"]


@pytest.mark.parametrize("indent", [None, 1])
def test_rows_within_an_object_are_refused_with_a_command(
    tmp_path: Path, indent: int | None
) -> None:
    rows = [{"url": "http://a.example/1", "caption": "a cat"}]  # as in RedCaps
    text = json.dumps({"info": {"year": 2020}, "annotations": rows}, indent=indent)
    with pytest.raises(UserError, match=r"within 'annotations'; .*`jq -c '\.annotations\[\]' a\."):
        list(read(tmp_path / "a.jsonl", text).rows())
    with pytest.raises(UserError, match=r"a\.json is no list by its name; JSON must be one object"):
        read(tmp_path / "a.json", text)
