"""Wikimedia Commons: full-text search through the MediaWiki API, with the licence that the file page states.

Pictures are taken 500 px wide: Commons makes thumbnails in few widths only and answers others with an error, and
asks programs to prefer thumbnails to originals. Requests are made one after the other, as its etiquette wants.
https://www.mediawiki.org/wiki/API:Imageinfo, https://www.mediawiki.org/wiki/Common_thumbnail_sizes
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

from stages.search.cells import text
from stages.search.found import Ask, Found
from stages.search.grants import Grant
from stages.search.params import Wikimedia as Settings

ADDRESS = "https://commons.wikimedia.org/w/api.php"
PAUSE = 1.0  # seconds between the starts of two requests
WIDTH = 500  # px
PAGE = 50  # the API scales no more pictures per answer
MAX_PAGES = 200  # 10,000 results: what the search has at most
MAX_STALE = 3  # answers in a row without anything new
MAX_TEXT = 500  # characters of a description
MAX_HTML = 20_000
KINDS = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/tiff",
    "image/bmp",
    "image/x-bmp",
)
HIDDEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|(?:font-size|opacity)\s*:\s*0(?![.\d])",
    re.IGNORECASE,
)
UNSEEN = ("script", "style", "template", "title")  # elements whose text no page shows
VOID = frozenset(
    [
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "source",
        "track",
        "wbr",
    ]
)  # they hold nothing
DEEPEST = 200  # elements within each other; of what is deeper nothing is hidden
CONTINUE = re.compile(r"continue|gsroffset|ii\w{1,20}")
SHARED = {"action": "query", "format": "json", "formatversion": "2"}


class Wikimedia:
    """The Provider of this name."""

    name = "wikimedia"
    address = ADDRESS
    variable = "WEBDISTILL_WIKIMEDIA"
    grant: Grant | None = None

    def __init__(self, settings: Settings) -> None:
        self.pause = PAUSE
        self.per_class = settings.per_class

    def search(self, ask: Ask, words: str) -> Iterator[Found]:
        """By relevance; an answer that only repeats is asked past a few times."""
        query = {
            **SHARED,
            "generator": "search",
            "gsrsearch": f"{words} filetype:bitmap",
            "gsrnamespace": "6",
            "gsrlimit": str(PAGE),
            "prop": "imageinfo",
            "iiprop": "url|mime|thumbmime|size|extmetadata",
            "iiurlwidth": str(WIDTH),
            "iiextmetadatalanguage": "en",
            "iiextmetadatafilter": "LicenseShortName|LicenseUrl|Artist|Attribution|ImageDescription",
        }
        seen: set[str] = set()
        marks: set[str] = set()
        further: dict[str, str] | None = {}
        asked = stale = 0
        while further is not None and asked < MAX_PAGES and stale < MAX_STALE:
            answer = ask({**query, **further})
            asked, stale = asked + 1, stale + 1
            for page in _pages(answer):
                name = text(page.get("pageid")) or text(page.get("title"))
                infos = page.get("imageinfo")
                if infos and name not in seen:  # without infos it comes again in a later answer
                    seen.add(name)
                    stale = 0
                    yield from _found(page, infos)
            further = _further(answer, marks)

    def total(self, ask: Ask, words: str) -> int:
        """What the search itself says, without pictures."""
        query = {
            **SHARED,
            "list": "search",
            "srsearch": f"{words} filetype:bitmap",
            "srnamespace": "6",
            "srlimit": "1",
            "srinfo": "totalhits",
            "srprop": "",
        }
        found: Any = ask(query)
        for key in ("query", "searchinfo", "totalhits"):
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, int) else 0

    def fault(self, answer: Mapping[str, Any]) -> str:
        """An error is told in the answer; one without results has no `query`."""
        error = answer.get("error")
        if error:
            parts = [error.get("code"), error.get("info")] if isinstance(error, dict) else [error]
            return f"it says '{': '.join(filter(None, map(text, parts)))[:200]}'"
        if "query" in answer and not isinstance(answer["query"], dict):
            return "no 'query' in its answer"
        return ""


def _pages(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answer's pages by relevance; they come in the order of the database."""
    pages = answer.get("query", {}).get("pages", [])
    whole = [page for page in pages if isinstance(page, dict)] if isinstance(pages, list) else []
    return sorted(
        whole, key=lambda page: index if isinstance(index := page.get("index"), int) else PAGE
    )


def _further(answer: Mapping[str, Any], marks: set[str]) -> dict[str, str] | None:
    """What to add to the query for the next answer; None at the end, and when the API goes in a circle."""
    found = answer.get("continue")
    if not isinstance(found, dict) or not found:
        return None
    further = {key: text(value) for key, value in found.items() if CONTINUE.fullmatch(key)}
    mark = json.dumps(further, sort_keys=True)
    if mark in marks:
        return None
    marks.add(mark)
    return further


def _found(page: Mapping[str, Any], infos: Any) -> Iterator[Found]:
    """The file as a candidate, unless it has no address or is no picture that we can read."""
    info = infos[0] if isinstance(infos, list) and isinstance(infos[0], dict) else {}
    thumb = text(info.get("thumburl"))
    url = thumb or text(info.get("url"))
    kind = text(info.get("thumbmime" if thumb else "mime")) or text(info.get("mime"))
    if not url.startswith(("http://", "https://")) or kind not in KINDS:
        return
    facts = info.get("extmetadata")
    said = {
        key: plain_text(text(value.get("value")))
        for key, value in (facts if isinstance(facts, dict) else {}).items()
        if isinstance(value, dict) and isinstance(value.get("value"), (str, int))
    }
    title = re.sub(r"^File:|\.\w{2,5}$", "", text(page.get("title"))).replace("_", " ")
    creator, licence = said.get("Artist", ""), said.get("LicenseShortName", "")
    credit = [part for part in (creator, licence) if part]
    yield Found(
        url,
        provider="wikimedia",
        caption="; ".join(filter(None, [title, said.get("ImageDescription", "")[:MAX_TEXT]])),
        licence=licence,
        licence_url=said.get("LicenseUrl", ""),
        creator=creator,
        landing_page=text(info.get("descriptionurl")),
        attribution=said.get("Attribution") or ", ".join([*credit, "via Wikimedia Commons"]),
    )


def plain_text(html: str) -> str:
    """HTML as one line of text, without scripts, styles and what no reader sees.

    Of what the parser gives up on, what stands before it.
    """
    reader = _Text()
    with contextlib.suppress(AssertionError):  # of "<![x[", in some versions of Python
        reader.feed(html[:MAX_HTML])
        reader.close()
    return " ".join("".join(reader.pieces).split())


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._open: list[tuple[str, bool]] = []  # elements, and whether they hide what they hold

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("br", "p", "div", "li", "td", "tr"):
            self.pieces.append(" ")
        if tag not in VOID and len(self._open) < DEEPEST:
            self._open.append((tag, tag in UNSEEN or _is_hidden(dict(attrs))))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in ("script", "style"):  # no parser lets these end so
            return
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """Closes the nearest element of the name, and those that were left open in it."""
        places = [n for n, (name, _) in enumerate(self._open) if name == tag]
        if places:
            del self._open[places[-1] :]

    def handle_data(self, data: str) -> None:
        if not any(hides for _, hides in self._open):
            self.pieces.append(data)


def _is_hidden(attrs: Mapping[str, str | None]) -> bool:
    return "hidden" in attrs or bool(HIDDEN.search(attrs.get("style") or ""))
