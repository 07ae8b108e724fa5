"""Traces of an image in every kind of file: tables, pages, pictures, scratch space, cells of other pipelines."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from webdistill.commands.provenance import rows, traces
from webdistill.commands.provenance.traces import Needles, Search
from webdistill.core.files import write_table

if TYPE_CHECKING:
    from conftest import World

Build = Callable[..., "World"]


@pytest.fixture
def ask(say: Any) -> Callable[..., tuple[int, str, str]]:
    return partial(say, "prove-absent")


HIDING: dict[str, Callable[[Any, str], None]] = {
    "data/filter/kept.parquet": lambda w, i: w.append("filter/kept.parquet", id=i),
    "data/select/selection.parquet": lambda w, i: w.append("select/selection.parquet", id=i),
    "data/prototypes/assignment.parquet": lambda w, i: w.append(
        "prototypes/assignment.parquet", id=i
    ),
    "data/distill/selection_history.parquet": lambda w, i: w.append(
        "distill/selection_history.parquet", id=i
    ),
    "data/filter/dropped.parquet": lambda w, i: w.append(
        "filter/dropped.parquet", id="1" * 32, reason="duplicate", other=i
    ),
}


@pytest.mark.parametrize("file", HIDING)
def test_one_row_in_any_table_from_filter_onward_is_found(
    build: Build, ask: Any, verdicts: Any, file: str
) -> None:
    world = build("report")
    assert ask(world.ids["f"])[0] == 0
    before = verdicts(world.ids["f"])
    HIDING[file](world, world.ids["f"])
    assert ask(world.ids["f"])[0] == 1
    assert verdicts(world.ids["f"]) == before | {file: "PRESENT"}


TRACES = {
    "id": lambda w: w.ids["f"].encode(),
    "id in a longer run of digits": lambda w: b"00" + w.ids["f"].encode() + b"ff",
    "picture": lambda w: (
        b"data:image/webp;base64," + base64.b64encode(b"bytes of " + w.ids["f"].encode())
    ),
}


@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize(
    "file",
    [
        "data/report/report.html",
        "data/distill/pictures/views.png",
        ".work/distill/resume-1/state.pt",
        ".work/spool/1/record.json",
        "pipelines/compare/cells/kd-0/distill/config.json",
        "pipelines/compare/pool/select/notes.txt",
        "pipelines/out_of_domain/pool/photo/filter/notes.txt",
    ],
)
def test_a_trace_in_any_other_file_is_found(
    build: Build, ask: Any, verdicts: Any, file: str, trace: str
) -> None:
    world = build()
    assert ask(world.ids["f"])[0] == 0
    path = world.root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else b""
    path.write_bytes(before + b"\x00\xff" + TRACES[trace](world) + b"\x00\xff")
    assert ask(world.ids["f"])[0] == 1
    assert verdicts(world.ids["f"])[file] == "PRESENT"


@pytest.mark.parametrize(
    "spelling",
    [
        "https://b.example.net/copy.jpg?x=1&y=2",
        "https://b.example.net/copy.jpg?x=1&amp;y=2",
        "https:\\/\\/b.example.net\\/copy.jpg?x=1&y=2",
        "see (https://b.example.net/copy.jpg?x=1&y=2).",
    ],
)
def test_an_address_is_found_as_html_json_and_prose_spell_it(
    build: Build, verdicts: Any, spelling: str
) -> None:
    world = build()
    card = world.data / "report/card.md"
    card.write_text(f"[{spelling[:-1]}x] and other pages\n")
    assert verdicts(world.ids["a"])["data/report/card.md"] == "absent"  # another address
    card.write_text(f"pages: {spelling} and others\n")
    assert verdicts(world.ids["a"])["data/report/card.md"] == "PRESENT"


@pytest.mark.parametrize("content", [b"", b"a picture"])
def test_a_name_of_a_file_counts(build: Build, ask: Any, content: bytes) -> None:
    world = build()
    (world.data / "distill" / f"{world.ids['f']}.png").write_bytes(content)
    assert ask(world.ids["f"])[0] == 1


NESTED = {
    "struct": lambda i: pa.array([None, {"a": "x", "b": i}]),
    "list": lambda i: pa.array([[], None, ["x", i]]),
    "list of structs": lambda i: pa.array([[{"a": "x"}], [{"a": i}, {"a": "y"}]]),
    "dictionary": lambda i: pa.array(["x", i]).dictionary_encode(),
    "large": lambda i: pa.array(["x", i], pa.large_string()),
    "file name": lambda i: pa.array(["x", f"{i}.jpg"]),
}


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("shape", NESTED)
def test_every_shape_of_text_column_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, few: int
) -> None:
    monkeypatch.setattr(rows, "FEW", few)
    name = "ab" * 16
    column = NESTED[shape](name)
    pq.write_table(pa.table({"n": range(len(column)), "c": column}), tmp_path / "t.parquet")
    for wanted, places in ((name, [len(column) - 1]), ("cd" * 16, [])):
        search = Search(Needles(ids=frozenset({wanted})))
        assert search.rows(tmp_path / "t.parquet").tolist() == places


def test_the_header_of_a_table_is_searched(build: Build, ask: Any, verdicts: Any) -> None:
    world = build("report")
    path = world.data / "prototypes/assignment.parquet"
    write_table(pq.read_table(path), path, {"nearest": json.dumps([world.ids["f"]])})
    assert ask(world.ids["f"])[0] == 1
    assert verdicts(world.ids["f"])["data/prototypes/assignment.parquet"] == "PRESENT"


@pytest.mark.parametrize("at", range(80))
def test_an_id_across_the_end_of_a_chunk_is_found_once(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(traces, "CHUNK", 40)
    name = "0123456789abcdef" * 2
    search = Search(Needles(ids=frozenset({name})))
    assert search.count(b"z" * at + name.encode() + b"z" * 100) == 1
    assert search.count(b"z" * at + name[:-1].encode() + b"z" * 100) == 0
