"""Processes of the variants: each has its own, so that memory is its own too, and they are woken one after another.

Imports no torch: on Linux a child's peak memory begins with its parent's.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.plan import VARIANTS, Setting
from webdistill.core.errors import UserError

SPAWN = multiprocessing.get_context("spawn")


@dataclass
class Child:
    """The process of a variant and what it has said so far."""

    name: str
    process: BaseProcess
    connection: Connection
    facts: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, float]] = field(default_factory=list)

    def hear(self, limit: float | None = None) -> dict[str, Any] | None:
        """The next message; None when it does not come within `limit` seconds."""
        if not self.connection.poll(limit):
            return None
        try:
            return self.connection.recv()
        except EOFError:
            raise UserError(f"variant {self.name} has ended early; its message is above") from None

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def measure(
    names: Sequence[str], setting: Setting, pixels: Path, repeat: int, compile_limit: float
) -> tuple[list[Child], dict[str, str]]:
    """-> (what every variant has said, reasons by variant that was left out)."""
    os.environ["OMP_NUM_THREADS"] = str(setting.threads)  # before torch is imported in the children
    children: list[Child] = []
    skipped: dict[str, str] = {}
    try:
        for name in names:
            child = _start(name, setting, pixels, repeat)
            children.append(child)
            facts, reason = _warmed_up(child, compile_limit)
            if facts is None:
                skipped[name] = reason
                children.pop().end()
                continue
            child.facts = facts
            progress(f"{name}: warmed up in {facts['warm_up']:.1f} s")
        for number in range(repeat):
            for child in children:
                child.connection.send("go")
                child.runs.append(child.hear() or {})
            progress(f"repetition {number + 1} of {repeat} done")
        for child in children:
            child.facts |= child.hear() or {}
        return children, skipped
    finally:
        for child in children:
            child.end()


def _warmed_up(child: Child, compile_limit: float) -> tuple[dict[str, Any] | None, str]:
    """What the child says after its warm-up; None and a reason when torch.compile is late or fails."""
    if not VARIANTS[child.name].compiled:
        return child.hear(), ""
    try:
        return child.hear(compile_limit), f"not compiled within {compile_limit:g} s"
    except UserError:
        return None, "torch.compile failed; its message is on stderr"


def _start(name: str, setting: Setting, pixels: Path, repeat: int) -> Child:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(there, name, setting, pixels, repeat))
    process.start()
    there.close()  # else the end of the child would never be heard
    return Child(name, process, here)


def _serve(connection: Connection, name: str, setting: Setting, pixels: Path, repeat: int) -> None:
    from benchmarks.variants import serve

    serve(connection, VARIANTS[name], setting, pixels, repeat)


def read_pixels(source: str, count: int, target: Path) -> None:
    """`benchmarks.pixels.write` in a process of its own: decoding's memory is nobody's then."""
    process = SPAWN.Process(target=_write_pixels, args=(source, count, target))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(1)  # it has said why


def _write_pixels(source: str, count: int, target: Path) -> None:
    from benchmarks.pixels import write

    try:
        write(source, count, target)
    except UserError as error:
        sys.exit(f"error: {error}")


def progress(text: str) -> None:
    """A line for who waits."""
    print(text, file=sys.stderr, flush=True)
