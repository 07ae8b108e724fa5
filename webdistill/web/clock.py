"""The deadline of one URL, over all its tries and redirects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class Clock:
    """What is left of a URL's deadline: it runs while the URL is asked for, not while it waits for its turn."""

    __slots__ = ("heard", "left", "running", "silent")

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self.heard = False  # whether the head of the latest answer has come
        self.silent = False  # whether the latest try was given up for want of one
        self.running = asyncio.timeout(None)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The time spent inside does not count."""
        when, began = self.running.when(), asyncio.get_running_loop().time()
        self.running.reschedule(None)
        try:
            yield
        finally:
            waited = asyncio.get_running_loop().time() - began
            self.left += waited
            self.running.reschedule(when + waited if when is not None else None)
