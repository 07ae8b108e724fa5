"""Search engines for free images: what one is to us, and how a class's share is spread over its words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stages.search import openverse, wikimedia
from stages.search.found import Ask, Found
from stages.search.keywords import Keywords
from stages.search.params import Search


@dataclass(frozen=True)
class Provider:
    """A public API. `search` yields results until nobody wants more of them; `total` says how many there are."""

    name: str
    address: str
    variable: str  # of the environment: another address
    pause: float  # seconds between the starts of two requests
    per_class: int
    search: Callable[[Ask, str], Iterator[Found]]
    total: Callable[[Ask, str], int]
    fault: Callable[[Mapping[str, Any]], str]  # what is wrong with an answer, "" if nothing


def chosen(settings: Search) -> list[Provider]:
    """The providers that params.yaml enables, in the order in which they are asked."""
    found = []
    if settings.openverse.enabled:
        licences = settings.openverse.licences

        def search(ask: Ask, words: str) -> Iterator[Found]:
            return openverse.search(ask, words, licences)

        def total(ask: Ask, words: str) -> int:
            return openverse.total(ask, words, licences)

        found.append(
            Provider(
                "openverse", openverse.ADDRESS, "WEBDISTILL_OPENVERSE", openverse.PAUSE,
                settings.openverse.per_class, search, total, openverse.fault,
            )
        )  # fmt: skip
    if settings.wikimedia.enabled:
        found.append(
            Provider(
                "wikimedia", wikimedia.ADDRESS, "WEBDISTILL_WIKIMEDIA", wikimedia.PAUSE,
                settings.wikimedia.per_class, wikimedia.search, wikimedia.total, wikimedia.fault,
            )
        )  # fmt: skip
    return found


def results(provider: Provider, ask: Ask, keywords: Keywords) -> Iterator[Found]:
    """Up to `per_class` different images per class, spread evenly over its words.

    What one word does not yield, the words after it may.
    """
    for name, words in keywords.words.items():
        urls: set[str] = set()
        for number, word in enumerate(words):
            left = provider.per_class - len(urls)
            goal = len(urls) + -(-left // (len(words) - number))
            if len(urls) == goal:
                continue
            for found in provider.search(ask, word):
                if found.url not in urls:
                    urls.add(found.url)
                    yield found._replace(query=name)
                if len(urls) == goal:
                    break
