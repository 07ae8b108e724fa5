"""What comes before the body of an answer: as long as real servers make it, and read as every browser reads it.

aiohttp's parser refuses a repeated Content-Length even where all of them say the same (RFC 9110, 8.6 allows to take
it), and bounds lines but not the whole. So the head passes here first.
"""

from __future__ import annotations

import re
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

LONGEST_HEAD = 64 << 10  # bytes of status line and headers together
END = re.compile(rb"\n\r?\n")
INTERIM = re.compile(
    rb"HTTP/1\.[01] 1(?!01)[0-9]{2}"
)  # 100 Continue, 103 Early Hints: another head follows
LENGTHS = re.compile(
    rb"^content-length:[ \t]*([0-9]{1,19}(?:[ \t]*,[ \t]*[0-9]{1,19})*)[ \t]*\r?\n",
    re.IGNORECASE | re.MULTILINE,
)


class Connector(aiohttp.TCPConnector):
    """Connections whose answers pass `Heads`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._factory = lambda: Heads(self._loop)  # type: ignore[assignment]  # a partial in aiohttp


class Heads(ResponseHandler):
    """aiohttp's protocol behind a door for the head of each answer."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self._head: bytearray | None = None  # what has come of it; None: it is through

    def set_response_params(self, **settings: Any) -> None:
        """A request was sent: the next bytes are a head."""
        self._head = bytearray()
        super().set_response_params(**settings)

    def data_received(self, data: bytes) -> None:
        """Hold the head back until it is whole; what is no HTTP goes on at once, for the parser to refuse."""
        if self._head is None or self._parser is None or not data:
            super().data_received(data)
            return
        seen = max(0, len(self._head) - 2)
        self._head += data
        while self._head is not None:
            whole = bytes(self._head)
            end = END.search(whole, seen)
            if not whole.startswith(b"HTTP/"[: len(whole)]):
                self._head = None
                super().data_received(whole)
            elif (end.end() if end else len(whole)) > LONGEST_HEAD:
                self._refuse()
            elif end is None:
                return
            else:
                self._pass(whole, end.end())
            seen = 0

    def _pass(self, whole: bytes, end: int) -> None:
        head, rest = _one_length(whole[:end]), whole[end:]
        if INTERIM.match(head):
            self._head = bytearray(rest)
            super().data_received(head)
        else:
            self._head = None
            super().data_received(head + rest)

    def _refuse(self) -> None:
        self._head = None
        if self.transport is not None:
            self.transport.close()
        reason = f"the headers are longer than {LONGEST_HEAD >> 10} KiB"
        self.set_exception(HttpProcessingError(message=reason))


def _one_length(head: bytes) -> bytes:
    """The head with one Content-Length where several say the same; where they differ the parser refuses them."""
    lengths = {int(one) for found in LENGTHS.findall(head) for one in found.split(b",")}
    if len(lengths) != 1:
        return head
    first = LENGTHS.search(head)
    assert first is not None
    rest = LENGTHS.sub(b"", head[first.end() :])
    return head[: first.start()] + b"Content-Length: %d\r\n" % lengths.pop() + rest
