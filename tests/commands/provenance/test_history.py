"""`why`: every stage's facts about one image, whatever it is called by and however few stages have run."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from webdistill.__main__ import main
from webdistill.core.files import write_table

if TYPE_CHECKING:
    from conftest import One, World

Build = Callable[..., "World"]


@pytest.fixture
def ask(say: Any) -> Callable[..., tuple[int, str, str]]:
    return partial(say, "why")


def flat(text: str) -> str:
    """Without the wrapping."""
    return " ".join(text.split())


def test_a_selected_image_shows_every_stage(build: Build, ask: Any) -> None:
    world = build()
    code, shown, _ = ask(world.ids["a"])
    text = flat(shown)
    assert code == 0
    assert text.startswith(f"{world.ids['a']}: selected for training")
    for fact in (
        "candidates 2 with the same pixels",
        "url https://a.example.org/1.jpg",
        "from list, http",
        "query cat",
        "caption a tabby cat",
        "licence CC BY 4.0 https://creativecommons.org/licenses/by/4.0/",
        "creator Ann",
        "fetch ok, host a.example.org, HTTP 200, robots.txt: allowed, 3,200 bytes",
        "url https://b.example.net/copy.jpg?x=1&y=2 from openverse, http",
        "fetch duplicate, host b.example.net",
        "pool 64 x 48 px, 41 bytes in 00000.parquet",
        "embed score 0 for 'cat', margin 0.25; looks most like 'cat' filter",
        f"filter kept; dropped as near-duplicates of it: 1 ({world.ids['c']})",
        "select weight 1, rank 0 (from 0) in 'cat', confidence 50.00%",
        "prototypes number 7, distance 1.5",
        "distill kept in 5 of 10 choices of the method: those before epoch 1-3, 5, 10",
    ):
        assert fact in text, fact


def test_a_probability_of_being_unsafe_is_shown_where_there_is_one(build: Build, ask: Any) -> None:
    world = build()
    assert "looks most like 'dog'; unsafe 0.5 filter" in flat(ask(world.ids["b"])[1])


def test_the_teachers_classes_are_the_softmax_of_its_logits(build: Build, ask: Any) -> None:
    world = build()
    place = [one.id for one in world.pool].index(world.ids["d"])  # in the second shard
    assert place == 3
    weights = [math.exp(x) for x in (0.0, 1.0, 3.0)]
    told = json.loads(ask(world.ids["d"], "--json")[1])["score"]
    assert told["class"] == "race car"
    assert told["second_class"] == "dog"
    assert told["confidence"] == pytest.approx(weights[2] / sum(weights), rel=1e-9)
    assert told["second_confidence"] == pytest.approx(weights[1] / sum(weights), rel=1e-9)


def test_a_dropped_image_shows_reason_value_threshold_and_the_other_image(
    build: Build, ask: Any
) -> None:
    world = build()
    told = flat(ask(world.ids["c"])[1])
    assert f"{world.ids['c']}: dropped by the filter: duplicate" in told
    assert (
        f"filter dropped: duplicate (value 0.98, threshold 0.95), other image {world.ids['a']}"
        in told
    )
    for stage in (
        "select not selected",
        "prototypes not assigned",
        "distill not trained on",
    ):
        assert stage in told
    assert "low_score (value 0.0125, threshold 0.25)" in flat(ask(world.ids["b"])[1])
    assert "dropped: takedown (takedown.txt line 9)" in flat(ask(world.ids["f"])[1])


def test_an_address_that_brought_no_image_says_why(build: Build, ask: Any) -> None:
    build()
    code, shown, _ = ask("https://no.robots.example/5.jpg")
    text = flat(shown)
    assert code == 0
    assert text.startswith("no image: not fetched: robots")
    assert "fetch robots, host no.robots.example, robots.txt: disallowed" in text
    assert "pool has no such image" in text
    assert "HTTP 404" in ask("https://b.example.net/6.jpg")[1]
    assert "opt-out noai" in flat(ask("https://c.example.net/7.jpg")[1])


def test_an_address_may_be_spelt_otherwise(build: Build, ask: Any) -> None:
    build()
    code, shown, _ = ask("https://a.example.org/1.jpg")
    for other in ("http://a.example.org/1.jpg?", "//A.example.org/%31.jpg?utm_source=x#top"):
        assert ask(other)[:2] == (code, shown)
    assert ask("https://a.example.org/1.jpg?x=1")[0] != code
    assert ask("A.example.org/1.jpg")[:2] == (code, shown)
    assert ask("./photos//cat/9.jpg")[:2] == ask("cat/9.jpg")[:2]


STAGES = ("search", "fetch", "embed", "filter", "score", "select", "prototypes", "distill")


@pytest.mark.parametrize("ran", range(1, len(STAGES)))
def test_after_any_number_of_stages_the_others_are_said_not_to_have_run(
    build: Build, ask: Any, ran: int
) -> None:
    world = build(*STAGES[ran:], "evaluate", "report")
    code, shown, _ = ask("https://a.example.org/1.jpg")
    assert code == 0
    missing = {line.split()[0] for line in shown.splitlines() if line.endswith("has not run here")}
    expected = set(STAGES[ran:]) | ({"pool"} if ran < 2 else set())
    assert missing == expected
    assert world.data.is_dir()


@pytest.mark.parametrize("gone", STAGES)
def test_any_one_stage_may_be_missing(build: Build, ask: Any, gone: str) -> None:
    world = build(gone)
    code, shown, _ = ask(world.ids["a"])
    assert code == 0
    assert shown.startswith(world.ids["a"])
    assert f"{gone:<12}has not run here" in shown


def test_a_folder_without_any_output_is_named(build: Build, ask: Any) -> None:
    build(*STAGES, "evaluate", "report")
    code, _, err = ask("aaaa1111")
    assert code == 2
    assert "data holds no output" in err


def test_another_folder_can_be_named(build: Build, ask: Any) -> None:
    world = build()
    world.data.rename(world.root / "elsewhere")
    assert ask("aaaa1")[0] == 2
    assert ask("aaaa1", "--data", "elsewhere")[0] == 0


def test_a_hostile_caption_cannot_drive_the_terminal(build: Build, ask: Any) -> None:
    world = build()
    _, shown, _ = ask(world.ids["g"])
    unprintable = [
        c for c in shown if c != "\n" and unicodedata.category(c)[0] in "CZ" and c != " "
    ]
    assert unprintable == []
    assert "\\x1b]0;owned\\x07\\x1b[31m\\x0d\\x0ared" in shown.replace("\n" + " " * 12, "")
    assert "\\u202e" in shown
    assert "back\\\\slash" in shown
    _, document, _ = ask(world.ids["g"], "--json")
    assert not any(unicodedata.category(c)[0] == "C" and c != "\n" for c in document)
    assert document.isascii()
    assert json.loads(document)["search"][0]["caption"] == world.hostile


@pytest.mark.parametrize(
    "caption", ["x" * 5000, "\u732b" * 50 + " " + "\u732b" * 50, "word " * 1000]
)
def test_a_long_caption_is_cut_and_lines_stay_within_80_columns(
    build: Build, ask: Any, one: type[One], caption: str
) -> None:
    candidate = one("https://a.example.org/1.jpg", id="a" * 32, caption=caption, selected=True)
    build("report", candidates=(candidate,))
    _, shown, _ = ask("a" * 32)
    for line in shown.splitlines():  # a wide letter takes two columns
        width = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)
        assert width <= 80, line
    assert ("characters in all" in flat(shown)) == (len(caption) > 300)


def test_a_terminal_without_the_letters_gets_their_codes(
    build: Build, monkeypatch: pytest.MonkeyPatch, one: type[One]
) -> None:
    import io
    import sys

    candidate = one("https://a.example.org/1.jpg", id="a" * 32, caption="caf\u00e9", selected=True)
    build("report", candidates=(candidate,))
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["why", "a" * 32]) == 0
    out.flush()
    assert b"caf\\xe9" in out.buffer.getvalue()


def test_many_candidates_with_the_same_pixels_are_counted(
    build: Build, ask: Any, one: type[One]
) -> None:
    first = one("https://a.example.org/0.jpg", id="a" * 32)
    copies = [one(f"https://a.example.org/{n}.jpg", "duplicate", "a" * 32) for n in range(1, 30)]
    build("report", candidates=(first, *copies))
    _, shown, _ = ask("a" * 32)
    assert "30 with the same pixels" in shown
    assert "... and 20 more" in shown
    assert len(json.loads(ask("a" * 32, "--json")[1])["fetch"]) == 30


def test_a_newer_list_of_candidates_is_said_to_be_newer(build: Build, ask: Any) -> None:
    world = build()
    path = world.data / "search/candidates.parquet"
    table = pq.read_table(path)
    write_table(table.slice(5), path)  # search found others, without this one
    _, shown, _ = ask(world.ids["d"])
    assert "has run again since fetch" in flat(shown)
    _, shown, _ = ask(world.ids["g"])  # moved in the list, but still there
    assert "caption     hi" in shown


def test_files_of_earlier_versions_with_fewer_columns_are_read(build: Build, ask: Any) -> None:
    world = build()
    for name in ("search/candidates.parquet", "fetch/ledger.parquet"):
        path = world.data / name
        table = pq.read_table(path)
        new = [c for c in ("file", "provider", "robots", "attribution") if c in table.column_names]
        write_table(table.drop_columns(new), path)
    code, shown, _ = ask(world.ids["a"])
    assert code == 0
    assert "fetch       ok, host a.example.org, HTTP 200, 3,200 bytes" in shown


def test_a_damaged_file_is_named(build: Build, ask: Any) -> None:
    world = build()
    path = world.data / "embed/scores.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    code, _, err = ask(world.ids["a"])
    assert code == 2
    assert "data/embed/scores.parquet is damaged" in err
    assert err.count("\n") == 1


def test_the_answer_does_not_depend_on_where_row_groups_end(build: Build, ask: Any) -> None:
    world = build()
    before = {name: ask(name, "--json")[1] for name in world.ids.values()}
    for path in [*world.data.rglob("*.parquet")]:
        table = pq.read_table(path)
        pq.write_table(table, path, row_group_size=2)
    assert {name: ask(name, "--json")[1] for name in world.ids.values()} == before
