"""Pictures that stay encoded: one file of them all, decoded by threads when a batch asks for them or soon will.

A hundred thousand pictures of 224 px are 14 GiB as pixels and a quarter of that or less encoded. The decoders let other
threads run meanwhile. What comes out are the pixels that `pool.load_images` gives, whatever the number of threads.
"""

from __future__ import annotations

import os
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from webdistill.core.errors import UserError
from webdistill.core.files import read_table, remove, replace, shards
from webdistill.images.pool import read_files, square
from webdistill.images.stored import decode

PICTURES, INDEX = "pictures", "index"
WAITING = 8  # batches decoded and not yet asked for, at most
CHUNK = 8  # pictures that a thread takes at a time

Batch = tuple[Tensor, list[Future[None]]]  # pixels [B, S, S, 3], and what they wait for


def write_pictures(pool: Path, ids: Sequence[str], folder: Path) -> None:
    """Copy the encoded pictures `ids` of a pool into one file of the new folder, in the pool's order.

    A kill leaves no folder. Raises UserError for a damaged shard or an id that the pool does not hold.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    remove(temporary)
    temporary.mkdir(parents=True)
    index = np.zeros((3, len(ids)), np.int64)  # of every id: first byte, bytes, CRC-32
    end = 0
    with (temporary / PICTURES).open("wb") as file:
        for place, data in _find(pool, ids):
            index[:, place] = end, len(data), zlib.crc32(data)
            file.write(data)
            end += len(data)
    index.tofile(temporary / INDEX)
    replace(temporary, folder)


class Encoded:
    """Some pictures of a folder that `write_pictures` made, [N, 3, S, S] uint8 on a device by their rows.

    It stands for the tensor that holds them all: `encoded[rows]` has the same values and strides as `tensor[rows]`.
    """

    def __init__(
        self,
        folder: Path,
        places: NDArray[np.int64],
        size: int,
        *,
        workers: int,
        device: torch.device,
    ) -> None:
        """`places` [N]: which of the folder's ids; `workers`: threads, 0 = none, and nothing is decoded ahead."""
        self.file = folder / PICTURES
        self.device: torch.device = device
        self.shape: Sequence[int] = (len(places), 3, size, size)
        self._places = places
        self._index = np.fromfile(folder / INDEX, np.int64).reshape(3, -1)
        self._handle = os.open(self.file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)
        self._threads = ThreadPoolExecutor(workers) if workers else None
        self._ahead: OrderedDict[bytes, Batch] = OrderedDict()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Pictures `rows` [B] int64 -> [B, 3, S, S] uint8, channels_last. Raises UserError for a damaged file."""
        places = rows.cpu().numpy()
        ready = self._ahead.pop(places.tobytes()) if places.tobytes() in self._ahead else None
        pixels, parts = ready or self._begin(places)
        for part in parts:
            part.result()
        return pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)

    def expect(self, rows: Tensor) -> None:
        """Begin to decode what will be asked for soon, in just this order of rows."""
        places = rows.cpu().numpy()
        if self._threads is None or places.tobytes() in self._ahead:
            return
        while len(self._ahead) >= WAITING:  # nobody came for it
            self._ahead.popitem(last=False)
        self._ahead[places.tobytes()] = self._begin(places)

    def _begin(self, rows: NDArray[np.int64]) -> Batch:
        side, places = self.shape[-1], self._places[rows]
        pinned = self.device.type == "cuda"
        pixels = torch.empty(len(rows), side, side, 3, dtype=torch.uint8, pin_memory=pinned)
        out = pixels.numpy()
        if self._threads is None:
            self._decode(out, places)
            return pixels, []
        cuts = [slice(first, first + CHUNK) for first in range(0, len(rows), CHUNK)]
        return pixels, [self._threads.submit(self._decode, out[cut], places[cut]) for cut in cuts]

    def _decode(self, out: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
        for at, place in enumerate(places.tolist()):
            first, size, expected = self._index[:, place].tolist()
            data = os.pread(self._handle, size, first)
            if len(data) != size or zlib.crc32(data) != expected:
                raise UserError(f"{self.file} is damaged; remove {self.file.parent} and run again")
            try:
                out[at] = np.asarray(square(decode(data), self.shape[-1]))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise UserError(
                    f"{self.file}: image {place} of the selection cannot be decoded: {error}"
                ) from None


def _find(pool: Path, ids: Sequence[str]) -> Iterator[tuple[int, bytes]]:
    """(place among `ids`, encoded picture) in the pool's order."""
    wanted = {name: place for place, name in enumerate(ids)}
    for file in [pool] if pool.is_file() else shards(pool):
        names = read_table(file, ["id"]).column("id").to_pylist()
        if wanted.keys().isdisjoint(names):
            continue
        rows = iter(names)
        for part in read_files(file):
            for data, name in zip(part, rows, strict=False):
                if (place := wanted.pop(name, -1)) >= 0:
                    yield place, data.as_py() or b""
    if wanted:
        raise UserError(
            f"image {next(iter(wanted))} is not in {pool}; run `dvc repro` so that the stages' outputs fit together "
            "again"
        )
