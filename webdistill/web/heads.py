"""What comes before the body of an answer: as long as real servers make it, and read as every browser reads it.

aiohttp's parser refuses a repeated Content-Length even where all of them say the same (RFC 9110, 8.6 allows to take
it), an `identity` beside it, and bodies with more behind them than their head says; and it bounds lines but not the
whole. So all passes here first. What comes behind a body is not read, and its connection not used again.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

LONGEST_HEAD = 64 << 10  # bytes of status line and headers together
END = re.compile(rb"\n\r?\n")
EMPTY = re.compile(rb"HTTP/1\.[01] (?:204|304)")  # has no body, whatever it says of one
IDENTITY = re.compile(
    rb"^transfer-encoding:[ \t]*identity[ \t]*\r?\n", re.IGNORECASE | re.MULTILINE
)
INTERIM = re.compile(
    rb"HTTP/1\.[01] 1(?!01)[0-9]{2}"
)  # 100 Continue, 103 Early Hints: another head follows
LENGTHS = re.compile(  # of a head in lower case, which is quicker than without regard to it
    rb"\ncontent-length:[ \t]*([0-9]{1,19}(?:[ \t]*,[ \t]*[0-9]{1,19})*)[ \t]*\r?(?=\n)"
)


# Whether a request must have a connection of its own: some servers close theirs after an answer without saying so.
afresh: ContextVar[bool] = ContextVar("afresh", default=False)


class Connector(aiohttp.TCPConnector):
    """Connections whose answers pass `Heads`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._factory = lambda: Heads(self._loop)  # type: ignore[assignment]  # a partial in aiohttp

    async def _get(self, *which: Any) -> Any:
        """A connection that is kept, if there is one."""
        return None if afresh.get() else await super()._get(*which)


class Heads(ResponseHandler):
    """aiohttp's protocol behind a door for the head of each answer."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self._head: bytearray | None = None  # what has come of it; None: it is through
        self._left: int | None = (
            None  # bytes of head and body that are still to come; None: unknown
        )

    def set_response_params(self, **settings: Any) -> None:
        """A request was sent: the next bytes are a head."""
        self._head, self._left = bytearray(), None
        super().set_response_params(**settings)

    def data_received(self, data: bytes) -> None:
        """Hold the head back until it is whole; what is no HTTP goes on at once, for the parser to refuse."""
        if self._head is None or self._parser is None or not data:
            self._forward(data)
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
        (head, length), rest = _one_length(whole[:end]), whole[end:]
        if INTERIM.match(head):
            self._head = bytearray(rest)
            super().data_received(head)
        else:
            self._head = None
            self._left = None if length is None else len(head) + length
            self._forward(head + rest)

    def _forward(self, data: bytes) -> None:
        """Give the parser what belongs to the answer, and hang up on whoever sends more than line ends behind it."""
        left = self._left
        if left is None or len(data) <= left:
            self._left = None if left is None else left - len(data)
            super().data_received(data)
            return
        self._left = 0
        more = bool(data[left:].strip(b"\r\n"))
        if more:
            self.force_close()
        if left:
            super().data_received(data[:left])
        if more and self.transport is not None:
            self.transport.close()

    def _refuse(self) -> None:
        self._head = None
        if self.transport is not None:
            self.transport.close()
        reason = f"the headers are longer than {LONGEST_HEAD >> 10} KiB"
        self.set_exception(HttpProcessingError(message=reason))


def _one_length(head: bytes) -> tuple[bytes, int | None]:
    """The head with one Content-Length where several say the same, and how long the body is, if that is known.

    Where they differ the parser refuses them.
    """
    lowered = head.lower()
    if b"\ntransfer-encoding:" in lowered:
        return IDENTITY.sub(b"", head), None
    found = list(LENGTHS.finditer(lowered))
    lengths = {int(one) for several in found for one in several[1].split(b",")}
    length = lengths.pop() if len(lengths) == 1 else None
    if length is not None and (len(found) > 1 or b"," in found[0][1]):
        for again in reversed(found):
            once = b"\nContent-Length: %d\r" % length if again is found[0] else b""
            head = head[: again.start()] + once + head[again.end() :]
    return head, 0 if EMPTY.match(head) else length
