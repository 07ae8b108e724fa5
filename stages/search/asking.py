"""Asks a provider page by page and keeps each page, so that a killed search asks nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from stages.search.found import Found
from stages.search.grants import Grant
from stages.search.keywords import Keywords
from stages.search.providers import Provider, results
from webdistill.core.errors import UserError
from webdistill.web.client import Client, Manners, contact_address
from webdistill.web.reply import Reply

TOKEN = re.compile(r"[!-~]{1,4096}")  # what may stand in a header
TIMEOUT = 90.0  # seconds for one page: longer than Openverse's minute of waiting after HTTP 429
RETRIES = 3
MAX_BYTES = 16 << 20
MEANING = {
    401: "it refuses anonymous requests of this kind",
    403: "it refuses us; is WEBDISTILL_CONTACT an address that answers?",
    429: "too many requests for now; wait (Openverse has a limit per day, a higher one for registered clients)",
}


Progress = Callable[..., Iterator[Found]]  # Stage.progress


def remote_rows(
    providers: Sequence[Provider], keywords: Keywords, pages: Path, progress: Progress
) -> Iterator[Found]:
    """What the providers find, one provider after the other; `pages`: where their answers are kept."""
    for provider in providers:
        with contextlib.closing(Asking(provider, pages)) as ask:
            yield from progress(
                results(provider, ask, keywords),
                total=provider.per_class * len(keywords.words),
                unit="result",
                label=f"search: {provider.name}",
            )


class Asking:
    """One provider's API, open until closed; `pages`: where answers are kept, None for nowhere."""

    def __init__(self, provider: Provider, pages: Path | None) -> None:
        self._provider = provider
        self._address = os.environ.get(provider.variable) or provider.address
        self._pages = pages
        manners = Manners(
            TIMEOUT, RETRIES, MAX_BYTES, per_host=1, delay=provider.pause, robots=False
        )
        self._client = Client(contact_address(os.environ), manners)
        self._runner = asyncio.Runner()
        self._runner.run(self._client.open())
        self._token = ""

    def __call__(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The answer to one request. Raises UserError with what the provider answered and what to do."""
        known = self._kept(query)
        if known is not None and known.is_file():
            with contextlib.suppress(UserError):  # damaged on disk: as good as absent
                return self._read(known.read_bytes())
        reply = self._answer(query)
        if reply.status != "ok":
            raise self._error(_explain(reply))
        answer = self._read(reply.data)
        if known is not None:
            part = known.with_suffix(".part")
            part.write_bytes(reply.data)
            os.replace(part, known)
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._client.close())
        self._runner.close()

    def _answer(self, query: Mapping[str, str]) -> Reply:
        grant = self._provider.grant
        if grant is None:
            return self._runner.run(self._client.get_json(self._address, query))
        for fresh in (False, True):  # a token lasts for some hours
            if fresh or not self._token:
                self._token = self._granted(grant)
            reply = self._runner.run(self._client.get_json(self._address, query, self._token))
            if reply.http_status != 401:
                break
        return reply

    def _granted(self, grant: Grant) -> str:
        """A token. Raises UserError when there is none, which names the variables and never what they hold."""
        place = urljoin(self._address, grant.place)
        reply = self._runner.run(self._client.post_json(place, grant.form()))
        if reply.status == "ok":
            with contextlib.suppress(ValueError, RecursionError, AttributeError):
                token = json.loads(reply.data).get("access_token")
                if isinstance(token, str) and TOKEN.fullmatch(token):
                    return token
        what = "no token in its answer" if reply.status == "ok" else _explain(reply)
        raise UserError(
            f"{self._provider.name} gives no token to the client that {' and '.join(grant.variables)} name: {what}; "
            "set them right, or unset both to ask as anybody may"
        )

    def _kept(self, query: Mapping[str, str]) -> Path | None:
        if self._pages is None:
            return None
        self._pages.mkdir(parents=True, exist_ok=True)
        key = json.dumps([self._address, sorted(query.items())])
        return self._pages / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _read(self, data: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            raise self._error(f"no JSON but {data[:40]!r}") from None
        if not isinstance(answer, dict):
            raise self._error(f"a JSON {type(answer).__name__} instead of an object")
        if wrong := self._provider.fault(answer):
            raise self._error(wrong)
        return answer

    def _error(self, what: str) -> UserError:
        name = self._provider.name
        kept = "; answered pages are kept, run search again later" if self._pages else ""
        return UserError(
            f"{name} did not answer as expected: {what}{kept}, or set search.{name}.enabled: false"
        )


def _explain(reply: Reply) -> str:
    meaning = MEANING.get(429 if reply.status == "rate_limited" else reply.http_status, "")
    detail = reply.detail or reply.status.replace("_", " ")
    return f"{detail} ({meaning})" if meaning else detail
