"""What other people's answers and lists may hold: nothing of it ends a search with a traceback."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.search.candidates import collect
from stages.search.found import Found
from stages.search.keywords import Keywords
from stages.search.local import open_local
from stages.search.providers import results
from tests.stages.api_server import commons_page, observation, openverse_result, provider
from webdistill.core.errors import UserError


def list_of(path: Path) -> list[Found]:
    return list(open_local(path, path.name, {}, Keywords(["cat"])).rows())


BITS: tuple[Any, ...] = (
    None, True, 0, -1, 3.5, 10**400, float("nan"), "", "x", "\ud800", "\0", "http://[::１]/a.jpg", "<![x[",
    "&#x110000;", "image/jpeg", "by", [], {}, [None], [[[[[[[[[[1]]]]]]]]]], {"value": "<![CDATA["},
    {"value": 3}, {"info": ["x"]},
)  # fmt: skip


def changed(dice: random.Random, whole: Any) -> Any:
    """The JSON value with one place anywhere in it replaced."""
    if not isinstance(whole, (dict, list)) or not whole or dice.random() < 0.2:
        return dice.choice(BITS)
    copy = whole.copy()
    at = dice.choice(list(whole)) if isinstance(whole, dict) else dice.randrange(len(whole))
    copy[at] = changed(dice, whole[at])
    return copy


@pytest.mark.parametrize("name", ["openverse", "wikimedia", "inaturalist"])
def test_no_answer_that_passes_as_one_ends_the_search(name: str) -> None:
    dice = random.Random(0)
    one, words = provider(name), Keywords(["cat"])
    pictures = [openverse_result(1), openverse_result(2)]
    pages = [commons_page(1), commons_page(2)]
    whole = {
        "openverse": {"results": pictures, "page_count": 2, "result_count": 2},
        "wikimedia": {
            "query": {"pages": pages, "searchinfo": {"totalhits": 2}},
            "continue": {"gsroffset": 50, "continue": "gsroffset||"},
        },
        "inaturalist": {"results": [observation(1), observation(2)], "total_results": 2},
    }[name]

    def ask(query: Mapping[str, str]) -> dict[str, Any]:
        answer = whole
        for _ in range(dice.randint(1, 3)):
            answer = changed(dice, answer)
        return answer if isinstance(answer, dict) and not one.fault(answer) else whole

    rows = 0
    for _ in range(500):
        rows += collect(results(one, ask, words), words).table.num_rows
        assert isinstance(one.total(ask, "cat"), int)
    assert rows > 500


@pytest.mark.parametrize("name", ["url", "caption", "image"])
def test_two_columns_of_one_name_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    names = ["url", "caption", "image", name]
    texts, images = pa.array(["http://a.example/1"]), pa.array([b"x"])
    columns = [images if one == "image" else texts for one in names]
    pq.write_table(pa.Table.from_arrays(columns, names), tmp_path / "list.parquet")
    expected = f"list.parquet has 2 columns '{name}'; rename all but one"
    with pytest.raises(UserError, match=expected):
        list_of(tmp_path / "list.parquet")


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us")])
def test_a_date_beyond_the_calendar_is_only_a_caption(tmp_path: Path, kind: pa.DataType) -> None:
    dates = pa.array([1, 2**31 - 1 if kind == pa.date32() else 2**62], kind)
    table = pa.table({"url": ["http://a.example/1", "http://a.example/2"], "caption": dates})
    pq.write_table(table, tmp_path / "list.parquet")
    found = list_of(tmp_path / "list.parquet")
    assert [one.url for one in found] == ["http://a.example/1", "http://a.example/2"]
    assert "1970-01-0" in found[0].caption
