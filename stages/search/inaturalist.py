"""iNaturalist: photos of observed animals, plants and fungi, each under the licence that its photographer gave it.

Known of its API, version 1: no key, 200 observations per page and 10,000 per query, at most 100 requests a minute, of
which it asks to use 60, and 10,000 a day. A word finds the species or larger groups that are called so, in science or
in English. Only observations count whose species others have confirmed, which leaves out animals in captivity.
Photos are taken 500 px wide at most. https://api.inaturalist.org/v1/docs/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages.search.cells import text
from stages.search.found import Ask, Found
from stages.search.grants import Grant
from stages.search.params import Inaturalist as Settings

ADDRESS = "https://api.inaturalist.org/v1/observations"
PAUSE = 1.0  # seconds between the starts of two requests
PAGE = 200
MAX_PAGES = 50
PAGES = "https://www.inaturalist.org/photos/"
RIGHTS = "https://creativecommons.org/"
SMALL, MEDIUM = "/square.", "/medium."  # of the addresses of a photo in two sizes


class Inaturalist:
    """The Provider of this name."""

    name = "inaturalist"
    address = ADDRESS
    variable = "WEBDISTILL_INATURALIST"
    grant: Grant | None = None

    def __init__(self, settings: Settings) -> None:
        self.pause = PAUSE
        self.per_class = settings.per_class
        self._codes = {_code(name): name for name in settings.licences}

    def search(self, ask: Ask, words: str) -> Iterator[Found]:
        """The observations that people like most come first; 10,000 at most."""
        seen: set[str] = set()
        for page in range(1, MAX_PAGES + 1):
            answer = ask(self._query(words, page, PAGE))
            names = {text(one.get("id")) for one in _dicts(answer.get("results"))}
            if not names or names <= seen:  # the end, or the same page again
                return
            for one in _dicts(answer.get("results")):
                if text(one.get("id")) not in seen:
                    yield from self._photos(one)
            seen |= names
            total = answer.get("total_results")
            if isinstance(total, int) and page * PAGE >= total:
                return

    def total(self, ask: Ask, words: str) -> int:
        """Observations; most have several photos."""
        count = ask(self._query(words, 1, 0)).get("total_results")
        return min(count, PAGE * MAX_PAGES) if isinstance(count, int) else 0

    def fault(self, answer: Mapping[str, Any]) -> str:
        """An answer without a list of results is none."""
        if isinstance(answer.get("results"), list):
            return ""
        error = text(answer.get("error"))
        return f"it says '{error[:200]}'" if error else "no list 'results' in its answer"

    def _query(self, words: str, page: int, size: int) -> dict[str, str]:
        return {
            "taxon_name": words,
            "photos": "true",
            "photo_license": ",".join(self._codes),
            "quality_grade": "research",
            "order_by": "votes",
            "per_page": str(size),
            "page": str(page),
        }

    def _photos(self, one: Mapping[str, Any]) -> Iterator[Found]:
        """The photos of an observation that are under one of the licences: each has its own."""
        user, taxon = (_dict(one.get(key)) for key in ("user", "taxon"))
        names = [text(taxon.get(key)) for key in ("preferred_common_name", "name")]
        creator = text(user.get("name")) or text(user.get("login"))
        for photo in _dicts(one.get("photos")):
            url, number = text(photo.get("url")), text(photo.get("id"))
            licence = self._codes.get(text(photo.get("license_code")).lower())
            if licence is None or not url.startswith(("http://", "https://")):
                continue
            yield Found(
                url.replace(SMALL, MEDIUM),
                provider="inaturalist",
                caption="; ".join(filter(None, [*names, text(one.get("species_guess"))])),
                licence="CC0 1.0" if licence == "cc0" else f"CC {licence.upper()} 4.0",
                licence_url=f"{RIGHTS}{'publicdomain/zero/1.0' if licence == 'cc0' else f'licenses/{licence}/4.0'}/",
                creator=creator,
                landing_page=f"{PAGES}{number}" if number else text(one.get("uri")),
                attribution=text(photo.get("attribution")),
            )


def _code(licence: str) -> str:
    """As the API spells it."""
    return licence if licence == "cc0" else f"cc-{licence}"


def _dicts(value: object) -> Sequence[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
