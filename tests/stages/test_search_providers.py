"""Openverse and Wikimedia Commons: asked politely, understood when they answer well, explained when they do not."""

from __future__ import annotations

import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from stages.search import openverse, wikimedia
from stages.search.asking import Asking
from stages.search.dry import count_remote
from stages.search.found import Found
from stages.search.keywords import Keywords
from stages.search.providers import results
from tests.stages import api_server
from tests.stages.api_server import Answer, asking, ok, openverse_result, provider
from webdistill.core.errors import UserError

WORDS = Keywords(["cat", "automobile"], {"automobile": ["car", "automobile", "sedan"]})


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBDISTILL_ALLOW_LOOPBACK", "1")
    monkeypatch.setenv("WEBDISTILL_CONTACT", "me@example.org")
    monkeypatch.setattr(openverse, "PAUSE", 0.0)
    monkeypatch.setattr(wikimedia, "PAUSE", 0.0)


def twenty(words: str, page: int) -> list[dict[str, Any]]:
    start = 1000 * zlib.crc32(words.encode()) + 20 * page
    return [openverse_result(start + n) for n in range(20)]


def test_openverse_is_asked_as_its_documentation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with asking("openverse", api_server.openverse(twenty, 12), monkeypatch, 25) as (api, one, ask):
        found = list(results(one, ask, Keywords(["maple_tree", "cat"])))
    assert [query for query in api.queries if query["page"] == "1"] == [
        {"q": words, "license": "cc0,pdm,by,by-sa", "page": "1", "page_size": "20"}
        for words in ("maple tree", "cat")
    ]
    assert len(api.queries) == 4, "two pages of 20 are enough for 25"
    assert api.agents[0].endswith("(+me@example.org)")
    assert [one.query for one in found] == ["maple_tree"] * 25 + ["cat"] * 25


def test_an_openverse_result_becomes_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = openverse_result(7, license="pdm", license_version="1.0", title=None, tags=None)
    free = openverse_result(8, license="cc0", license_version="1.0", creator=None, tags=[{}, 3])
    with asking(
        "openverse",
        api_server.openverse(lambda *_: [openverse_result(6), marks, free], 1),
        monkeypatch,
    ) as (_, one, ask):
        found = list(one.search(ask, "cat"))
    assert found[0] == Found(
        "https://photos.example/6.jpg", "http", "", 0, "openverse", "", "Picture 6; animal", "CC BY-SA 4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/", "Ada Berg", "https://photos.example/page/6",
        '"Picture 6" by Ada Berg is licensed under CC BY-SA 4.0.', "",
    )  # fmt: skip
    assert (found[1].licence, found[1].caption) == ("Public Domain Mark 1.0", "")
    assert (found[2].licence, found[2].creator, found[2].caption) == ("CC0 1.0", "", "Picture 8")


@pytest.mark.parametrize(
    "result",
    [
        3, None, [], {},
        openverse_result(1, url=None), openverse_result(1, url="ftp://x.example/1"), openverse_result(1, url=["x"]),
        openverse_result(1, license="by-nc"), openverse_result(1, license=None), openverse_result(1, filetype="svg"),
    ],
)  # fmt: skip
def test_unusable_results_are_passed_by(monkeypatch: pytest.MonkeyPatch, result: object) -> None:
    with asking(
        "openverse", api_server.openverse(lambda *_: [result, openverse_result(2)], 1), monkeypatch
    ) as (_, one, ask):
        assert [found.url for found in one.search(ask, "cat")] == ["https://photos.example/2.jpg"]


def test_openverse_pages_may_be_half_filled_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {1: 3, 2: 0, 3: 20, 4: 1}

    def some(_: str, page: int) -> list[dict[str, Any]]:
        return [openverse_result(100 * page + n) for n in range(sizes[page])]

    with asking("openverse", api_server.openverse(some, 4), monkeypatch) as (api, one, ask):
        assert len(list(one.search(ask, "cat"))) == 24
    assert len(api.queries) == 4


@pytest.mark.parametrize("page_count", [1000, None, "many", -1])
def test_openverse_is_never_asked_beyond_its_depth(
    monkeypatch: pytest.MonkeyPatch, page_count: object
) -> None:
    def answer(query: dict[str, str]) -> Answer:
        return ok({"page_count": page_count, "results": twenty("x", int(query["page"]))})

    with asking("openverse", answer, monkeypatch) as (api, one, ask):
        found = list(one.search(ask, "cat"))
    assert (len(found), len(api.queries)) == ((20, 1) if page_count == -1 else (240, 12))


def test_the_same_page_again_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    with asking("openverse", api_server.openverse(lambda *_: twenty("x", 1), 9), monkeypatch) as (
        api,
        one,
        ask,
    ):
        assert len(list(one.search(ask, "cat"))) == 20
    assert len(api.queries) == 2


def test_a_class_shares_its_images_among_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"car": 4, "automobile": 100, "sedan": 100, "cat": 100}

    def some(words: str, page: int) -> list[dict[str, Any]]:
        start = 1000 * list(have).index(words)
        return [
            openverse_result(start + n) for n in range(20 * page - 20, min(20 * page, have[words]))
        ]

    with asking("openverse", api_server.openverse(some, 5), monkeypatch, 30) as (_, one, ask):
        found = list(results(one, ask, WORDS))
    number = [
        int(one.url.rpartition("/")[2][:-4]) // 1000 for one in found if one.query == "automobile"
    ]
    assert [number.count(n) for n in range(3)] == [4, 13, 13], "what car lacks the others give"
    assert sum(one.query == "cat" for one in found) == 30


