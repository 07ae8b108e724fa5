"""The aiohttp session behind the client: the one door that every connection passes, and what its errors mean."""

from __future__ import annotations

import resource
import socket
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver

from webdistill.web.addresses import is_loopback, is_public, parse
from webdistill.web.reply import Reply

IDLE = 5.0  # seconds a connection is kept for the next request to its host
FILES = 8_192  # files that may be open at once


class NotPublicError(OSError):
    """The connection would go to an address that is not public."""


class DroppedError(aiohttp.ClientError):
    """The server hung up; the cause says how."""


def open_session(agent: str, names: AbstractResolver, loopback: bool) -> aiohttp.ClientSession:
    """A session without proxies, cookies, deadlines and limits of its own; `loopback`: allowed, for tests."""
    _allow_many_files()
    trust = ssl.create_default_context()  # honours SSL_CERT_FILE
    trust.set_alpn_protocols(["http/1.1"])
    connector = aiohttp.TCPConnector(
        limit=0,
        resolver=names,
        use_dns_cache=False,  # `names` remembers failures, too
        socket_factory=_door(loopback),
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
    )


def failure(error: Exception) -> Reply:
    """What the error means for a URL. The detail names its kind only: messages may hold addresses."""
    kind = type(error.__cause__ if isinstance(error, DroppedError) else error).__name__
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Reply("dns_error")
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, NotPublicError
    ):
        return Reply("not_public")
    if isinstance(error, aiohttp.InvalidURL) or not isinstance(
        error, aiohttp.ClientError | OSError
    ):
        return Reply("bad_url", detail=kind)
    return Reply("connection_error", detail=kind)


def _allow_many_files() -> None:
    """Each connection is an open file, and idle ones add to those in use; the usual limit of 1,024 is too near."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _door(loopback: bool) -> Callable[[tuple[Any, ...]], socket.socket]:
    """Makes sockets; called with the very address that is about to be connected to, of every connection."""

    def open_socket(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        target = parse(str(address[0]))
        if target is None or not (is_public(target) or (loopback and is_loopback(target))):
            raise NotPublicError("the address is not public")
        return socket.socket(family, kind, protocol)

    return open_socket


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
