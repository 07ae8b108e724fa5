"""Worker processes: a crash or a hang costs one item."""

from __future__ import annotations

import asyncio
import multiprocessing
import operator
import signal
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest

from webdistill.images.workers import Workers


def test_results_keep_their_order() -> None:
    with Workers(2, operator.neg) as workers:
        batches = [[1, 2, 3], [4], [], *([n] for n in range(20))]
        assert list(workers.map(batches)) == [[-n for n in batch] for batch in batches]


def test_processes_can_be_started_ahead_and_serve_the_first_items() -> None:
    with Workers(2, eval) as workers:
        workers.start()
        assert len(multiprocessing.active_children()) == 2
        started = {child.pid for child in multiprocessing.active_children()}
        found = workers.map([["__import__('os').getpid()"]] * 20)
        assert {pid for batch in found for pid in batch} <= started


def test_a_crash_costs_one_item() -> None:
    calm, fatal = signal.SIGURG, signal.SIGKILL  # SIGURG is ignored by default

    async def main() -> list[list[object]]:
        with Workers(2, signal.raise_signal, lambda item: f"lost {item}") as workers:
            batches = [[calm, fatal, calm], [calm] * 5, [fatal, fatal], [calm]]
            first = await asyncio.gather(*map(workers.apply, batches))
            return [*first, await workers.apply([calm])]

    lost = f"lost {fatal}"
    assert asyncio.run(main()) == [[None, lost, None], [None] * 5, [lost, lost], [None], [None]]


def busy(seconds: float) -> str:
    """An expression that takes so many seconds of CPU; its value is the process."""
    clock = "__import__('time').process_time"
    loop = f"for begun in [{clock}()] for now in iter({clock}, None) if now - begun > {seconds}"
    return f"next(__import__('os').getpid() {loop})"


def test_a_hang_is_cut_short_like_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webdistill.images.workers.CPU_SECONDS", 0.3)

    async def main() -> list[object]:
        with Workers(1, eval, lambda item: "lost") as workers:
            return await workers.apply(["1", busy(6), "2"])

    assert asyncio.run(main()) == [1, "lost", 2]


def test_the_time_allowed_is_for_one_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webdistill.images.workers.CPU_SECONDS", 0.6)

    async def main() -> list[object]:
        with Workers(1, eval, lambda item: "lost") as workers:
            return [*await workers.apply([busy(0)]), *await workers.apply([busy(0.4)] * 2)]

    assert len(set(asyncio.run(main()))) == 1, "the process was stopped and another took its place"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set on Linux only")
def test_memory_beyond_the_limit_is_refused_in_the_process() -> None:
    calm, greedy = "bytearray(32 << 20)", "bytearray(600 << 20)"
    with Workers(1, exec, memory=256 << 20) as workers:
        assert list(workers.map([[calm], [calm, calm]])) == [[None], [None, None]]
        with pytest.raises(MemoryError):
            list(workers.map([[greedy]]))
    with Workers(1, exec) as workers:
        assert list(workers.map([[greedy]])) == [[None]]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set on Linux only")
def test_a_process_that_dies_for_want_of_memory_costs_one_item() -> None:
    dies = "import os\ntry: bytearray(600 << 20)\nexcept MemoryError: os.abort()"

    async def main() -> list[object]:
        with Workers(1, exec, lambda item: "lost", memory=256 << 20) as workers:
            return await workers.apply(["1", dies, "2"])

    assert asyncio.run(main()) == [None, "lost", None]


def test_trusted_work_may_take_its_time() -> None:
    left = "import signal\nif signal.getitimer(signal.ITIMER_PROF)[0]: raise SystemError"
    with Workers(1, exec) as workers:
        assert list(workers.map([[left]])) == [[None]]


def test_an_exception_is_a_defect_and_comes_through() -> None:
    with Workers(1, operator.neg) as workers, pytest.raises(TypeError):
        list(workers.map([["text"]]))
    with Workers(1, signal.raise_signal) as workers, pytest.raises(BrokenProcessPool):
        list(workers.map([[signal.SIGKILL]]))
