"""What became of one candidate: the closed enum of statuses, and the gate as the worker processes call it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

from webdistill.images.gate import GATE_STATUSES, GateStatus, Rejected, StoredFormat, open_image
from webdistill.web.reply import Reply, defect, may_pass

FetchStatus = Literal[
    "ok",  # in the pool
    "duplicate",  # same pixels as an earlier candidate, whose id the ledger names
    "opted_out",  # the list (then never requested), a header or a file of the host says that its owner does not want it
    "robots",  # robots.txt forbids it, or could not be read for a fault of the server
    "rate_limited",  # the host asks for more patience than fetch.timeout
    "not_found",  # no such file; HTTP 404 or 410
    "http_error",  # any other HTTP status but 200 and 203
    "timeout",  # fetch.timeout passed
    "too_large",  # more than fetch.max_bytes
    "changed",  # a picture, but not the file whose sha256 or md5 the list gives (with fetch.changed: drop)
    "bad_url",  # no http(s) URL, or not well-formed
    "not_public",  # leads to an address that is not public
    "bad_redirect",  # more than 4 redirects, from https to http, or to something that is no URL
    "dns_error",  # the name does not resolve
    "connection_error",  # refused, reset, cut short, TLS failure, not HTTP
    "outside_folder",  # a local path that leaves the list's folder
    "decoder_crash",  # the decoder crashed, hung or ran out of memory on it
    "failed",  # a defect of this program or of a library, whose name is in the detail; a later run tries again
]
Status = FetchStatus | GateStatus
STATUSES: tuple[Status, ...] = (*get_args(FetchStatus), *GATE_STATUSES)


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes that were read here; else as webdistill.web.reply.Reply."""

    status: Status
    data: bytes = b""
    detail: str = ""
    http_status: ClassVar[int] = 0
    robots: ClassVar[str] = ""
    opt_out: ClassVar[str] = ""


class Verdict(NamedTuple):
    """What the gate said about one body; `image` is what the pool stores, empty unless `status` is "ok"."""

    status: Status
    id: str = ""
    size: int = 0
    sha256: str = ""
    detail: str = ""
    image: bytes = b""
    width: int = 0
    height: int = 0


class Outcome(NamedTuple):
    """The end of one candidate."""

    status: Status
    id: str = ""
    http_status: int = 0
    size: int = 0
    sha256: str = ""
    detail: str = ""
    robots: str = ""
    opt_out: str = ""
    width: int = 0
    height: int = 0
    md5: str = ""  # where the list has no other digest
    image: bytes = b""

    @property
    def final(self) -> bool:
        """Whether a later run would find the same; what is not public may be allowed by then, and costs no request."""
        return not may_pass(self.status, self.http_status) and self.status != "not_public"


@dataclass(frozen=True)
class Gate:
    """How worker processes judge a body: the gate and its settings, in one picklable function."""

    max_pixels: int
    store_size: int
    store_as: StoredFormat

    def __call__(self, data: bytes) -> Verdict:
        """Pass one body through; runs in a worker process."""
        try:
            stored = open_image(data, self.max_pixels, self.store_size, self.store_as)
        except MemoryError:
            return crashed(data)
        except Rejected as no:
            return Verdict(no.status, "", len(data), _sha256(data), no.detail)
        except Exception as error:  # one file of a million must not end the crawl
            return Verdict("failed", "", len(data), _sha256(data), defect(error))
        return Verdict(
            "ok",
            stored.id,
            len(data),
            _sha256(data),
            image=stored.image,
            width=stored.width,
            height=stored.height,
        )


def crashed(data: bytes) -> Verdict:
    """Stands in when a body took its worker process, or its memory, down."""
    return Verdict("decoder_crash", "", len(data), _sha256(data))


def judged(reply: Body | Reply, verdict: Verdict) -> Outcome:
    """The outcome of a complete body."""
    return Outcome(
        verdict.status,
        verdict.id,
        reply.http_status,
        verdict.size,
        verdict.sha256,
        verdict.detail or reply.detail,
        reply.robots,
        "",
        verdict.width,
        verdict.height,
        image=verdict.image,
    )


def without_body(reply: Body | Reply) -> Outcome:
    """The outcome of a request or a reading that failed."""
    status: Status = "opted_out" if reply.status == "opted_out_header" else reply.status
    return Outcome(
        status,
        http_status=reply.http_status,
        detail=reply.detail,
        robots=reply.robots,
        opt_out=reply.opt_out,
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
