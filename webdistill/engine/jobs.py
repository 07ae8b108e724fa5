"""A task is done to one shard after the other, in any process; each gives one file, which is whole or absent."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webdistill.core import files
from webdistill.core.errors import UserError

Facts = Mapping[str, Any]  # as JSON; "device": cpu, cuda, or absent where torch does not compute
Function = Callable[[Path, Path], Iterator[int]]  # (shard, file to write); yields images done
Maker = Callable[
    [Facts], Function
]  # importable by its name; decodes in one process, many of which run


@dataclass(frozen=True)
class Task:
    """`here`: what `maker` makes of the facts, made in this process already."""

    maker: Maker
    facts: Facts
    here: Function

    @property
    def name(self) -> str:
        return f"{self.maker.__module__}:{self.maker.__qualname__}"


@dataclass(frozen=True)
class Job:
    """A shard of the pool and the file that comes of it. The file's name holds a digest of all that decides it."""

    shard: Path
    target: Path
    images: int


def maker(name: str) -> Maker:
    module, _, function = name.partition(":")
    found: Maker = getattr(importlib.import_module(module), function)
    return found


def whole(path: Path) -> bool:
    """Is a Parquet file there, undamaged? A few rows at a time: it may be as large as a shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for _ in file.iter_batches(1000, use_threads=False):
                pass
    except (pa.ArrowException, OSError):
        return False
    return True


def perform(function: Function, shard: Path, target: Path) -> Iterator[int]:
    """Raises UserError, which names the shard. Several processes of several machines may have the same target."""
    partial = target.with_name(f".{target.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        with files.room_on_disk(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield from function(shard, partial)
            files.replace(partial, target)
    except UserError as error:
        if shard.name in str(error):
            raise
        raise UserError(f"{shard}: {error}") from None
    finally:
        files.remove(partial)
