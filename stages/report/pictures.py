"""Images of Parquet files (id, image{bytes, path}) as data URIs."""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from stages.report.html import Child, Html, tag
from webdistill.core.errors import UserError

AS_IT_IS = 6 * 1024  # bytes up to which the stored file itself is embedded
SIDE = 96  # px of the longer side of a picture that had to be made smaller
CACHED_GROUPS = 8


class Album:
    """Random access to images by id; reads one row group at a time, so memory stays small for any pool."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._place: dict[str, tuple[int, int, int]] = {}  # id -> file, row group, row in it
        self._groups: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        for number, path in enumerate(self._paths):
            with self._open(path) as file:
                for group in range(file.num_row_groups):
                    ids = file.read_row_group(group, columns=["id"]).column("id").to_pylist()
                    self._place.update({name: (number, group, row) for row, name in enumerate(ids)})

    def __contains__(self, name: str) -> bool:
        return name in self._place

    def data(self, name: str) -> bytes:
        """The stored bytes. Raises KeyError for an id that is not there."""
        number, group, row = self._place[name]
        if (number, group) not in self._groups:
            with self._open(self._paths[number]) as file:
                self._groups[number, group] = file.read_row_group(group, columns=["image"]).column(
                    "image"
                )
            if len(self._groups) > CACHED_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end((number, group))
        found: bytes = self._groups[number, group][row].as_py()["bytes"]
        return found

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
