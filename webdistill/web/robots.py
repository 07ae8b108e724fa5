"""robots.txt as RFC 9309 wants it: who cannot say what is forbidden is left alone, who has no rules allows everything.

A robots.txt that is not there (4xx, too many redirects) allows all; one that cannot be had (5xx, 429, no answer, no
address) forbids all until it is asked for again. Its first 500 KiB count. Where it allows that, the origin's
tdmrep.json and ai.txt (at either of its places) are asked for after it; one that cannot be had reserves nothing. What
robots.txt and ai.txt say of training is an opt-out (usage.py), with the line that says it.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from protego import Protego
from yarl import URL

from webdistill.web.memo import Memo
from webdistill.web.reply import DOWNGRADE, Reply
from webdistill.web.tdmrep import PLACE, reserved
from webdistill.web.usage import AGENT, Stated, in_ai_txt, in_robots

AI_TXTS = ("/.well-known/ai.txt", "/ai.txt")  # of the draft, and Spawning's
MARKS = (  # the longer ones first: one of UTF-16 begins one of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
UNSEEN = re.compile(
    "[\0\ufeff\u200b]+"
)  # also where two files were joined, or texts of two encodings
VERSION = re.compile(  # of a crawler, or what else follows its name
    r"(user[-_ ]?agent[ \t]*:[ \t]*[a-z_-]+)(?:/|[ \t]+[(\d])[!-\"$-~ \t]*", re.IGNORECASE
)
AGENTS = re.compile(  # several in one line
    r"^([ \t]*user[-_ ]?agent[ \t]*:)([^\r\n#,]*,[^\r\n#]*)", re.IGNORECASE | re.MULTILINE
)
LONGEST = 500 * 1024  # bytes of a robots.txt that are read
LONGEST_DELAY = 10.0  # seconds; a Crawl-delay above counts as this
KEPT = 86_400.0  # seconds rules are good for (RFC 9309, 2.4),
KEPT_FAILURE = 300.0  # and a failure
ROOM = 4 << 20  # characters of robots.txt remembered; rules take 20 to 40 times as much memory
PLAIN = 512  # what an origin costs at least, in characters
LONG = 1 << 15  # characters that are parsed in a thread: half a megabyte takes a second
T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Rules:
    """What one origin allows: nothing if `failure` says why its robots.txt could not be had."""

    parser: Protego | None = None
    failure: Reply | None = None
    delay: float = 0.0
    length: int = 0
    usage: Stated | None = None  # what robots.txt says of training
    reserved: Protego | None = None  # by tdmrep.json
    ai_txt: tuple[Stated, ...] = ()  # of its two places

    def disallowed(self, url: URL) -> bool:
        """Whether robots.txt forbids to ask for it."""
        return self.parser is not None and not self.parser.can_fetch(str(url), AGENT)

    def refusal(self, url: URL) -> Reply | None:
        """Why the URL must not be asked for, or None."""
        if self.disallowed(url):
            return Reply("robots", robots="disallowed", detail="robots.txt disallows it")
        if self.reserved is not None and not self.reserved.can_fetch(str(url), AGENT):
            return Reply("opted_out_header", robots="allowed", opt_out="tdmrep.json: 1")
        told = [("robots.txt", self.usage), *(("ai.txt", one) for one in self.ai_txt)]
        for name, stated in told:
            line = stated.refusal(str(url)) if stated is not None else ""
            if line:
                return Reply("opted_out_header", robots="allowed", opt_out=f"{name}: {line}")
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
        rules = await self._robots_txt(origin)
        if rules.usage is not None and rules.usage.everywhere:
            return rules
        listed = await self._beside(origin + PLACE, rules)
        texts = [_text(await self._beside(origin + place, rules)) for place in AI_TXTS]
        length = rules.length + len(listed) + sum(map(len, texts))
        found = await _aside(len(listed), reserved, listed)
        stated = [await _aside(len(text), in_ai_txt, text) for text in texts]
        ai_txt = tuple(one for one in stated if one is not None)
        return replace(rules, reserved=found, ai_txt=ai_txt, length=length)

    async def _beside(self, place: str, rules: Rules) -> bytes:
        """What else the origin says, where its robots.txt lets us ask; empty where there is none."""
        url = URL(place)
        if rules.disallowed(url) or rules.failure is not None:
            return b""
        reply = await self._ask(url, rules.delay)
        return reply.data if reply.status == "ok" else b""

    async def _robots_txt(self, origin: str) -> Rules:
        reply = await self._ask(URL(f"{origin}/robots.txt"), 0.0)
        if reply.status == "ok":
            text = _text(reply.data)
            return await _aside(len(text), parse, text)
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
    return Rules(parser, delay=delay, length=len(text), usage=in_robots(text))


async def _aside(length: int, parsed: Callable[[T], V], given: T) -> V:
    """`parsed(given)`, in a thread if that is long."""
    return await asyncio.to_thread(parsed, given) if length > LONG else parsed(given)


def _text(data: bytes) -> str:
    """Without signs that nobody sees, whatever cannot be read replaced, a line that the cap cut through dropped.

    RFC 9309 wants UTF-8; who writes UTF-16 forbids no less. A crawler has no version: `bot/1.0` is `bot`.
    """
    text = UNSEEN.sub("", data[:LONGEST].decode(_encoding(data), "replace"))
    text = VERSION.sub(r"\1", AGENTS.sub(_one_a_line, text))
    return text.rpartition("\n")[0] if len(data) >= LONGEST else text


def _one_a_line(found: re.Match[str]) -> str:
    """Agents that stand in one line, `a, b`, as robots.txt has them."""
    names = filter(None, map(str.strip, found[2].split(",")))
    return "\n".join(f"{found[1]} {name}" for name in names) or found[0]


def _encoding(data: bytes) -> str:
    """By the byte order mark, else by where the zeros are in the first signs of what is mostly ASCII."""
    for mark, name in MARKS:
        if data.startswith(mark):
            return name
    start = data[:256]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if even + odd > len(start) * 5 // 8:
        return "utf-32-le" if data[:1] != b"\0" else "utf-32-be"
    if max(even, odd) > len(start) // 4:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


def _price(rules: Rules) -> tuple[float, int]:
    return (KEPT if rules.failure is None else KEPT_FAILURE), PLAIN + rules.length
