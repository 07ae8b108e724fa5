"""Complete bodies on their way through the worker processes: few at a time in memory, many at a time to a process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from stages.fetch.outcomes import Body, Outcome, Verdict, judged
from webdistill.images.workers import Workers
from webdistill.web.reply import Reply

BATCH = 32  # bodies that travel to a process together,
BATCH_BYTES = 8 << 20  # or fewer as soon as they reach this size
LINGER = 0.005  # seconds for which a batch that is not full waits for more
WAITING = 128  # bodies that may wait for a free process, and are lost when we are killed,
WAITING_BYTES = 32 << 20  # or fewer as soon as they reach this size

Finished = list[tuple[int, Outcome]]


class Judging:
    """Takes bodies from many tasks, hands them to the workers, and calls `record` with what came out.

    `run` does the work and returns after `close`, when everything has been recorded.
    """

    def __init__(
        self,
        workers: Workers[bytes, Verdict],
        processes: int,
        record: Callable[[Finished], None],
    ) -> None:
        self._workers = workers
        self._record = record
        self._waiting: deque[tuple[int, Body | Reply]] = deque()
        self._bytes = 0
        self._closed = False
        self._arrived, self._room = asyncio.Event(), asyncio.Event()
        self._free = asyncio.Semaphore(2 * processes)  # one being judged, the next at hand

    async def put(self, at: int, reply: Body | Reply) -> None:
        """Hand one body over; returns when there is room for another."""
        self._waiting.append((at, reply))
        self._bytes += len(reply.data)
        self._arrived.set()
        while len(self._waiting) > WAITING or self._bytes > WAITING_BYTES:
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._arrived.set()

    async def run(self) -> None:
        """Judge all that comes."""
        async with asyncio.TaskGroup() as group:
            while await self._some():
                await self._free.acquire()
                group.create_task(self._judge(self._take()))

    async def _some(self) -> bool:
        while not self._waiting:
            if self._closed:
                return False
            self._arrived.clear()
            await self._arrived.wait()
        if len(self._waiting) < BATCH and not self._closed:
            await asyncio.sleep(LINGER)
        return True

    def _take(self) -> list[tuple[int, Body | Reply]]:
        batch: list[tuple[int, Body | Reply]] = []
        size = 0
        while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1][1].data)
        self._bytes -= size
        self._room.set()
        return batch

    async def _judge(self, batch: Sequence[tuple[int, Body | Reply]]) -> None:
        try:
            verdicts = await self._workers.apply([reply.data for _, reply in batch])
        finally:
            self._free.release()
        self._record(
            [(at, judged(reply, it)) for (at, reply), it in zip(batch, verdicts, strict=True)]
        )
