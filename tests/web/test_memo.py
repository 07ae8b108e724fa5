"""The memory behind names and robots.txt: one question at a time per key, bounded, with a best-before date."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from webdistill.web.memo import Memo


def run(work: Awaitable[Any]) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(10):
            return await work

    return asyncio.run(main())


def test_everybody_waits_for_the_same_answer() -> None:
    asked: list[str] = []

    async def find(key: str) -> str:
        asked.append(key)
        await asyncio.sleep(0.01)
        return key.upper()

    async def main() -> list[str]:
        memo = Memo(find, lambda _: (60.0, 1), 10)
        return await asyncio.gather(*(memo.get(key) for key in "abaab"))

    assert run(main()) == ["A", "B", "A", "A", "B"]
    assert sorted(asked) == ["a", "b"]


def test_what_weighs_too_much_goes_the_least_recently_used_first() -> None:
    asked: list[str] = []

    async def find(key: str) -> int:
        asked.append(key)
        return int(key[1:])

    async def main() -> None:
        memo = Memo(find, lambda value: (60.0, value), 10)
        for key in ("a4", "b4", "a4", "c4"):  # c4 pushes b4 out
            await memo.get(key)
        assert asked == ["a4", "b4", "c4"]
        await memo.get("a4")
        assert asked == ["a4", "b4", "c4"]
        await memo.get("b4")
        assert asked == ["a4", "b4", "c4", "b4"]
        await memo.get("d99")  # heavier than all there is: answered, not kept
        await memo.get("d99")
        assert asked[-2:] == ["d99", "d99"]

    run(main())


def test_an_answer_that_is_renewed_is_weighed_once() -> None:
    asked: list[str] = []

    async def find(key: str) -> str:
        asked.append(key)
        return key

    async def main() -> None:
        memo = Memo(find, lambda key: (0.0 if key == "stale" else 60.0, 4), 10)
        await memo.get("kept")
        for _ in range(5):
            await memo.get("stale")
        await memo.get("kept")

    run(main())
    assert asked == ["kept", *["stale"] * 5]


def test_closing_ends_what_is_still_looked_for() -> None:
    cancelled = []

    async def find(key: str) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(key)
            raise
        return key

    async def main() -> None:
        memo = Memo(find, lambda _: (60.0, 1), 10)
        waiting = asyncio.create_task(memo.get("a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await memo.close()
        await asyncio.gather(waiting, return_exceptions=True)

    run(main())
    assert cancelled == ["a"]
