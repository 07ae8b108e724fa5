"""What became of one candidate: the closed enum of statuses, and the gate as the worker processes call it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

from webdistill.images.gate import GATE_STATUSES, GateStatus, Rejected, open_image

FetchStatus = Literal[
    "ok",  # in the pool
    "duplicate",  # same pixels as an earlier candidate, whose id the ledger names
    "opted_out",  # the list says that its owner does not want it used: never requested, never in the pool
    "not_found",  # no such file; HTTP 404 or 410
    "http_error",  # any other HTTP status but 200
    "timeout",  # fetch.timeout passed
    "too_large",  # more than fetch.max_bytes
    "bad_url",  # no http(s) URL, or not well-formed
    "not_public",  # leads to an address that is not public
    "bad_redirect",  # more than 4 redirects, from https to http, or to something that is no URL
    "dns_error",  # the name does not resolve
    "connection_error",  # refused, reset, cut short, TLS failure, not HTTP
    "outside_folder",  # a local path that leaves the list's folder
    "decoder_crash",  # the decoder crashed, hung or ran out of memory on it
]
Status = FetchStatus | GateStatus
STATUSES: tuple[Status, ...] = (*get_args(FetchStatus), *GATE_STATUSES)
HTTP_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Body:
    """A download: `status` "ok" means that `data` is complete, not that it is an image."""

    status: Status
    data: bytes = b""
    http_status: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Outcome:
    """The end of one candidate; `image` is what the pool stores, empty unless `status` is "ok"."""

    status: Status
    id: str = ""
    http_status: int = 0
    size: int = 0
    sha256: str = ""
    detail: str = ""
    image: bytes = b""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Job:
    """One complete body on its way through the gate."""

    body: Body
    max_pixels: int
    store_size: int


def may_pass(status: str, http_status: int) -> bool:
    """Whether asking again later may help."""
    passing = ("timeout", "dns_error", "connection_error")
    return status in passing or (status == "http_error" and http_status in HTTP_MAY_PASS)


def judge(job: Job) -> Outcome:
    """Pass one body through the gate; runs in a worker process."""
    body = job.body
    digest = hashlib.sha256(body.data).hexdigest()
    size, http_status = len(body.data), body.http_status
    try:
        stored = open_image(body.data, job.max_pixels, job.store_size)
    except MemoryError:
        return crashed(job)
    except Rejected as rejected:
        return Outcome(rejected.status, "", http_status, size, digest, rejected.detail)
    picture = (stored.image, stored.width, stored.height)
    return Outcome("ok", stored.id, http_status, size, digest, body.detail, *picture)


def crashed(job: Job) -> Outcome:
    """Stands in when a body took its worker process, or its memory, down."""
    body = job.body
    digest = hashlib.sha256(body.data).hexdigest()
    return Outcome(
        "decoder_crash", http_status=body.http_status, size=len(body.data), sha256=digest
    )


def without_body(body: Body) -> Outcome:
    """The outcome of a download that failed."""
    return Outcome(body.status, http_status=body.http_status, detail=body.detail)
