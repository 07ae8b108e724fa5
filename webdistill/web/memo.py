"""Answers that are asked for once: kept for a while, shared by all who wait, bounded in memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

V = TypeVar("V")


class Memo(Generic[V]):
    """`find` is called once per key; while it runs, and for the answer's lifetime, everybody gets the same answer.

    `price`: (seconds to keep the answer, its weight); the answers least recently used are forgotten once all of them
    weigh more than `room`. `find` must not raise. Who stops waiting does not stop the others' answer.
    """

    def __init__(
        self,
        find: Callable[[str], Awaitable[V]],
        price: Callable[[V], tuple[float, int]],
        room: int,
    ) -> None:
        self._find = find
        self._price = price
        self._free = room
        self._known: OrderedDict[str, tuple[V, float, int]] = OrderedDict()
        self._running: dict[str, asyncio.Task[V]] = {}

    def known(self, key: str) -> V | None:
        """The answer, or None if it has to be found."""
        known = self._known.get(key)
        if known is None or monotonic() >= known[1]:
            return None
        self._known.move_to_end(key)
        return known[0]

    async def get(self, key: str) -> V:
        """The answer, found now if it is not known."""
        known = self.known(key)
        if known is not None:
            return known
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._learn(key))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop what is still being looked for."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _learn(self, key: str) -> V:
        try:
            value = await self._find(key)
        finally:
            del self._running[key]
        self._forget(key)
        seconds, weight = self._price(value)
        self._known[key] = value, monotonic() + seconds, weight
        self._free -= weight
        while self._free < 0:
            self._forget(next(iter(self._known)))
        return value

    def _forget(self, key: str) -> None:
        _, _, weight = self._known.pop(key, (None, 0.0, 0))
        self._free += weight
