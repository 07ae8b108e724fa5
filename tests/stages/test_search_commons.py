"""Wikimedia Commons: asked as it wants to be asked, and read as it answers, whatever it leaves out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from stages.search import wikimedia
from stages.search.found import Found
from tests.stages.api_server import Answer, asking, commons_page, ok


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBDISTILL_ALLOW_LOOPBACK", "1")
    monkeypatch.setenv("WEBDISTILL_CONTACT", "me@example.org")
    monkeypatch.setattr(wikimedia, "PAUSE", 0.0)


def test_commons_is_asked_as_its_documentation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [commons_page(2), commons_page(1)]
    with asking("wikimedia", lambda _: ok({"batchcomplete": True, "query": {"pages": pages}}), monkeypatch) as (
        api, one, ask,
    ):  # fmt: skip
        found = list(one.search(ask, "maple tree"))
    (query,) = api.queries
    assert query.pop("iiextmetadatafilter").split("|")[:2] == ["LicenseShortName", "LicenseUrl"]
    assert query == {
        "action": "query", "format": "json", "formatversion": "2", "generator": "search",
        "gsrsearch": "maple tree filetype:bitmap", "gsrnamespace": "6", "gsrlimit": "50", "prop": "imageinfo",
        "iiprop": "url|mime|thumbmime|size|extmetadata", "iiurlwidth": "500", "iiextmetadatalanguage": "en",
    }  # fmt: skip
    assert found[0] == Found(
        "https://upload.example/thumb/1.jpg/500px-1.jpg", "http", "", 0, "wikimedia", "",
        "Picture number 1; A fine animal & more", "CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0",
        "Ada Berg", "https://commons.example/wiki/File:Picture_number_1.jpg",
        "Ada Berg, CC BY-SA 4.0, via Wikimedia Commons", "",
    )  # fmt: skip
    assert "number 2" in found[1].caption, "by relevance, not in the order of the database"


def test_commons_goes_on_where_the_answer_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer brings what the first left out of its own pages: imageinfo has a continuation of its own."""
    late = commons_page(3)

    def answer(query: dict[str, str]) -> Answer:
        if "gsroffset" in query:
            return ok({"batchcomplete": True, "query": {"pages": [commons_page(4)]}})
        if "iicontinue" in query:
            further = {"gsroffset": 50, "continue": "gsroffset||", "action": "delete"}
            return ok({"continue": further, "query": {"pages": [commons_page(1), late]}})
        first = [commons_page(1), {key: late[key] for key in ("pageid", "title", "index")}]
        return ok({"continue": {"iicontinue": "x|3", "continue": "||"}, "query": {"pages": first}})

    with asking("wikimedia", answer, monkeypatch) as (api, one, ask):
        found = list(one.search(ask, "cat"))
    assert [f.caption.split(";")[0] for f in found] == [f"Picture number {n}" for n in (1, 3, 4)]
    assert [query.get("continue", "") for query in api.queries] == ["", "||", "gsroffset||"]
    assert {query["action"] for query in api.queries} == {"query"}, "an answer does not choose"


def test_commons_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(query: dict[str, str]) -> Answer:
        offset = int(query.get("gsroffset", 0)) + 50
        pages = {"query": {"pages": [commons_page(1)]}}
        return ok(pages | {"continue": {"gsroffset": offset, "continue": "gsroffset||"}})

    with asking("wikimedia", endless, monkeypatch) as (api, one, ask):
        assert len(list(one.search(ask, "cat"))) == 1
    assert len(api.queries) == 1 + wikimedia.MAX_STALE

    def circle(query: dict[str, str]) -> Answer:
        number = len(query.get("gsroffset", "")) + 1
        pages = {"query": {"pages": [commons_page(number)]}}
        return ok(pages | {"continue": {"gsroffset": "x", "continue": "gsroffset||"}})

    with asking("wikimedia", circle, monkeypatch) as (api, one, ask):
        assert len(list(one.search(ask, "cat"))) == 2
    assert len(api.queries) == 2


