"""Manners towards one host: few requests at once, a pause between their starts, and peace while it asks for peace.

A URL takes turns: a slot at its host, then the host's pace, then one of the connections. It holds all of them until its
body was handled, which bounds memory, and gives them back before it waits for anything else, so that nobody waits for
each other.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import re
import time
from collections import OrderedDict
from datetime import UTC

CONNECTIONS = 256  # requests under way at once, over all hosts
LARGE_BODIES = 8  # bodies above SMALL in memory at once,
SMALL = 1 << 20  # in bytes
HOSTS = 10_000  # hosts remembered; of the idle ones those idle longest are forgotten
LONGEST_HOLD = 86_400.0  # seconds
SILENCE = 1.0  # seconds without the head of an answer make a try hopeless at a host that is otherwise quick,
SLOWER = 8.0  # or so many times what its slowest recent answer took,
HEARD = 20  # once so many answers have come
FADING = 0.99  # per answer: how the memory of a slow one fades
SECOND_CHANCES = 8  # one in so many requests at once may be of URLs that were given up before


class Host:
    """One host. Times are of time.monotonic()."""

    __slots__ = (
        "answers", "deaf", "gate", "held_since", "held_until", "next_probe", "next_start", "second", "slots",
        "slowest", "users",
    )  # fmt: skip

    def __init__(self, per_host: int) -> None:
        self.slots = asyncio.Semaphore(per_host)
        self.gate = (
            asyncio.Lock()
        )  # one at a time waits for the pace, so starts keep their distance
        self.users = 0
        self.next_start = self.held_until = 0.0
        self.held_since = 0.0  # of the first hold after the last answer; 0 = none
        self.answers, self.slowest = 0, 0.0
        self.second = asyncio.Semaphore(max(1, per_host // SECOND_CHANCES))
        self.deaf = 0  # second chances in a row that were not answered
        self.next_probe = 0.0

    def heard(self, seconds: float) -> None:
        """The head of an answer has come after so many seconds."""
        self.answers += 1
        self.slowest = max(seconds, self.slowest * FADING)

    def probe(self, pause: float) -> bool:
        """Whether a deaf host is to be tried again: once in `pause` seconds."""
        now = time.monotonic()
        if now < self.next_probe:
            return False
        self.next_probe = now + pause
        return True


class Hosts:
    """All hosts that matter now; `patience`: seconds a host may keep us waiting without one answer."""

    def __init__(self, per_host: int, patience: float) -> None:
        self.connections = asyncio.Semaphore(CONNECTIONS)
        self.large = asyncio.Semaphore(LARGE_BODIES)
        self.patience = patience
        self._per_host = per_host
        self._table: OrderedDict[str, Host] = OrderedDict()

    def take(self, name: str) -> Host:
        """The host with one more user."""
        host = self._table.get(name)
        if host is None:
            host = self._table[name] = Host(self._per_host)
            if len(self._table) > HOSTS:
                self._forget()
        else:
            self._table.move_to_end(name)
        host.users += 1
        return host

    def __len__(self) -> int:
        return len(self._table)

    def _forget(self) -> None:
        """A tenth of the table at once, so that a table full of busy hosts is not walked for each new one."""
        now = time.monotonic()
        idle = [
            name
            for name, host in self._table.items()
            if not host.users and max(host.held_until, host.next_start) <= now
        ]
        for name in idle[: HOSTS // 10]:
            del self._table[name]


class Turn:
    """What one URL holds: a slot at one host, a connection, the right to a large body."""

    __slots__ = ("_connected", "_host", "_hosts", "_large", "_slot")

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._host: Host | None = None
        self._slot = self._connected = self._large = False

    async def enter(self, name: str, delay: float) -> bool:
        """Wait for a turn at the host; `delay`: seconds until the next one may start.

        False: the host has asked for more patience than there is, and was not asked again.
        """
        host = self._host = self._hosts.take(name)
        await host.slots.acquire()
        self._slot = True
        now, connections = time.monotonic(), self._hosts.connections
        if not (host.gate.locked() or connections.locked()) and now >= max(
            host.next_start, host.held_until
        ):
            await connections.acquire()  # at once
            self._connected = True
            host.next_start = now + delay
            return True
        async with host.gate:
            while (now := time.monotonic()) < (until := max(host.next_start, host.held_until)):
                held_for = host.held_until - (host.held_since or now)
                if host.held_until > now and held_for > self._hosts.patience:
                    return False
                await asyncio.sleep(until - now)
            await self._hosts.connections.acquire()
            self._connected = True
            host.next_start = time.monotonic() + delay
        return True

    async def grow(self) -> None:
        """Wait until this body may become large."""
        if not self._large:
            await self._hosts.large.acquire()
            self._large = True

    @property
    def host(self) -> Host:
        """The host whose turn this is. Only after `enter` and before `leave`."""
        assert self._host is not None
        return self._host

    def patience(self) -> float:
        """Seconds to wait for the head of an answer."""
        if self._host is None or self._host.answers < HEARD:
            return math.inf
        return max(SILENCE, SLOWER * self._host.slowest)

    @property
    def alone(self) -> bool:
        """Whether no other URL is known to want this host."""
        return self._host is not None and self._host.users == 1

    def hold(self, seconds: float) -> None:
        """The host wants no request for so long."""
        if self._host is not None:
            now = time.monotonic()
            self._host.held_since = self._host.held_since or now
            until = now + min(seconds, LONGEST_HOLD)
            self._host.held_until = max(self._host.held_until, until)

    def answered(self) -> None:
        """The host has answered a request, so its patience with us begins anew."""
        if self._host is not None:
            self._host.held_since = 0.0

    def held(self) -> float:
        """Seconds for which the host still wants no request."""
        return self._host.held_until - time.monotonic() if self._host is not None else 0.0

    def leave(self) -> None:
        """Give everything back; may be called again."""
        host, self._host = self._host, None
        if host is None:
            return
        if self._large:
            self._hosts.large.release()
        if self._connected:
            self._hosts.connections.release()
        if self._slot:
            host.slots.release()
        self._slot = self._connected = self._large = False
        host.users -= 1


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for, given in seconds or as an HTTP date; 0 if neither or in the past."""
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time())
