"""search: words, addresses and opt-outs decide what becomes a candidate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

import stages.search.__main__ as program
from stages.search import candidates as collecting
from stages.search.candidates import Candidates, collect
from stages.search.dry import table as dry_table
from stages.search.found import SCHEMA, Found
from stages.search.keywords import Keywords
from stages.search.params import Search
from webdistill.core.files import read_json, read_table, sha256_file
from webdistill.harness.params import Params, Task, read_yaml
from webdistill.harness.stage import Stage

ROOT = Path(__file__).parents[2]
CLASSES = ("cat", "dog", "maple_tree", "maple", "truck")
PLAIN = Keywords(CLASSES)
SETTINGS = {
    "local": "web.csv", "columns": {}, "keywords": {}, "negative": [],
    "openverse": {"enabled": False, "per_class": 200, "licences": ["cc0", "by"]},
    "wikimedia": {"enabled": False, "per_class": 200},
    "inaturalist": {"enabled": False, "per_class": 200, "licences": ["cc0", "by"]},
}  # fmt: skip


def settings(**changes: object) -> Search:
    return Search.model_validate_json(json.dumps({**SETTINGS, **changes}))


def made(*found: Found, negative: tuple[str, ...] = ()) -> Candidates:
    return collect(iter(found), PLAIN, negative)


def column(found: Candidates, name: str) -> list[object]:
    values: list[object] = found.table.column(name).to_pylist()
    return values


def test_all_that_is_known_of_an_image_reaches_its_row() -> None:
    one = Found(
        "http://a.example/1", "http", "", 3, "list", "dog", "a cat", "CC0", "http://l.example/0", "Ada",
        "http://p.example/1", "Ada, CC0", "noai",
    )  # fmt: skip
    found = made(one, Found("", "embedded", "a.parquet", 0, "list"))
    assert found.table.schema == SCHEMA
    assert found.table.to_pylist()[0] == one._asdict()
    assert found.counts == {
        "rows": 2, "rows_without_url": 0, "duplicates": 0, "negative": 0, "candidates": 2,
        "source_embedded": 1, "source_file": 0, "source_http": 1, "source_tar": 0,
        "provider_list": 2, "provider_folder": 0, "provider_webdataset": 0, "provider_openverse": 0,
        "provider_wikimedia": 0, "provider_inaturalist": 0, "with_query": 1, "opted_out": 1,
    }  # fmt: skip


def test_the_first_of_equal_urls_wins() -> None:
    found = made(
        Found("HTTP://A.Example:80/x#top", caption="one"),
        Found("http://me:secret@a.example/x", caption="two"),
        Found("http://a.example/X", caption="three"),
        Found("http://a.example/x", "tar", "a.tar", 7),
    )
    assert column(found, "url") == ["http://a.example/x", "http://a.example/X"]
    assert column(found, "caption") == ["one", "three"]
    assert found.counts["duplicates"] == 2


def test_later_rows_of_an_address_fill_what_the_first_does_not_say() -> None:
    first = Found("http://a.example/x", creator="Ada", nsfw=0.0, sha256="1" * 64)
    second = Found(
        "http://a.example/x", "http", "", 7, "openverse", "dog", "two", "CC BY", "http://l.example/by", "Bob",
        "http://p.example/2", "Bob, CC BY", "", "2" * 64, "2" * 32, nsfw=0.5, aesthetic=6.5,
    )  # fmt: skip
    third = second._replace(caption="three", licence="CC0", creator="Ada", attribution="Ada, CC BY")
    (row,) = made(first, second, third._replace(licence="CC BY")).table.to_pylist()
    assert row == first._asdict() | {
        "query": "dog", "caption": "two", "licence": "CC BY", "licence_url": "http://l.example/by",
        "landing_page": "http://p.example/2", "attribution": "Ada, CC BY", "aesthetic": 6.5,
    }  # fmt: skip
    (row,) = made(first, second, third).table.to_pylist()
    assert row["attribution"] == "", "it is of another licence"
    named = Found("http://a.example/x", licence="by")
    assert made(named, second).table["licence_url"].to_pylist() == [""], "it is of another licence"


def test_what_a_list_says_of_a_file_and_what_lies_beside_it_come_together() -> None:
    listed = Found("cat/1.jpg", "file", "x", 0, "list", caption="a cat")
    beside = Found(
        "cat/1.jpg", "file", "x", 0, "folder", caption="mine", licence="cc0", md5="1" * 32
    )
    (row,) = made(listed, beside).table.to_pylist()
    assert row == listed._replace(query="cat", licence="cc0")._asdict()


def test_paths_are_equal_when_they_name_one_file() -> None:
    found = made(
        Found("a/1.jpg", "file", "x"),
        Found("1.jpg", "file", "x/a"),
        Found("../a/1.jpg", "file", "x/b"),
        Found("a/1.jpg", "file", "y"),
        Found("1.jpg", "embedded", "x/a/list.parquet"),
    )
    assert column(found, "file") == ["x", "y"]


def test_rows_without_an_address_are_no_candidates_unless_they_hold_the_bytes() -> None:
    held = [Found("", "embedded", "a", 1), Found("", "embedded", "a", 2), Found("", "tar", "b")]
    found = made(Found(), *held)
    assert column(found, "source") == ["embedded", "embedded", "tar"]
    assert (found.counts["rows"], found.counts["rows_without_url"]) == (4, 1)


def test_an_opt_out_counts_for_every_row_of_its_url() -> None:
    found = made(
        Found("x.jpg", "file", "f"),
        Found("http://A.example/x#1"),
        Found(),
        Found("x.jpg", "file", "f", opt_out="noai"),
        Found("http://a.example/x", opt_out="tdm"),
        Found("http://a.example/x", opt_out="later"),
        Found("", "embedded", "e", opt_out="noai"),
        Found("", "embedded", "e"),
    )
    assert column(found, "opt_out") == ["noai", "tdm", "noai", ""]


@pytest.mark.parametrize("mark", ["", "0", "False", "no", "NULL", "nan", "0.0", "n"])
def test_some_marks_say_no(mark: str) -> None:
    assert column(made(Found("1", opt_out=mark)), "opt_out") == [""]


def test_a_negative_word_in_any_caption_of_an_image_leaves_it_out() -> None:
    found = made(
        Found("http://a.example/1", caption="a cat"),
        Found("http://a.example/2", caption="a CARTOON cat"),
        Found("http://a.example/3", caption="cartoonist with cat"),
        Found("http://a.example/2", caption="a cat"),
        Found("http://a.example/1", caption="pixel-art of a cat"),
        Found("http://a.example/4", caption="cartoon", opt_out="noai"),
        negative=("cartoon", "pixel art"),
    )
    assert column(found, "url") == ["http://a.example/3", "http://a.example/4"]
    assert (found.counts["negative"], found.counts["duplicates"]) == (2, 2)
    assert column(found, "opt_out") == ["", "noai"], "its row keeps copies out later"


def test_addresses_in_texts_lose_their_secrets() -> None:
    told = 'by <a href="https://me:pw@a.example/x?token=abc&w=3">Ada</a>, see https://a.example/?sig=1 (who? me: you)'
    kept = 'by <a href="https://a.example/x?w=3">Ada</a>, see https://a.example/ (who? me: you)'
    row = made(Found("http://a.example/", caption=told, creator=told, attribution=told)).table
    assert [row.column(name)[0].as_py() for name in ("caption", "creator", "attribution")] == [
        kept
    ] * 3
    plain = "Ada: what? token=1; mailto:x@a.example"
    assert (
        made(Found("http://a.example/", creator=plain)).table.column("creator")[0].as_py() == plain
    )


def test_no_user_info_and_no_token_is_kept() -> None:
    secret = "http://me:pw@a.example/x?token=abc&w=3"
    row = made(Found(secret, landing_page=secret, licence_url=secret)).table.to_pylist()[0]
    for name in ("url", "landing_page", "licence_url"):
        assert row[name] == "http://a.example/x?w=3"
    names = (
        "query",
        "caption",
        "licence",
        "licence_url",
        "creator",
        "landing_page",
        "attribution",
        "opt_out",
    )
    told = made(Found("1", **dict.fromkeys(names, f"see {secret}"))).table.to_pylist()[0]
    assert {told[name] for name in names} == {"see http://a.example/x?w=3"}


def test_later_rows_change_earlier_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "BLOCK", 3)

    def rows() -> Iterator[Found]:
        for n in range(10):
            yield Found(f"http://a.example/{n}", caption=f"cat {n}")
        yield Found("http://a.example/1", opt_out="noai")
        yield Found("http://a.example/4", creator="Ada")
        yield Found("http://a.example/9", creator="Bob")
        yield Found("http://a.example/4", creator="Bob", licence="cc0")
        yield Found("http://a.example/8", caption="ugly")

    found = collect(rows(), PLAIN, ["ugly"])
    assert column(found, "caption") == [f"cat {n}" for n in range(10) if n != 8]
    assert column(found, "opt_out") == ["noai" if n == 1 else "" for n in range(9)]
    assert column(found, "creator") == ["", "", "", "", "Ada", "", "", "", "Bob"]
    assert column(found, "licence") == ["cc0" if n == 4 else "" for n in range(9)]


@pytest.mark.parametrize(
    ("given", "caption", "expected"),
    [("truck", "a dog", "truck"), ("Maple Tree", "", "maple_tree"), ("boat", "a dog", "boat"), ("", "a dog", "dog")],
)  # fmt: skip
def test_a_given_query_is_kept_and_spelt_as_its_class(
    given: str, caption: str, expected: str
) -> None:
    assert column(made(Found("1", query=given, caption=caption)), "query") == [expected]


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": {"captoin": "TEXT"}},
        {"keywords": {"cat": []}},
        {"keywords": {"cat": "tabby"}},
        {"openverse": {"enabled": True, "per_class": 0, "licences": ["by"]}},
        {"openverse": {"enabled": True, "per_class": 9, "licences": ["mit"]}},
        {"wikimedia": {"enabled": True}},
        {"list": "a.csv"},
    ],
)
def test_params_have_bounds(changes: dict[str, object]) -> None:
    settings()
    with pytest.raises(ValidationError):
        settings(**changes)


def stage(folder: Path, **changes: object) -> Stage:
    """search as its program runs it, in the current folder, with outputs under `folder`."""
    task = Task(
        seed=0, threads=1, classes=CLASSES, image_size=32, teacher="", test_images="", test_labels=""
    )  # fmt: skip
    return Stage("search", Params(task, {"search": settings(**changes)}, {}), folder)


def test_the_program_writes_candidates_what_fetch_needs_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a.csv").write_text("url,caption\nhttp://a.example/1,a dog\n")
    pq.write_table(pa.table({"jpg": [b"x"], "txt": ["a cat"]}), tmp_path / "web" / "b.parquet")
    (tmp_path / "web" / "x.pdf").write_text("")
    digests = []
    for n in range(2):
        run = stage(tmp_path / str(n), local="web")
        program.main(run)
        run.publish()
        out = tmp_path / str(n) / "search"
        digests.append(sha256_file(out / "candidates.parquet"))
    assert digests[0] == digests[1]
    table = read_table(out / "candidates.parquet")
    assert table["query"].to_pylist() == ["dog", "cat"]
    header = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert header["local"] == "web"
    digest = sha256_file(tmp_path / "web" / "b.parquet")
    assert json.loads(header["files"]) == {"web/b.parquet": {"sha256": digest, "column": "jpg"}}
    figures = read_json(out / "metrics.json")
    assert figures["candidates"] == figures["provider_list"] == 2


@pytest.mark.parametrize("text", ["url,caption\n", "url,caption\n,x\n"])
def test_nothing_found_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web.csv").write_text(text)
    at_work = stage(tmp_path)
    program.main(at_work)
    said = capsys.readouterr()
    assert "web.csv holds no candidate" in said.out + said.err
    at_work.publish()
    assert read_table(tmp_path / "search" / "candidates.parquet", ["url"]).num_rows == 0


def test_a_dry_run_shows_counts_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web" / "cat").mkdir(parents=True)
    (tmp_path / "web" / "cat" / "1.jpg").write_bytes(b"x")
    (tmp_path / "web" / "a.csv").write_text(
        "url,caption\nhttp://a.example/1,dog\nhttp://a.example/2,\n"
    )
    program.dry(stage(tmp_path / "out", local="web"))
    assert capsys.readouterr().out.splitlines() == [
        "class       list  folder  total",
        "cat            0       1      1",
        "dog            1       0      1",
        "maple_tree     0       0      0",
        "maple          0       0      0",
        "truck          0       0      0",
        "(no class)     1       0      1",
        "total          2       1      3",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["web"]


def test_the_program_takes_dry_run_beside_the_other_options(tmp_path: Path) -> None:
    """`python -m stages.search --dry-run` in an empty folder with nothing but params.yaml and a list."""
    text = YAML(typ="safe", pure=True)
    values = read_yaml(ROOT / "params.yaml")
    values["search"] = SETTINGS
    values["task"]["classes"] = ["cat", "dog"]
    with (tmp_path / "params.yaml").open("w") as file:
        text.dump(values, file)
    (tmp_path / "web.csv").write_text("url,caption\nhttp://a.example/1,a cat\nb.jpg,a dog\n")
    command = [sys.executable, "-m", "stages.search", "--dry-run", "--set", "search.negative=[dog]"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["class", "list", "total"], ["cat", "1", "1"], ["dog", "0", "0"], ["total", "1", "1"],
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "web.csv"]


def test_large_counts_stay_in_their_columns() -> None:
    lines = dry_table({"list": {"cat": 1_234_567, "other": 1}, "openverse": {"cat": 2}}, ["cat"])
    assert len({len(line) for line in lines}) == 1
    assert "1,234,567" in lines[1]
    assert lines[2].split() == ["(no", "class)", "1", "0", "1"]
