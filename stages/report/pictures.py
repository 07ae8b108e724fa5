"""Images of Parquet files (id, image{bytes, path}) as data URIs."""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from stages.report.columns import Columns, Names, names
from stages.report.html import Child, Html, tag
from webdistill.core.errors import UserError

AS_IT_IS = 6 * 1024  # bytes up to which the stored file itself is embedded
SIDE = 96  # px of the longer side of a picture that had to be made smaller
BATCH = 64  # rows turned into an Arrow array at a time
CACHED = 64 << 20  # bytes of row groups that are kept


class Album:
    """Random access to images by id; reads one row group at a time, so memory stays small for any pool."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._groups: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        found: list[Names] = []
        self._of: list[tuple[int, int]] = []  # file and row group of each part of `found`
        for number, path in enumerate(self._paths):
            with self._open(path) as file:
                for group in range(file.num_row_groups):
                    found.append(names(file.read_row_group(group, columns=["id"])["id"]))
                    self._of.append((number, group))
        self._starts = np.cumsum([0, *map(len, found)])
        self._ids = Columns(np.concatenate(found) if found else np.empty(0, "S1"))

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def has(self, wanted: Names) -> NDArray[np.bool_]:
        """Which of these ids are here."""
        return self._ids.has(wanted)

    def data(self, name: str) -> bytes:
        """The stored bytes. Raises KeyError for an id that is not there."""
        place = self._ids.place(name)
        if place < 0:
            raise KeyError(name)
        part = int(np.searchsorted(self._starts, place, side="right")) - 1
        number, group = self._of[part]
        row = place - int(self._starts[part])
        if (number, group) not in self._groups:
            with self._open(self._paths[number]) as file:
                # In batches, because a group of large pictures may not fit one Arrow column.
                batches = file.iter_batches(BATCH, [group], ["image"])
                found = pa.chunked_array([batch.column(0) for batch in batches])
            while (
                self._groups
                and found.nbytes + sum(g.nbytes for g in self._groups.values()) > CACHED
            ):
                self._groups.popitem(last=False)
            self._groups[number, group] = found
        self._groups.move_to_end((number, group))
        data: bytes = self._groups[number, group][row].as_py()["bytes"]
        return data

    def figure(self, name: str, caption: Child, note: str = "") -> Html:
        """The picture with a caption below; an id without a picture gets an empty frame."""
        image = tag("span", class_="missing")
        if name in self:
            image = tag("img", src=data_uri(self.data(name)), alt=note, title=note or None)
        return tag("figure", image, tag("figcaption", caption))

    @staticmethod
    def _open(path: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{path} cannot be read: {str(error).splitlines()[0]}; check it out again"
            ) from None


def data_uri(data: bytes) -> str:
    """A small PNG, JPEG or WebP as it is; anything else shrunk and re-encoded as JPEG."""
    kind = _kind(data)
    if kind is None or len(data) > AS_IT_IS:
        data, kind = _shrunk(data), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def whole_uri(data: bytes) -> str:
    """A PNG of our own making as it is, however large."""
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _kind(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def _shrunk(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
        image = opened.convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()
