"""The http(s) client: every connection checked at the socket, every URL under one deadline, every body capped.

An address is judged where the socket is made (session.py), so literals, names, redirects and a second answer of the DNS
all pass the same door, and what was judged is what is connected to. Site owners are heard: robots.txt before a request,
opt-out headers before the body, Retry-After and a pace per host between requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from webdistill import __version__
from webdistill.core.errors import UserError
from webdistill.web.answers import decided, read_body
from webdistill.web.clock import Clock
from webdistill.web.cookies import Cookies
from webdistill.web.heads import afresh
from webdistill.web.hosts import Hosts, Turn
from webdistill.web.intranet import OWN, Door, allowed_hosts, asked
from webdistill.web.names import Names, SystemNames
from webdistill.web.reply import DOWNGRADE, Reply, defect, may_pass
from webdistill.web.robots import LONGEST, Robots
from webdistill.web.session import failure, open_session
from webdistill.web.target import fault, parse_url
from webdistill.web.usage import AGENT

MAX_REDIRECTS = 4
ROBOTS_REDIRECTS = 5  # of robots.txt, as RFC 9309 asks
FIRST_PAUSE = 0.5  # seconds before the first retry, doubled for each further one
DEAF = 8  # second chances in a row without an answer: from then on the host gets one
PROBE = 10  # in so many times the deadline
FEW_HOSTS = 100  # with more of them, connections are kept only where a next request is in sight
TIMED_OUT = Reply("timeout", detail="no complete answer in time")
Aside = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Manners:
    """How to ask; `per_host` and `delay` bound the load on one host, the others what one URL may cost us.

    `timeout`: seconds for one URL, redirects and retries included. Waiting for a turn does not count, nor does waiting
    for robots.txt, tdmrep.json and ai.txt, which all URLs of a host share: each has so many seconds of its own.
    """

    timeout: float
    retries: int
    max_bytes: int
    per_host: int  # requests at once
    delay: float  # seconds between the starts of two requests
    robots: bool  # whether robots.txt is asked for, and obeyed


@dataclass(frozen=True)
class _Kind:
    """What is asked for.

    `heed`: robots.txt and opt-out headers count; `cut`: more than `cap` bytes are not read; `delay`: seconds until the
    host's next request, if that is more than usual; `redirects`: followed at most; `token`: of a registered client;
    `form`: what is sent, for which the request is a POST; `again`: an earlier try has failed.
    """

    accept: str
    cap: int
    heed: bool = False
    cut: bool = False
    delay: float = 0.0
    redirects: int = MAX_REDIRECTS
    token: str = field(default="", repr=False)
    form: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    again: bool = False


def contact_address(environment: Mapping[str, str]) -> str:
    """The contact for the user agent. Raises UserError when there is none: site owners must be able to complain."""
    contact = environment.get("WEBDISTILL_CONTACT", "").strip()
    if re.fullmatch(r"(https?://|mailto:)?[!-'*-~]+", contact) and (
        "@" in contact or "://" in contact
    ):
        return contact
    found = f"found {contact!r}" if contact else "it is not set"
    raise UserError(
        "requests to the web need a contact: set the environment variable WEBDISTILL_CONTACT to a mail address "
        f"or a page where site owners reach you (it goes into the user agent); {found}"
    )


class Client:
    """An aiohttp session with our rules; open and close it inside the event loop.

    `names`: looks names up (default: the system). An empty `contact` is for a client that is never used.
    """

    def __init__(
        self, contact: str, settings: Manners, names: AbstractResolver | None = None
    ) -> None:
        self._contact = contact
        self._settings = settings
        self._names = Names(names or SystemNames())
        self._image = _Kind(
            "image/webp,image/png,image/jpeg,image/*;q=0.5,*/*;q=0.1",
            settings.max_bytes,
            heed=True,
        )
        self._json = _Kind("application/json", settings.max_bytes)
        self._text = _Kind("text/plain,*/*;q=0.5", LONGEST, cut=True, redirects=ROBOTS_REDIRECTS)
        loopback = os.environ.get("WEBDISTILL_ALLOW_LOOPBACK") == "1"  # for tests
        self._door = Door(allowed_hosts(os.environ), loopback=loopback)
        self._hosts = Hosts(settings.per_host, settings.timeout)
        self._robots = Robots(self._read_rules)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session."""
        agent = f"{AGENT}/{__version__} (+{self._contact})"
        self._session = open_session(agent, self._names, self._door)

    async def close(self) -> None:
        """Close the session."""
        await self._robots.close()
        if self._session is not None:
            await self._session.close()
        await self._names.close()

    @contextlib.asynccontextmanager
    async def get(self, text: str, aside: Aside = nullcontext) -> AsyncIterator[Reply]:
        """Download one image; its turn is taken until the caller is done with the body, which bounds memory.

        Never raises: an exception that nobody expected is a reply "failed". Waiting for a turn, or for the host's
        robots.txt, does not count against the deadline. `aside()` surrounds the waiting for another try, during which
        the caller may let others go first.
        """
        assert self._contact, "no request without a contact"
        turn = Turn(self._hosts)
        try:
            try:
                url = parse_url(text)
                reply = (
                    await self._ask(url, turn, self._image, aside)
                    if url
                    else Reply("bad_url", detail=fault(text))
                )
            except Exception as error:  # one address of a million must not end the crawl
                reply = Reply("failed", detail=defect(error))
            yield reply  # not within: what the caller raises is the caller's
        finally:
            turn.leave()

    async def get_json(self, text: str, query: Mapping[str, str], token: str = "") -> Reply:
        """Ask an API with these further keys in the query: no robots.txt, no opt-out headers, all else as for `get`.

        With a `token`, which goes into a header, no redirect is followed: it is for this server alone.
        """
        url = parse_url(text)
        kind = replace(self._json, token=token, redirects=0) if token else self._json
        return await self._load(url.update_query(query), kind) if url else Reply("bad_url")

    async def post_json(self, text: str, form: Mapping[str, str]) -> Reply:
        """Send a form to an API. No redirect is followed, all else as for `get_json`."""
        url = parse_url(text)
        kind = replace(self._json, form=tuple(form.items()), redirects=0)
        return await self._load(url, kind) if url else Reply("bad_url")

    async def _read_rules(self, url: URL, delay: float) -> Reply:
        return await self._load(url, replace(self._text, delay=delay))

    async def _load(self, url: URL, kind: _Kind) -> Reply:
        turn = Turn(self._hosts)
        try:
            return await self._ask(url, turn, kind, nullcontext)
        finally:
            turn.leave()

    async def _ask(self, url: URL, turn: Turn, kind: _Kind, aside: Aside) -> Reply:
        """All tries, within the deadline; of those that failed the last complete one tells the cause."""
        assert self._contact, "no request without a contact"
        reply = TIMED_OUT
        clock = Clock(self._settings.timeout)
        for attempt in range(self._settings.retries + 1):
            last = attempt == self._settings.retries
            found = await self._follow(url, turn, clock, kind, patient=last)
            if found is None:  # the deadline has passed
                break
            reply = found
            if last or _is_final(reply):
                break
            if clock.silent:
                return await self._once_more(url, turn, clock, kind, aside) or TIMED_OUT
            pause = max(FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.0), turn.held())
            if pause > clock.left:
                break
            turn.leave()
            with aside():
                await asyncio.sleep(pause)
            clock.left -= pause
            kind = replace(kind, again=True)
        return reply

    async def _once_more(
        self, url: URL, turn: Turn, clock: Clock, kind: _Kind, aside: Aside
    ) -> Reply | None:
        """The last try of a URL on which a quick host kept silent, with all that is left of its deadline.

        Few of one host at a time, so that they do not take the turns of all others; None: no answer, or the host has
        not answered any of those before.
        """
        host = turn.host
        turn.leave()
        with aside():
            await host.second.acquire()
        try:
            if host.deaf >= DEAF and not host.probe(PROBE * self._settings.timeout):
                return None
            found = await self._follow(url, turn, clock, kind, patient=True)
            if clock.heard or found is None:
                host.deaf = 0 if clock.heard else host.deaf + 1
            return found
        finally:
            host.second.release()

    async def _follow(
        self, url: URL, turn: Turn, clock: Clock, kind: _Kind, *, patient: bool
    ) -> Reply | None:
        """One try: a request and those it is redirected to, each with all checks anew. None: the deadline passed."""
        heed = kind.heed and self._settings.robots
        verdict, delay = ("allowed" if heed else ""), max(self._settings.delay, kind.delay)
        cookies = Cookies()
        for _ in range(kind.redirects + 1):
            turn.leave()
            if heed:
                rules = self._robots.known(url) or await self._robots.rules(url)
                refusal = rules.refusal(url)
                if refusal is not None:
                    return refusal
                delay = max(self._settings.delay, rules.delay)
            if not await turn.enter((url.raw_host or "").rstrip("."), delay):
                return Reply("rate_limited", detail="the host asks for peace", robots=verdict)
            found = await self._request(url, turn, clock, kind, cookies, patient=patient)
            if not isinstance(found, URL):
                return found._replace(robots=verdict) if found is not None and heed else found
            if url.scheme == "https" and found.scheme == "http":
                return Reply("bad_redirect", detail=DOWNGRADE, robots=verdict)
            url = found
        detail = f"more than {kind.redirects} redirects"
        return Reply("bad_redirect", detail=detail, robots=verdict)

    async def _request(
        self, url: URL, turn: Turn, clock: Clock, kind: _Kind, cookies: Cookies, *, patient: bool
    ) -> Reply | URL | None:
        """One exchange under the clock: the body, where the server sends us, or None when the deadline passed."""
        began = asyncio.get_running_loop().time()
        patience = clock.left if patient else min(clock.left, turn.patience())
        clock.silent = clock.heard = False
        clock.running = asyncio.timeout_at(began + patience)
        try:
            async with clock.running:
                return await self._exchange(url, turn, clock, kind, cookies, began)
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            if not clock.running.expired():
                return failure(error)
            if clock.heard or patience == clock.left:
                return None
            clock.silent = True
            return TIMED_OUT
        finally:
            clock.left -= asyncio.get_running_loop().time() - began

    async def _exchange(
        self, url: URL, turn: Turn, clock: Clock, kind: _Kind, cookies: Cookies, began: float
    ) -> Reply | URL:
        assert self._session is not None
        headers = {"Accept": kind.accept, **cookies.header(url)}
        if not kind.cut and turn.alone and len(self._hosts) > FEW_HOSTS:
            headers["Connection"] = "close"
        asked.set(host := url.raw_host or "")
        afresh.set(kind.again)
        if kind.token:
            headers["Authorization"] = f"Bearer {kind.token}"
        method, form = ("POST", dict(kind.form)) if kind.form else ("GET", None)
        async with self._session.request(
            method, url, headers=headers, data=form, allow_redirects=False
        ) as response:
            clock.heard = True
            turn.host.heard(asyncio.get_running_loop().time() - began)
            if clock.running.when() != began + clock.left:  # less patience with silence
                clock.running.reschedule(began + clock.left)
            found = decided(response, url, turn, heed=kind.heed, pause=FIRST_PAUSE)
            if found is not None:
                cookies.hear(response)
                return found
            data = await read_body(response, turn, clock, kind.cap, cut=kind.cut)
            if data is None:
                detail = f"more than {kind.cap} bytes"
                return Reply("too_large", http_status=response.status, detail=detail)
            whence = OWN if host in self._door.own else ""
            return Reply("ok", data, http_status=response.status, detail=whence)


def _is_final(reply: Reply) -> bool:
    """Whether asking again at once is useless: it cannot pass, or was refused before any request."""
    refused = reply.robots == "unreachable" or (
        reply.status == "rate_limited" and not reply.http_status
    )
    return refused or reply.status == "dns_error" or not may_pass(reply.status, reply.http_status)
