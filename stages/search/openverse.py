"""Openverse: the images API, version 1, as anonymous users and registered clients may ask it.

Known of it: 20 results per page and 240 per query; more is answered with HTTP 401. 20 requests per minute and 200 per
day, of a registered client 100 and 10,000; more is answered with HTTP 429 and Retry-After. Results whose links are dead
are left out of a page, so pages may be half-filled. https://api.openverse.org/v1/
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages.search.cells import text
from stages.search.found import Ask, Found
from stages.search.grants import granted
from stages.search.params import Openverse as Settings

ADDRESS = "https://api.openverse.org/v1/images/"
PAUSE = 3.0  # seconds: 20 requests per minute
PAUSE_REGISTERED = 0.6  # 100 per minute
CLIENT = ("WEBDISTILL_OPENVERSE_ID", "WEBDISTILL_OPENVERSE_SECRET")
TOKENS = "../auth_tokens/token/"
PAGE = 20
MAX_PAGES = 12
MAX_TAGS = 20
NAMES = {"cc0": "CC0", "pdm": "Public Domain Mark"}  # all others are CC BY-...
ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")


class Openverse:
    """The Provider of this name."""

    name = "openverse"
    address = ADDRESS
    variable = "WEBDISTILL_OPENVERSE"

    def __init__(self, settings: Settings) -> None:
        self.grant = granted(os.environ, CLIENT, TOKENS)
        self.pause = PAUSE_REGISTERED if self.grant else PAUSE
        self.per_class = settings.per_class
        self._licences = settings.licences

    def search(self, ask: Ask, words: str) -> Iterator[Found]:
        """By relevance; 240 at most."""
        seen: set[str] = set()
        for page in range(1, MAX_PAGES + 1):
            answer = ask(_query(words, self._licences, page))
            names = {text(one.get("id")) for one in answer["results"] if isinstance(one, dict)}
            if names and names <= seen:  # the same page again
                return
            for one in answer["results"]:
                if isinstance(one, dict) and text(one.get("id")) not in seen:
                    yield from _found(one, self._licences)
            seen |= names
            pages = answer.get("page_count")
            if page >= pages if isinstance(pages, int) else not names:
                return

    def total(self, ask: Ask, words: str) -> int:
        """What the first page says: at most 240."""
        count = ask(_query(words, self._licences, 1)).get("result_count")
        return count if isinstance(count, int) else 0

    def fault(self, answer: Mapping[str, Any]) -> str:
        """An answer without a list of results is none."""
        if isinstance(answer.get("results"), list):
            return ""
        detail = text(answer.get("detail"))
        return f"it says '{detail[:200]}'" if detail else "no list 'results' in its answer"


def _query(words: str, licences: Sequence[str], page: int) -> dict[str, str]:
    return {"q": words, "license": ",".join(licences), "page": str(page), "page_size": str(PAGE)}


def _found(one: Mapping[str, Any], licences: Sequence[str]) -> Iterator[Found]:
    """The result as a candidate, unless it has no address, another licence, or is no picture that we can read."""
    url, code = text(one.get("url")), text(one.get("license")).lower()
    kind = text(one.get("filetype")).lower()
    if url.startswith(("http://", "https://")) and code in licences and kind in ("", *ENDINGS):
        yield Found(
            url,
            provider="openverse",
            caption=_caption(one),
            licence=f"{NAMES.get(code, f'CC {code.upper()}')} {text(one.get('license_version'))}".strip(),
            licence_url=text(one.get("license_url")),
            creator=text(one.get("creator")),
            landing_page=text(one.get("foreign_landing_url")),
            attribution=text(one.get("attribution")),
        )


def _caption(one: Mapping[str, Any]) -> str:
    """The title, and the tags that people gave (machines add a certainty)."""
    tags = one.get("tags")
    names = [
        text(tag.get("name"))
        for tag in (tags if isinstance(tags, list) else [])
        if isinstance(tag, dict) and tag.get("accuracy") is None
    ]
    return "; ".join(
        filter(None, [text(one.get("title")), ", ".join(filter(None, names[:MAX_TAGS]))])
    )
