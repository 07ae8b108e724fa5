"""`lost`: the funnel against a naive count over the candidates, and files that do not fit together."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from webdistill.core.files import write_table

if TYPE_CHECKING:
    from conftest import One, World

Build = Callable[..., "World"]
REASONS = ("low_score", "duplicate", "takedown", "class_cap")
STATUSES = ("ok", "ok", "ok", "ok", "duplicate", "timeout", "robots", "corrupt")


@pytest.fixture
def ask(say: Any) -> Callable[..., tuple[int, str, str]]:
    return partial(say, "lost")


def many(one: type[One], count: int, seed: int = 0) -> tuple[One, ...]:
    """Candidates of random fates; in the pool of select.source: pool some dropped ones are selected, too."""
    draw = random.Random(seed)
    made = []
    for n in range(count):
        status = draw.choice(STATUSES)
        dropped = draw.random() < 0.4
        made.append(
            one(
                f"https://h{draw.randrange(30)}.example.org/{n}.jpg",
                status,
                f"{n:032x}" if status in ("ok", "duplicate") else "",
                query=draw.choice(("cat", "dog", "")),
                provider=draw.choice(("list", "openverse")),
                dropped=(draw.choice(REASONS), 0.5, 0.5, "") if dropped else None,
                selected=draw.random() < (0.1 if dropped else 0.7),
            )
        )
    return tuple(made)


def naive(candidates: list[One]) -> dict[str, Any]:
    """The funnel of these candidates, counted one by one."""
    pool = [one for one in candidates if one.status == "ok"]
    kept = [one for one in pool if one.dropped is None]
    return {
        "candidates": len(candidates),
        "not_fetched": dict(Counter(one.status for one in candidates if one.status != "ok")),
        "pool": len(pool),
        "dropped": dict(Counter(one.dropped[0] for one in pool if one.dropped)),
        "kept": len(kept),
        "not_selected": sum(not one.selected for one in kept),
        "restored": sum(one.selected and one.dropped is not None for one in pool),
        "selected": sum(one.selected for one in pool),
    }


GROUPS: dict[str, Callable[[One], str]] = {
    "query": lambda one: one.query or "(none)",
    "provider": lambda one: one.provider,
    "host": lambda one: urlsplit(one.url).hostname or "(none)",
}


@pytest.mark.parametrize("by", GROUPS)
def test_every_group_equals_a_count_one_by_one(
    build: Build, ask: Any, one: type[One], by: str
) -> None:
    world = build("report", candidates=many(one, 400))
    code, document, _ = ask("--by", by, "--json")
    found = json.loads(document)
    assert code == 0
    assert found["faults"] == []
    assert found["whole"] == naive(list(world.candidates))
    expected: dict[str, list[One]] = {}
    for candidate in world.candidates:
        expected.setdefault(GROUPS[by](candidate), []).append(candidate)
    assert found["groups"] == {name: naive(members) for name, members in expected.items()}
    sizes = [group["candidates"] for group in found["groups"].values()]
    assert sizes == sorted(sizes, reverse=True)


def numbers(line: str) -> list[int]:
    return [int(word.replace(",", "")) for word in line.split() if word.replace(",", "").isdigit()]


def test_the_printed_steps_sum_up(build: Build, ask: Any, one: type[One]) -> None:
    build("report", candidates=many(one, 2000))
    code, shown, _ = ask()
    assert code == 0
    assert "every candidate is accounted for" in shown
    left = 0
    for line in shown.splitlines()[1:-2]:
        (images,) = numbers(line)
        if line.startswith("  - "):
            left -= images
        elif line.startswith("  + "):
            left += images
        else:
            assert line.startswith("candidates") or images == left, line
            left = images
    assert "2,000" in shown


def test_the_printed_groups_sum_to_the_whole_even_when_small_ones_share_a_line(
    build: Build, ask: Any, one: type[One]
) -> None:
    world = build("report", candidates=many(one, 400))
    _, shown, _ = ask("--by", "host")
    lines = shown.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("host "))
    rows = lines[start + 1 : lines.index("", start)]
    assert len(rows) == 21
    assert rows[-1].startswith("(10 more)")
    whole = naive(list(world.candidates))
    totals = [0, 0, 0, 0]
    for row in rows:
        counts = numbers(row.removeprefix("(10 more)"))[:4]
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
    assert totals == [whole[key] for key in ("candidates", "pool", "kept", "selected")]
    assert max(map(len, shown.splitlines())) <= 80


def test_an_image_without_a_web_address_counts_for_its_pages_host(
    build: Build, ask: Any, one: type[One]
) -> None:
    page = {"landing_page": "https://Page.example.org/1"}
    local = one("cat/1.jpg", id="a" * 32, source="file", facts=page)
    build("report", candidates=(local, one("", id="b" * 32, source="embedded")))
    found = json.loads(ask("--by", "host", "--json")[1])
    assert found["groups"].keys() == {"page.example.org", "(none)"}


def test_a_hostile_host_or_keyword_cannot_drive_the_terminal(
    build: Build, ask: Any, one: type[One]
) -> None:
    hostile = one("https://x\x1b[31m.example/1.jpg", id="a" * 32, query="cat\x9b2J")
    build("report", candidates=(hostile,))
    for by in ("host", "query"):
        _, shown, _ = ask("--by", by)
        assert "\x1b" not in shown
        assert "\x9b" not in shown


@pytest.mark.parametrize(
    ("skip", "said"),
    [(("filter", "select"), "filter has not run here"), (("select",), "select has not run here")],
)
def test_stages_that_have_not_run_are_said_so(
    build: Build, ask: Any, skip: tuple[str, ...], said: str
) -> None:
    build(*skip, "report")
    code, shown, _ = ask("--by", "query")
    assert code == 0
    assert said in shown
    assert "every candidate is accounted for" in shown


def test_without_fetch_there_is_nothing_to_count(build: Build, ask: Any) -> None:
    build("fetch", "report")
    code, _, err = ask()
    assert code == 2
    assert "dvc repro fetch" in err


def test_a_ledger_without_the_column_is_one_line(build: Build, ask: Any) -> None:
    world = build()
    path = world.data / "fetch/ledger.parquet"
    write_table(pq.read_table(path).drop_columns(["provider"]), path)
    code, _, err = ask("--by", "provider")
    assert code == 2
    assert "no column 'provider'" in err


CUT = {
    "search/candidates.parquet": "candidates.parquet has 11 rows, the ledger accounts for 12",
    "fetch/pool/00002.parquet": "pool has 7 rows, the ledger accounts for 8",
    "filter/kept.parquet": "filter judged 7 of the 8 images",
    "filter/dropped.parquet": "filter judged 7 of the 8 images",
}


@pytest.mark.parametrize("name", CUT)
def test_a_row_that_went_missing_is_noticed(build: Build, ask: Any, name: str) -> None:
    world = build()
    path = world.data / name
    write_table(pq.read_table(path).slice(1), path)
    code, shown, _ = ask()
    assert code == 1
    assert CUT[name] in shown
    assert "dvc repro" in shown


def test_images_of_another_pool_and_contradictions_are_noticed(build: Build, ask: Any) -> None:
    world = build()
    kept, dropped = (pq.read_table(world.data / f"filter/{n}.parquet") for n in ("kept", "dropped"))
    ids = kept["id"].to_pylist()
    write_table(
        kept.slice(0, 0).from_pydict({"id": [*ids, world.ids["b"]]}),
        world.data / "filter/kept.parquet",
    )
    assert "both kept and dropped 1 image" in ask()[1]
    write_table(kept.from_pydict({"id": [*ids[1:], "f" * 32]}), world.data / "filter/kept.parquet")
    code, shown, _ = ask()
    assert code == 1
    assert f"1 image outside the pool, such as {'f' * 32}" in shown
    assert dropped.num_rows == 4


def test_an_image_that_is_twice_ok_is_noticed(build: Build, ask: Any, one: type[One]) -> None:
    twice = one("https://a.example.org/1.jpg", id="a" * 32)
    build("report", candidates=(twice, twice))
    code, shown, _ = ask()
    assert code == 1
    assert "calls 1 image 'ok' more than once" in shown
