"""What came of a request: a closed enum of statuses, and which of them may pass."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Literal, NamedTuple

DOWNGRADE = "from https to http"
WebStatus = Literal[
    "ok",  # the body is complete
    "not_found",  # HTTP 404 or 410
    "http_error",  # any other HTTP status but 200 and 203
    "timeout",  # the deadline passed
    "too_large",  # more than max_bytes, counted after decompression
    "bad_url",  # no http(s) URL, or not well-formed
    "not_public",  # leads to an address that is not public
    "bad_redirect",  # more than 4 redirects, from https to http, or to something that is no URL
    "dns_error",  # the name does not resolve
    "connection_error",  # refused, reset, cut short, TLS failure, not HTTP
    "robots",  # robots.txt refuses it, or the server fails to serve robots.txt
    "opted_out_header",  # a header refuses it (X-Robots-Tag, ...), or tdmrep.json, ai.txt, a usage line of robots.txt
    "rate_limited",  # the host asks to come back later than the deadline allows
    "failed",  # a defect of this program or of a library; the detail names it
]
HTTP_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})


class Reply(NamedTuple):
    """A download: `status` "ok" means that `data` is complete, not that it is an image."""

    status: WebStatus
    data: bytes = b""
    http_status: int = 0
    detail: str = ""
    robots: str = ""  # "allowed" | "disallowed" | "unreachable" | "" (not asked)
    opt_out: str = (
        ""  # what refuses, as "X-Robots-Tag: noai" or "robots.txt: Content-Signal: ai-train=no"
    )


def may_pass(status: str, http_status: int) -> bool:
    """Whether asking again later may help."""
    if status in ("http_error", "robots"):  # robots: with the status of a robots.txt that failed
        return http_status in HTTP_MAY_PASS
    return status in ("timeout", "dns_error", "connection_error", "rate_limited", "failed")


def defect(error: Exception) -> str:
    """The kind and place of an exception that nobody expected; never its message, which may hold an address."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place
