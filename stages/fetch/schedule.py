"""Which URL next: hosts take turns, none has more than a few under way, so that no slow host holds up the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator

import numpy as np


def host_of(url: str) -> str:
    """The host that a URL names, in lower case and without port; "" where there is none."""
    parts = url.split("/", 3)
    if len(parts) < 3 or parts[1] or not parts[0].endswith(":"):
        return ""
    place = parts[2].split("?", 1)[0].split("#", 1)[0].rpartition("@")[2].lower()
    return place.partition("]")[0][1:] if place.startswith("[") else place.partition(":")[0]


class Turns:
    """Hands out positions 0 .. N - 1 of a list of URLs, at most `most` of one host at a time.

    Each host's own come in rising order. 16 bytes a URL, so that a long list costs little.
    """

    def __init__(self, urls: Iterable[str], most: int) -> None:
        numbers: dict[str, int] = {}
        hosts = [numbers.setdefault(host_of(url), len(numbers)) for url in urls]
        self._host = np.array(hosts, np.int32)
        self._order = np.argsort(self._host, kind="stable").astype(np.int32)
        ends = np.cumsum(np.bincount(self._host, minlength=len(numbers)))
        self._end = ends.tolist()
        self._next = [0, *self._end[:-1]]
        self._busy = [0] * len(numbers)
        self._most = most
        self._ready = deque(range(len(numbers)))
        self._listed = bytearray(b"\1" * len(numbers))  # whether a host is in _ready
        self._under_way = 0
        self._ended = asyncio.Event()

    def take(self) -> int | None:
        """The next position; None: all hosts that have some left are busy, or nothing is left."""
        if not self._ready:
            return None
        host = self._ready.popleft()
        self._listed[host] = 0
        at = int(self._order[self._next[host]])
        self._next[host] += 1
        self._busy[host] += 1
        self._list(host)
        return at

    def done(self, at: int) -> None:
        """A position that was taken is through."""
        host = int(self._host[at])
        self._busy[host] -= 1
        self._list(host)

    @contextlib.contextmanager
    def aside(self, at: int) -> Iterator[None]:
        """A position that was taken only waits; others have its place until it goes on, beside them if need be."""
        self._end_one(at)
        try:
            yield
        finally:
            self._busy[int(self._host[at])] += 1
            self._under_way += 1

    async def run(self, work: Callable[[int], Awaitable[None]], window: int) -> None:
        """Call `work` with every position in its turn, at most `window` at a time, and those that come from aside."""

        async def one(at: int) -> None:
            await work(at)
            self._end_one(at)

        async with asyncio.TaskGroup() as group:
            while True:
                while self._under_way < window and (at := self.take()) is not None:
                    self._under_way += 1
                    group.create_task(one(at))
                if not self._under_way:
                    return  # nothing is left; who is aside ends without us
                self._ended.clear()
                await self._ended.wait()

    def _end_one(self, at: int) -> None:
        self.done(at)
        self._under_way -= 1
        self._ended.set()

    def _list(self, host: int) -> None:
        """Put a host among those that may be asked, if it may."""
        if (
            self._busy[host] < self._most
            and self._next[host] < self._end[host]
            and not self._listed[host]
        ):
            self._ready.append(host)
            self._listed[host] = 1