def test_one_image_under_two_words_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with asking(
        "openverse", api_server.openverse(lambda _, page: twenty("same", page), 1), monkeypatch, 12
    ) as (api, one, ask):
        found = list(
            results(one, ask, Keywords(["a", "automobile"], {"automobile": ["car", "auto"]}))
        )
    assert len({f.url for f in found if f.query == "automobile"}) == 12
    assert len(api.queries) == 3


@pytest.mark.parametrize("name", ["openverse", "wikimedia"])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((200, {}, b"<!DOCTYPE html><html>"), r"no JSON but b'<!DOCTYPE html>"),
        ((200, {}, b""), "no JSON but b''"),
        ((200, {}, b'{"results": ['), "no JSON"),
        ((200, {}, b"[" * 100_000), "no JSON"),
        ((200, {}, b"[1]"), "a JSON list instead of an object"),
        ((401, {}, b"{}"), r"HTTP 401 \(it refuses anonymous requests"),
        ((403, {}, b"{}"), r"HTTP 403 \(it refuses us; is WEBDISTILL_CONTACT"),
        ((404, {}, b"{}"), "HTTP 404"),
        ((429, {"Retry-After": "86400"}, b"{}"), r"\(too many requests for now; wait"),
        ((302, {"Location": "ftp://x"}, b""), "no usable Location"),
    ],
)
def test_other_answers_are_explained_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, answer: Answer, expected: str
) -> None:
    with asking(name, lambda _: answer, monkeypatch, pages=tmp_path) as (_, one, ask):
        with pytest.raises(UserError, match=expected) as caught:
            list(one.search(ask, "cat"))
    line = str(caught.value)
    assert line.startswith(f"{name} did not answer as expected: ")
    assert "answered pages are kept, run search again later" in line
    assert f"search.{name}.enabled: false" in line
    assert "\n" not in line
    assert not list(tmp_path.iterdir()), "only good answers are kept"


def test_errors_inside_good_json_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content, expected in (
        ("openverse", {"detail": "Request was throttled."}, "it says 'Request was throttled.'"),
        ("openverse", {"results": {}}, "no list 'results' in its answer"),
        (
            "wikimedia",
            {"error": {"code": "maxlag", "info": "Waiting"}},
            "it says 'maxlag: Waiting'",
        ),
        ("wikimedia", {"error": "x"}, "it says 'x'"),
        ("wikimedia", {"query": []}, "no 'query' in its answer"),
    ):
        with asking(name, lambda _, it=content: ok(it), monkeypatch) as (_, one, ask):
            with pytest.raises(UserError) as caught:
                list(one.search(ask, "cat"))
        assert expected in str(caught.value)


def test_a_throttled_request_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        (429, {"Retry-After": "1"}, b"{}"),
        ok({"page_count": 1, "results": [openverse_result(1)]}),
    ]
    with asking("openverse", lambda _: answers.pop(0), monkeypatch) as (api, one, ask):
        started = time.monotonic()
        assert len(list(one.search(ask, "cat"))) == 1
    assert time.monotonic() - started >= 1
    assert len(api.queries) == 2


def test_requests_keep_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openverse, "PAUSE", 0.3)
    times: list[float] = []
    whole = api_server.openverse(twenty, 3)

    def answer(query: dict[str, str]) -> Answer:
        times.append(time.monotonic())
        return whole(query)

    with asking("openverse", answer, monkeypatch) as (_, one, ask):
        list(one.search(ask, "cat"))
    assert len(times) == 3
    assert times[-1] - times[0] > 0.5, "two pauses of 0.3 s, less what an arrival may jitter"


def test_a_contact_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBDISTILL_CONTACT")
    with pytest.raises(UserError, match="WEBDISTILL_CONTACT"):
        Asking(provider("openverse"), None)


def test_kept_pages_are_not_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = api_server.openverse(twenty, 3)
    with asking("openverse", answer, monkeypatch, pages=tmp_path / "pages") as (api, one, ask):
        first = list(one.search(ask, "cat"))
        second = list(one.search(ask, "cat"))
        assert len(api.queries) == 3
        kept = sorted((tmp_path / "pages").iterdir())
        kept[0].write_bytes(b'{"resul')  # cut by a full disk
        kept[1].unlink()
        (tmp_path / "pages" / "left.part").write_bytes(b"")
        assert list(one.search(ask, "cat")) == first == second
        assert len(api.queries) == 5


def test_totals_for_a_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with asking("openverse", api_server.openverse(twenty, 2), monkeypatch, 100) as (api, one, ask):
        assert count_remote(one, ask, WORDS) == {"cat": 40, "automobile": 100}
    assert len(api.queries) == 4, "one page per word"
    hits = {"query": {"searchinfo": {"totalhits": 7}, "search": [{"title": "File:x"}]}}
    with asking("wikimedia", lambda _: ok(hits), monkeypatch, 10) as (api, one, ask):
        assert count_remote(one, ask, WORDS) == {"cat": 7, "automobile": 10}
    assert api.queries[0] == {
        "action": "query", "format": "json", "formatversion": "2", "list": "search",
        "srsearch": "cat filetype:bitmap", "srnamespace": "6", "srlimit": "1", "srinfo": "totalhits", "srprop": "",
    }  # fmt: skip
    with asking("wikimedia", lambda _: ok({"query": {"searchinfo": []}}), monkeypatch) as (
        _,
        one,
        ask,
    ):
        assert one.total(ask, "cat") == 0
