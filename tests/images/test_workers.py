"""Worker processes: a crash or a hang costs one item."""

from __future__ import annotations

import asyncio
import operator
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from webdistill.images.workers import Workers


def test_results_keep_their_order() -> None:
    with Workers(2, operator.neg) as workers:
        batches = [[1, 2, 3], [4], [], *([n] for n in range(20))]
        assert list(workers.map(batches)) == [[-n for n in batch] for batch in batches]


def test_a_crash_costs_one_item() -> None:
    calm, fatal = signal.SIGURG, signal.SIGKILL  # SIGURG is ignored by default

    async def main() -> list[list[object]]:
        with Workers(2, signal.raise_signal, lambda item: f"lost {item}") as workers:
            batches = [[calm, fatal, calm], [calm] * 5, [fatal, fatal], [calm]]
            first = await asyncio.gather(*map(workers.apply, batches))
            return [*first, await workers.apply([calm])]

    lost = f"lost {fatal}"
    assert asyncio.run(main()) == [[None, lost, None], [None] * 5, [lost, lost], [None], [None]]


def test_a_hang_is_cut_short_like_a_crash() -> None:
    hang = "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0.2)\nwhile True: pass"

    async def main() -> list[object]:
        with Workers(1, exec, lambda item: "lost") as workers:
            return await workers.apply(["1", hang, "2"])

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
