"""A process pool for code that may crash or hang on one item: the loss is that item, not the run.

A C decoder that hangs is stopped by the kernel (SIGPROF after a budget of CPU seconds), so that a hang looks like a
crash; a crash breaks the executor; what was in flight is then repeated one item at a time in a process of its own.
Results do not depend on the number of processes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_SECONDS = 20.0  # for one item; a picture at the default pixel cap takes about one


class Workers(Generic[Item, Result]):
    """`count` processes that apply `function` (importable by name) to items; a context manager.

    `crashed(item)` stands in for the result of an item that took its process down; without it that is an error,
    and no item is stopped for the time it takes. `memory`: bytes that a process may allocate (Linux; 0 = no limit);
    `function` gets a MemoryError for what is beyond, or its process crashes.
    """

    def __init__(
        self,
        count: int,
        function: Callable[[Item], Result],
        crashed: Callable[[Item], Result] | None = None,
        memory: int = 0,
    ) -> None:
        self._count = count
        self._function = function
        self._crashed = crashed
        self._memory = memory
        self._seconds = CPU_SECONDS if crashed else 0.0  # trusted input may take its time
        self._executor: ProcessPoolExecutor | None = None
        self._alone = asyncio.Lock()

    def __enter__(self) -> Workers[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def start(self) -> None:
        """Start the processes now, so that they are ready when the first items come."""
        for _ in range(self._count):
            self._running().submit(_apply, self._function, [], 0.0)

    async def apply(self, items: Sequence[Item]) -> list[Result]:
        """Results in the order of `items`, which travel to one process together."""
        executor = self._running()
        try:
            return await asyncio.wrap_future(
                executor.submit(_apply, self._function, items, self._seconds)
            )
        except BrokenProcessPool:
            if self._crashed is None:
                raise
            self._forget(executor)
        async with self._alone:  # one at a time: two suspects at once would tell nothing apart
            return await self._one_by_one(items, self._crashed)

    def map(self, batches: Iterable[Sequence[Item]]) -> Iterator[list[Result]]:
        """Without an event loop, for trusted input: results of each batch in order, two batches a process under way.

        A crash raises BrokenProcessPool.
        """
        waiting: list[Future[list[Result]]] = []
        for batch in batches:
            waiting.append(self._running().submit(_apply, self._function, batch, self._seconds))
            if len(waiting) >= 2 * self._count:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()

    async def _one_by_one(
        self, items: Sequence[Item], crashed: Callable[[Item], Result]
    ) -> list[Result]:
        results: list[Result] = []
        executor = _executor(1, self._memory)
        for item in items:
            try:
                results += await asyncio.wrap_future(
                    executor.submit(_apply, self._function, [item], self._seconds)
                )
            except BrokenProcessPool:
                executor.shutdown()
                executor = _executor(1, self._memory)
                results.append(crashed(item))
        executor.shutdown()
        return results

    def _running(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = _executor(self._count, self._memory)
        return self._executor

    def _forget(self, executor: ProcessPoolExecutor) -> None:
        if self._executor is executor:
            self._executor = None
        executor.shutdown(wait=False)


def _executor(count: int, memory: int) -> ProcessPoolExecutor:
    # Not fork: the caller may hold torch, Arrow or event-loop threads, which do not survive one.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["webdistill.images.gate"])
    return ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(memory,))


def _begin(memory: int) -> None:
    """Leave when the parent is gone (even by kill -9), and let the parent alone answer Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_after, args=(parent.sentinel,), daemon=True).start()
    if memory and sys.platform == "linux":
        _cap_memory(memory)


def _cap_memory(more: int) -> None:
    """Let the address space grow by so many bytes from here."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _leave_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _apply(
    function: Callable[[Item], Result], items: Sequence[Item], seconds: float
) -> list[Result]:
    results = []
    try:
        for item in items:
            signal.setitimer(signal.ITIMER_PROF, seconds)  # 0: no limit
            results.append(function(item))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return results
