"""What the head of an answer decides, before the body is read, and the body."""

from __future__ import annotations

import aiohttp
from yarl import URL

from webdistill.web.clock import Clock
from webdistill.web.codings import Packed
from webdistill.web.hosts import SMALL, Turn, retry_after
from webdistill.web.optout import opt_out
from webdistill.web.reply import Reply, WebStatus
from webdistill.web.target import join_url, redirect_fault

WHOLE = frozenset({200, 203})  # the body is the file; 203: a proxy on the way has changed it
REDIRECTS = frozenset({301, 302, 303, 307, 308})


def decided(
    response: aiohttp.ClientResponse, url: URL, turn: Turn, *, heed: bool, pause: float
) -> Reply | URL | None:
    """Where the server sends us, or why there is no body to read; None: there is one.

    `heed`: opt-outs count; `pause`: seconds of peace for a host that asks for some and says no number.
    """
    status = response.status
    asked = response.headers.get("Retry-After", "")
    if status == 429 or (status == 503 and asked):
        turn.hold(max(retry_after(asked), pause))
        return Reply("rate_limited", http_status=status, detail=f"HTTP {status}")
    turn.answered()
    refusal = opt_out(response.headers) if heed else ""
    if refusal and (status in WHOLE or status in REDIRECTS):  # error pages often say noindex
        return Reply("opted_out_header", http_status=status, opt_out=refusal)
    if status in REDIRECTS:
        location = response.headers.get("Location", "")
        return join_url(url, location) or Reply(
            "bad_redirect", http_status=status, detail=redirect_fault(url, location)
        )
    if status not in WHOLE:
        cause: WebStatus = "not_found" if status in (404, 410) else "http_error"
        return Reply(cause, http_status=status, detail=f"HTTP {status}")
    return None


async def read_body(
    response: aiohttp.ClientResponse, turn: Turn, clock: Clock, cap: int, *, cut: bool
) -> bytes | None:
    """The decoded body, with `cut` its first `cap` bytes; else None as soon as it exceeds them.

    The rest of an endless one stays where it is. Raises aiohttp.ClientPayloadError where it cannot be decoded.
    """
    if not cut and (response.content_length or 0) > cap:
        return None
    stream, packed = response.content, Packed(response.headers, cap)
    data = await stream.readany()
    if not packed and len(data) <= min(SMALL, cap) and stream.at_eof():  # it came in one piece
        return data
    body = bytearray()
    while True:
        for piece in packed.unpack(data):
            body += piece
            if len(body) > cap:
                return bytes(body[:cap]) if cut else None
            if len(body) > SMALL:
                with clock.stopped():
                    await turn.grow()
        if packed.beyond:
            return None
        if stream.at_eof():
            packed.finish()
            return bytes(body)
        data = await stream.readany()
