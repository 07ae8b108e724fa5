"""robots.txt as RFC 9309 wants it: who cannot say what is forbidden is left alone, who has no rules allows everything.

A robots.txt that is not there (4xx, too many redirects) allows all; one that cannot be had (5xx, 429, no answer, no
address) forbids all until it is asked for again. Its first 500 KiB count. Where it allows that, the origin's
tdmrep.json is asked for after it; one that cannot be had reserves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from protego import Protego
from yarl import URL

from webdistill.web.memo import Memo
from webdistill.web.optout import AGENT
from webdistill.web.reply import DOWNGRADE, Reply
from webdistill.web.tdmrep import PLACE, reserved

LONGEST = 500 * 1024  # bytes of a robots.txt that are read
LONGEST_DELAY = 10.0  # seconds; a Crawl-delay above counts as this
KEPT = 86_400.0  # seconds rules are good for (RFC 9309, 2.4),
KEPT_FAILURE = 300.0  # and a failure
ROOM = 4 << 20  # characters of robots.txt remembered; rules take 20 to 40 times as much memory
PLAIN = 512  # what an origin costs at least, in characters
LONG = 1 << 15  # characters that are parsed in a thread: half a megabyte takes a second


@dataclass(frozen=True, slots=True)
class Rules:
    """What one origin allows: nothing if `failure` says why its robots.txt could not be had."""

    parser: Protego | None = None
    failure: Reply | None = None
    delay: float = 0.0
    length: int = 0
    reserved: Protego | None = None  # by tdmrep.json

    def refusal(self, url: URL) -> Reply | None:
        """Why the URL must not be asked for, or None."""
        if self.parser is not None and not self.parser.can_fetch(str(url), AGENT):
            return Reply("robots", robots="disallowed", detail="robots.txt disallows it")
        if self.reserved is not None and not self.reserved.can_fetch(str(url), AGENT):
            return Reply("opted_out_header", robots="allowed", opt_out="tdmrep.json: 1")
        return self.failure


ALLOW_ALL = Rules()


class Robots:
    """The rules of each origin, asked for once; `ask` downloads a robots.txt or tdmrep.json.

    It is told how many seconds must pass until the next request to the host, at least.
    """

    def __init__(self, ask: Callable[[URL, float], Awaitable[Reply]]) -> None:
        self._ask = ask
        self._memo = Memo(self._find, _price, ROOM)

    def known(self, url: URL) -> Rules | None:
        """The rules that hold for the URL, or None if they have to be asked for."""
        return self._memo.known(_origin(url))

    async def rules(self, url: URL) -> Rules:
        """The rules that hold for the URL."""
        return await self._memo.get(_origin(url))

    async def close(self) -> None:
        """Stop what is being asked for."""
        await self._memo.close()

    async def _find(self, origin: str) -> Rules:
        rules, place = await self._robots_txt(origin), URL(origin + PLACE)
        if rules.refusal(place) is not None:
            return rules
        reply = await self._ask(place, rules.delay)
        if reply.status != "ok":
            return rules
        long = len(reply.data) > LONG
        found = await asyncio.to_thread(reserved, reply.data) if long else reserved(reply.data)
        return replace(rules, reserved=found, length=rules.length + len(reply.data))

    async def _robots_txt(self, origin: str) -> Rules:
        reply = await self._ask(URL(f"{origin}/robots.txt"), 0.0)
        if reply.status == "ok":
            text = _text(reply.data)
            return await asyncio.to_thread(parse, text) if len(text) > LONG else parse(text)
        absent = reply.status == "http_error" and reply.http_status < 500
        lost = reply.status == "bad_redirect" and reply.detail != DOWNGRADE
        if absent or lost or reply.status == "not_found":
            return ALLOW_ALL
        status = "robots" if reply.status in ("http_error", "bad_redirect") else reply.status
        detail = f"robots.txt: {reply.detail or reply.status}"
        failure = Reply(status, http_status=reply.http_status, detail=detail, robots="unreachable")
        return Rules(failure=failure)


def _origin(url: URL) -> str:
    return f"{url.scheme}://{url.raw_authority}"


def parse(text: str) -> Rules:
    """The rules of a robots.txt."""
    parser = Protego.parse(text)
    delay = min(parser.crawl_delay(AGENT) or 0.0, LONGEST_DELAY)
    return Rules(parser, delay=delay, length=len(text))


def _text(data: bytes) -> str:
    """Without a byte order mark, whatever is no UTF-8 replaced, a line that the cap cut through dropped."""
    if len(data) >= LONGEST:
        data = data[:LONGEST].rpartition(b"\n")[0]
    return data.decode("utf-8-sig", "replace")


def _price(rules: Rules) -> tuple[float, int]:
    return (KEPT if rules.failure is None else KEPT_FAILURE), PLAIN + rules.length
