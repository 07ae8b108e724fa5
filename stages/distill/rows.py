"""Tensors [N, ...] in files, written once and read a few rows at a time: what outgrows the memory."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from webdistill.core.errors import UserError
from webdistill.core.files import replace


class Rows:
    """A tensor in a file: `rows[places]` has the values, the strides and the device that it has of one in memory."""

    def __init__(self, file: Path, like: Tensor) -> None:
        """`like` [B, ...]: any rows of the kind that was written there."""
        self._file = file
        self._last, self._device = _channels_last(like), like.device
        self._one = _outward(like[:1].cpu(), self._last)
        self._handle = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)

    def __getitem__(self, places: Tensor) -> Tensor:
        """Rows `places` [B] int64 -> [B, ...]. Raises UserError for a file that has lost its end."""
        found = self._one.new_empty(len(places), *self._one.shape[1:])
        flat = found.view(len(places), -1).view(torch.uint8).numpy()
        for row, place in zip(flat, places.tolist(), strict=True):
            if os.preadv(self._handle, [row.data], place * len(row)) != len(row):
                raise UserError(f"{self._file} is damaged; remove it and run again")
        found = found.permute(0, 3, 1, 2) if self._last else found
        return found.to(self._device, non_blocking=True)


def write_rows(files: Mapping[str, Path], parts: Iterable[Mapping[str, Tensor]]) -> None:
    """A file per name with the rows of all parts, one after the other; after a kill each is whole or absent."""
    with ExitStack() as stack:
        unfinished = {name: file.with_name(f"{file.name}.tmp") for name, file in files.items()}
        open_ = {name: stack.enter_context(file.open("wb")) for name, file in unfinished.items()}
        for part in parts:
            for name, rows in part.items():
                flat = _outward(rows.cpu(), _channels_last(rows)).flatten(1)
                open_[name].write(flat.view(torch.uint8).numpy().data)
    for name, file in files.items():
        replace(unfinished[name], file)


def _channels_last(rows: Tensor) -> bool:
    if rows.ndim != 4:
        return False
    return rows.is_contiguous(memory_format=torch.channels_last) and not rows.is_contiguous()


def _outward(rows: Tensor, last: bool) -> Tensor:
    """As its bytes lie in memory."""
    return (rows.permute(0, 2, 3, 1) if last else rows).contiguous()
