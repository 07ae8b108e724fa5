"""The aiohttp session behind the client: the one door that every connection passes, and what its errors mean."""

from __future__ import annotations

import logging
import re
import resource
import ssl

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.http_exceptions import HttpProcessingError

from webdistill.web.heads import LONGEST_HEAD, Connector
from webdistill.web.intranet import Door, NotPublicError
from webdistill.web.reply import Reply

IDLE = 5.0  # seconds a connection is kept for the next request to its host
STATUS_LINE = "Bad status line:\n"  # a heading of aiohttp, with the rule below
FILES = 8_192  # files that may be open at once


class DroppedError(aiohttp.ClientError):
    """The server hung up; the cause says how."""


def open_session(agent: str, names: AbstractResolver, door: Door) -> aiohttp.ClientSession:
    """A session without proxies, cookies, deadlines and limits of its own; `door` makes all sockets."""
    _allow_many_files()
    logging.getLogger("aiohttp.internal").setLevel(logging.ERROR)  # it quotes each odd cookie
    trust = ssl.create_default_context()  # honours SSL_CERT_FILE
    trust.set_alpn_protocols(["http/1.1"])
    connector = Connector(
        limit=0,
        resolver=names,
        use_dns_cache=False,  # `names` remembers failures, too
        socket_factory=door,
        keepalive_timeout=IDLE,
        ssl=trust,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": agent, "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # a proxy would resolve and connect behind our back
        middlewares=(_once,),
        auto_decompress=False,  # codings.py does, layer by layer
        max_line_size=LONGEST_HEAD,
        max_field_size=LONGEST_HEAD,
        max_headers=LONGEST_HEAD,
    )


def failure(error: Exception) -> Reply:
    """What the error means for a URL. The detail names its kind and rule, never data: that may hold addresses."""
    cause = error.__cause__ if isinstance(error, DroppedError) else error
    kind = type(cause).__name__
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Reply("dns_error")
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, NotPublicError):
            return Reply("not_public", detail=str(error.os_error))
        if not isinstance(error, aiohttp.ClientSSLError):  # whose kind says it all
            kind = f"{kind}: {type(error.os_error).__name__}"
        return Reply("connection_error", detail=kind)
    if isinstance(error, aiohttp.InvalidURL | UnicodeError):
        return Reply("bad_url", detail=kind)
    while cause is not None and not isinstance(cause, HttpProcessingError):
        cause = cause.__cause__
    rule = re.split(r"[:\n.(]", cause.message.removeprefix(STATUS_LINE))[0] if cause else ""
    return Reply("connection_error", detail=f"{kind}: {rule.strip()}" if rule else kind)


def _allow_many_files() -> None:
    """Each connection is an open file, and idle ones add to those in use; the usual limit of 1,024 is too near."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from asking again at once when the server hangs up: that would ignore the host's pace."""
    try:
        return await send(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise DroppedError from error
