"""Search engines for free images: the protocol of one, and how the images of a class are spread over its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from stages.search.found import Ask, Found
from stages.search.grants import Grant
from stages.search.inaturalist import Inaturalist
from stages.search.keywords import Keywords
from stages.search.openverse import Openverse
from stages.search.params import Search
from stages.search.wikimedia import Wikimedia


class Provider(Protocol):
    """A public API of images: how it is queried, and how its answers become candidates.

    A new provider is a class like Openverse in a file of its own, a line in `chosen`, a section in params.py and a name
    in found.PROVIDERS; CONTRIBUTING.md lists all steps. It sends no request itself: `ask` does, at the given pace, with
    retries, and stores every answer so that an interrupted search resumes without repeating a request.

    Example:
        class Gallery:
            name, address, variable = "gallery", "https://gallery.example/api", "WEBDISTILL_GALLERY"

            def __init__(self, settings: Settings) -> None:
                self.pause, self.per_class, self.grant = 1.0, settings.per_class, None

            def search(self, ask: Ask, words: str) -> Iterator[Found]:
                for one in ask({"q": words})["images"]:
                    if isinstance(one, dict) and text(one.get("url")).startswith("https://"):
                        yield Found(text(one["url"]), provider=self.name, licence=text(one.get("licence")))

            def total(self, ask: Ask, words: str) -> int:
                return len(ask({"q": words})["images"])

            def fault(self, answer: Mapping[str, Any]) -> str:
                return "" if isinstance(answer.get("images"), list) else "no list 'images' in its answer"
    """

    name: str  # of its section under `search` in params.yaml
    address: str  # of the API; queries are appended to it
    variable: str  # environment variable with another address of the API
    pause: float  # seconds between the starts of two requests
    per_class: int  # largest number of images of a class
    grant: Grant | None  # of a registered client; None: requests are anonymous

    def search(self, ask: Ask, words: str) -> Iterator[Found]:
        """Search for images. A page is requested when the results of the page before are used up.

        Arguments:
            ask: sends one query to the API and returns its answer; a stored answer costs no request.
            words: the words of one keyword.

        Returns:
            Candidates, best first, with an http(s) address and everything that is known about licence and creator;
            `query` stays empty. They end if the API has no more results or repeats itself. The caller may stop earlier.

        Raises:
            UserError: `ask` got no answer, or one that `fault` rejects. No accepted answer may raise anything.
        """

    def total(self, ask: Ask, words: str) -> int:
        """The number of results, for --dry-run.

        Arguments:
            ask: as in `search`; called once.
            words: the words of one keyword.

        Returns:
            The number that the API reports, 0 if it reports none.

        Raises:
            UserError: as in `search`.
        """

    def fault(self, answer: Mapping[str, Any]) -> str:
        """Check an answer before it is stored.

        Arguments:
            answer: any JSON object.

        Returns:
            The fault as half a sentence for the user, such as "no list 'images' in its answer"; "" if there is none.
            Nothing is raised, whatever the answer holds.
        """


def chosen(settings: Search) -> list[Provider]:
    """The providers that params.yaml enables, in the order in which they are searched."""
    found: list[Provider] = []
    if settings.openverse.enabled:
        found.append(Openverse(settings.openverse))
    if settings.wikimedia.enabled:
        found.append(Wikimedia(settings.wikimedia))
    if settings.inaturalist.enabled:
        found.append(Inaturalist(settings.inaturalist))
    return found


def results(provider: Provider, ask: Ask, keywords: Keywords) -> Iterator[Found]:
    """Up to `per_class` different images of every class, spread evenly over its words.

    If one word yields fewer images than its share, the words after it may yield more.
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