@pytest.mark.parametrize(
    "content",
    [
        {"batchcomplete": True}, {"query": {}}, {"query": {"pages": "x"}}, {"query": {"pages": [3, None, {}]}},
        {"query": {"pages": [commons_page(1, imageinfo=[])]}}, {"query": {"pages": [commons_page(1, imageinfo=[3])]}},
        {"query": {"pages": [commons_page(1, imageinfo=[{"url": 3, "mime": "image/jpeg"}])]}},
        {"query": {"pages": [commons_page(1, imageinfo=[{"url": "https://x.example/a.xcf", "mime": "image/x-xcf"}])]}},
        {"query": {"pages": []}, "continue": "x"}, {"query": {"pages": []}, "continue": {}},
    ],
)  # fmt: skip
def test_commons_answers_without_pictures(
    monkeypatch: pytest.MonkeyPatch, content: Mapping[str, Any]
) -> None:
    with asking("wikimedia", lambda _: ok(content), monkeypatch) as (api, one, ask):
        assert list(one.search(ask, "cat")) == []
    assert len(api.queries) == 1


def test_commons_facts_may_be_missing_or_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "Artist": {"value": {"en": "x"}},
        "LicenseShortName": 3,
        "Attribution": {"value": "By <i>me</i>"},
    }
    info = {"url": "https://x.example/1.png", "mime": "image/png", "extmetadata": facts}
    bare = {"url": "https://x.example/2.png", "mime": "image/png", "extmetadata": []}
    pages = [
        commons_page(1, imageinfo=[info], index="x", title="File:A_b.c.png"),
        commons_page(2, imageinfo=[bare], title=None),
    ]
    with asking("wikimedia", lambda _: ok({"query": {"pages": pages}}), monkeypatch) as (
        _,
        one,
        ask,
    ):
        bare_found, found = one.search(ask, "cat")
    assert (found.caption, found.creator, found.licence) == ("A b.c", "", "")
    assert found.attribution == "By me"
    assert (bare_found.caption, bare_found.attribution) == ("", "via Wikimedia Commons")


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("plain", "plain"),
        ("a<br>b <p>c</p>\n d", "a b c d"),
        ("x<script>alert(1)</script><style>y</style>z", "xz"),
        ("5 &lt; 6 &amp; 7", "5 < 6 & 7"),
        ("<a href='x'>un<b>closed", "unclosed"),
        ("<" * 30_000, ""),
        ("a <b>cat</b> <![x[ y", "a cat"),
        ('Ada<span style="display: none;">creator QS:P170,Q1</span> B', "Ada B"),
        ('<div style="color:red;DISPLAY:NONE !important"><p>x<br>y<p>z</div>Ada', "Ada"),
        ('<span hidden>x</span><i style="visibility:hidden">y</i>Ada', "Ada"),
        ('<span style="display:none"><img src="x"><b>x</span>Ada</b> B', "Ada B"),
        ('<span style="display:none"/>Ada', "Ada"),
        (
            '<template>x</template><i style="font-size: 0">y</i><b style="opacity:0.5">Ada</b>',
            "Ada",
        ),
        ('<span style="display:none">never closed', ""),
        ("<b>" * 5_000 + "Ada", "Ada"),
    ],
)
def test_html_becomes_one_line(html: str, expected: str) -> None:
    started = time.process_time()
    assert wikimedia.plain_text(html).strip("<") == expected
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("mime", "thumb"),
    [
        ("image/tiff", "image/jpeg"),
        ("image/x-xcf", "image/png"),
        ("image/gif", ""),
        ("image/tiff", ""),
    ],
)
def test_the_thumbnail_decides_what_is_a_picture(
    monkeypatch: pytest.MonkeyPatch, mime: str, thumb: str
) -> None:
    page = commons_page(1)
    page["imageinfo"][0] |= {"mime": mime} | ({"thumbmime": thumb} if thumb else {})
    other = commons_page(2)
    other["imageinfo"][0] |= {"thumbmime": "image/svg+xml"}
    pages = {"query": {"pages": [page, other]}}
    with asking("wikimedia", lambda _: ok(pages), monkeypatch) as (_, one, ask):
        assert [f.url for f in one.search(ask, "cat")] == [
            "https://upload.example/thumb/1.jpg/500px-1.jpg"
        ]
