"""A progress bar on stderr with rate and time left; plain lines every few seconds where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY = 10.0  # seconds between lines without a terminal
WIDTH = 24


def progress(
    items: Iterable[T],
    *,
    total: int,
    unit: str,
    label: str,
    size: Callable[[T], int] | None = None,
    note: Callable[[], str] = str,
) -> Iterator[T]:
    """Yield items; each counts as `size(item)` units (default 1). `note`: what else there is to say on the line."""
    terminal = sys.stderr.isatty()
    begun = shown = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += size(item) if size is not None else 1
        now = time.monotonic()
        if now - shown >= (0.1 if terminal else LINE_EVERY):
            shown = now
            _show(label, done, total, unit, now - begun, terminal, note())
    if terminal:
        _show(label, done, total, unit, time.monotonic() - begun, terminal, note())
        sys.stderr.write("\n")


def _show(
    label: str, done: int, total: int, unit: str, seconds: float, terminal: bool, note: str
) -> None:
    rate = done / max(seconds, 1e-9)
    left = f"{_clock(max(total - done, 0) / rate)} left" if done else "nothing finished yet"
    filled = min(WIDTH, WIDTH * done // max(total, 1))
    bar = f"[{'=' * filled}{' ' * (WIDTH - filled)}] " if terminal else ""
    text = f"{label}: {bar}{done:,}/{total:,} {unit}, {rate:,.1f} {unit}/s, {left}"
    text += f"; {note}" if note else ""
    sys.stderr.write(f"\r{text}\x1b[K" if terminal else f"{text}\n")
    sys.stderr.flush()


def _clock(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
