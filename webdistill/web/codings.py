"""Content-Encoding: what the body of an answer is packed in, one coding over another (RFC 9110, 8.4), undone in pieces.

We ask for none of it, but servers pack what lies packed on their disks already, and proxies pack it again. A name that
is no coding (`none`, `utf-8`, `aws-chunked`) means nothing. Every layer is held to the cap of the body, so that neither
a bomb nor a bomb within a bomb costs more than a body of that size.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import NoReturn

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError
from multidict import CIMultiDictProxy

GZIP = frozenset({"gzip", "x-gzip"})
UNREAD = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})  # need other libraries
KNOWN = GZIP | UNREAD | {"deflate"}
FIELDS = ("Content-Encoding", "Transfer-Encoding")  # in the order in which they are applied
MOST = 3  # codings of one body
MEMBERS = 1000  # of one gzip stream
PIECE = 64 << 10  # bytes that are unpacked at a time
GZIP_MARK = 0x1F  # first byte of a member
DEFLATE = 8  # in the first byte of a stream with a head
SPARE = 1 << 12  # bytes, and a hundredth: what packing may add to what cannot be packed


class Packed:
    """The layers of a body, the outermost first. Raises aiohttp.ClientPayloadError for those that are not read."""

    def __init__(self, headers: CIMultiDictProxy[str], cap: int) -> None:
        applied = [it for field in FIELDS for it in headers.getall(field, ())]
        named = ",".join(applied).lower().split(",") if applied else ()
        codings = [name for name in map(str.strip, named) if name in KNOWN]
        for name in codings:
            if name in UNREAD:
                _refuse(f"content-encoding {name} is not read here")
        if len(codings) > MOST:
            _refuse(f"more than {MOST} layers of content-encoding")
        self._layers = [_Layer(name, cap + cap // 100 + SPARE) for name in reversed(codings)]

    def __bool__(self) -> bool:
        return bool(self._layers)

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """What further bytes of the body hold, in pieces."""
        return _through(self._layers, data)

    @property
    def beyond(self) -> bool:
        """Whether a layer was larger than a body may be; then it is not unpacked to its end."""
        return _beyond(self._layers)

    def finish(self) -> None:
        """Nothing more will come."""
        for layer in self._layers:
            layer.finish()


class _Layer:
    """One coding; `size`: packed bytes so far, at most `cap`."""

    def __init__(self, name: str, cap: int) -> None:
        self.name, self.cap, self.size = name, cap, 0
        self._members = 0
        self._stream: zlib._Decompress | None = None  # of the member at hand

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.size += len(data)
        while data and self.size <= self.cap:
            if self._stream is None and not self._begin(data):
                return
            assert self._stream is not None
            try:
                piece = self._stream.decompress(data, PIECE)
                while piece:
                    yield piece
                    piece = self._stream.decompress(self._stream.unconsumed_tail, PIECE)
            except zlib.error:
                _refuse(f"Can not decode content-encoding: {self.name}")
            data = self._stream.unused_data
            if self._stream.eof:
                self._stream = None

    def finish(self) -> None:
        """A gzip that only lacks its end is let through: what is in it says whether it is whole."""
        if self.name == "deflate" and self._stream is not None:
            _refuse("Can not decode content-encoding: deflate")

    def _begin(self, data: bytes) -> bool:
        """Whether a member begins here: gzips may be joined, and anything else behind an end means nothing.

        Many servers send `deflate` without the head that the word stands for.
        """
        if self._members and not (self.name in GZIP and data[0] == GZIP_MARK):
            return False
        self._members += 1
        if self._members > MEMBERS:
            _refuse(f"more than {MEMBERS} members in content-encoding: {self.name}")
        bare = self.name == "deflate" and data[0] & 0xF != DEFLATE
        bits = 16 + zlib.MAX_WBITS if self.name in GZIP else zlib.MAX_WBITS
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS if bare else bits)
        return True


def _through(layers: Sequence[_Layer], data: bytes) -> Iterator[bytes]:
    if not layers:
        yield data
        return
    for piece in layers[0].feed(data):
        yield from _through(layers[1:], piece)
        if _beyond(layers[1:]):
            return


def _beyond(layers: Sequence[_Layer]) -> bool:
    return any(layer.size > layer.cap for layer in layers)


def _refuse(message: str) -> NoReturn:
    raise aiohttp.ClientPayloadError(message) from ContentEncodingError(message)
