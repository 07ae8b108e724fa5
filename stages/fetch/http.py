"""The http(s) client: every connection checked at the socket, every URL under one deadline, every body capped.

An address is judged where the socket is made, so literals, names, redirects and a second answer of the DNS all pass
the same door, and what was judged is what is connected to. robots.txt, X-Robots-Tag, Retry-After and a minimum delay
per host are not obeyed yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from yarl import URL

from stages.fetch.addresses import is_loopback, is_public, parse
from stages.fetch.outcomes import Body, Status, may_pass
from webdistill import __version__
from webdistill.core.errors import UserError

CONNECTIONS = 64  # downloads under way at once
PER_HOST = 4  # of them to one host
MAX_REDIRECTS = 4
PIECE = 1 << 16  # bytes read at a time
FIRST_PAUSE = 0.5  # seconds before the first retry, doubled for each further one
REDIRECTS = frozenset({301, 302, 303, 307, 308})
CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


class NotPublicError(OSError):
    """The connection would go to an address that is not public."""


def contact_address(environment: Mapping[str, str]) -> str:
    """The contact for the user agent. Raises UserError when there is none: site owners must be able to complain."""
    contact = environment.get("WEBDISTILL_CONTACT", "").strip()
    if re.fullmatch(r"(https?://|mailto:)?[!-'*-~]+", contact) and (
        "@" in contact or "://" in contact
    ):
        return contact
    found = f"found {contact!r}" if contact else "it is not set"
    raise UserError(
        "the candidate list holds http(s) URLs: set the environment variable WEBDISTILL_CONTACT to a mail address "
        f"or a page where site owners reach you (it goes into the user agent); {found}"
    )


class Client:
    """An aiohttp session with our rules; open and close it inside the event loop."""

    def __init__(self, contact: str, timeout: float, retries: int, max_bytes: int) -> None:
        self._headers = {
            "User-Agent": f"webdistill/{__version__} (+{contact})",
            "Accept": "image/webp,image/png,image/jpeg,image/*;q=0.5",
            "Accept-Encoding": "identity",
        }
        self._timeout = timeout
        self._retries = retries
        self._max_bytes = max_bytes
        self._loopback = (
            os.environ.get("WEBDISTILL_ALLOW_LOOPBACK") == "1"
        )  # for tests against a local server
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._hosts: dict[str, asyncio.Semaphore] = {}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session, and threads enough that slow name look-ups do not hold up the others."""
        names = ThreadPoolExecutor(CONNECTIONS, "names")
        asyncio.get_running_loop().set_default_executor(names)
        connector = aiohttp.TCPConnector(
            limit=0, resolver=aiohttp.ThreadedResolver(), socket_factory=self._socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # a proxy would resolve and connect behind our back
        )

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def get(self, text: str) -> AsyncIterator[Body]:
        """Download one URL; its slot is taken until the caller is done with the body, which bounds memory.

        Never raises; waiting for a free slot does not count against the deadline.
        """
        url = _parse_url(text)
        if url is None:
            yield Body("bad_url")
            return
        host = self._hosts.setdefault(url.host or "", asyncio.Semaphore(PER_HOST))
        async with host, self._slots:
            yield await self._within_deadline(url)

    async def _within_deadline(self, url: URL) -> Body:
        body = Body("timeout", detail=f"no answer within {self._timeout:g} s")
        with contextlib.suppress(TimeoutError):  # the last complete try tells the cause, if any
            async with asyncio.timeout(self._timeout):
                for attempt in range(self._retries + 1):
                    body = await self._follow(url)
                    if body.status == "dns_error" or not may_pass(body.status, body.http_status):
                        break
                    if attempt < self._retries:
                        await asyncio.sleep(FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.0))
        return body

    async def _follow(self, url: URL) -> Body:
        for _ in range(MAX_REDIRECTS + 1):
            try:
                found = await self._request(url)
            except aiohttp.ClientError as error:
                return _failure(error)
            except (ValueError, UnicodeError) as error:
                return Body("bad_url", detail=type(error).__name__)
            if isinstance(found, Body):
                return found
            if url.scheme == "https" and found.scheme == "http":
                return Body("bad_redirect", detail="from https to http")
            url = found
        return Body("bad_redirect", detail=f"more than {MAX_REDIRECTS} redirects")

    async def _request(self, url: URL) -> Body | URL:
        """One exchange: the body, or where the server sends us."""
        assert self._session is not None
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status in REDIRECTS:
                target = _join(url, response.headers.get("Location", ""))
                response.close()
                return target or Body(
                    "bad_redirect", http_status=response.status, detail="no usable Location"
                )
            if response.status != 200:
                response.close()
                status: Status = "not_found" if response.status in (404, 410) else "http_error"
                return Body(status, http_status=response.status, detail=f"HTTP {response.status}")
            data = await self._read(response)
            if data is None:
                response.close()  # at once: the rest of an endless body is not waited for
                return Body(
                    "too_large", http_status=200, detail=f"more than {self._max_bytes} bytes"
                )
            return Body("ok", data, http_status=200)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes | None:
        """The decoded body, or None as soon as it exceeds the cap."""
        data = bytearray()
        if (response.content_length or 0) > self._max_bytes:
            return None
        async for piece in response.content.iter_chunked(PIECE):
            data += piece
            if len(data) > self._max_bytes:
                return None
        return bytes(data)

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The one door: called by aiohttp with the very address it is about to connect to."""
        family, kind, protocol, _, address = info
        target = parse(str(address[0]))
        if target is None or not (is_public(target) or (self._loopback and is_loopback(target))):
            raise NotPublicError("the address is not public")
        return socket.socket(family, kind, protocol)


def _parse_url(text: str) -> URL | None:
    """An absolute http(s) URL without user info and fragment, or None."""
    if CONTROL.search(text):
        return None
    try:
        url = URL(text)
        if url.scheme not in ("http", "https") or not url.host or not url.port:
            return None
        return url.with_user(None).with_fragment(None)
    except (ValueError, TypeError):
        return None


def _join(base: URL, location: str) -> URL | None:
    """Where a Location header leads, or None if not to an http(s) URL."""
    if not location or CONTROL.search(location):
        return None
    try:
        return _parse_url(str(base.join(URL(location))))
    except (ValueError, TypeError):
        return None


def _failure(error: aiohttp.ClientError) -> Body:
    """The details name the kind of error only: messages may hold addresses."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Body("dns_error")
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, NotPublicError
    ):
        return Body("not_public")
    if isinstance(error, aiohttp.InvalidURL):
        return Body("bad_url", detail=type(error).__name__)
    return Body("connection_error", detail=type(error).__name__)
