"""The pool: shards, reading back, damage."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from stages.embed.embedding import embed_shard
from stages.report.pictures import Album
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, write_manifest, write_table
from webdistill.images.gate import encode, pixel_id
from webdistill.images.pool import SCHEMA, PoolRow, load_images, read_files, square, write_pool
from webdistill.models.clip import ClipModel


def rows(count: int, width: int = 12, height: int = 9) -> list[PoolRow]:
    dice = np.random.default_rng(1)
    pictures = [
        Image.fromarray(a) for a in dice.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    ]
    return [
        PoolRow(pixel_id(p), encode(p), width, height, "cat", f"caption {n}")
        for n, p in enumerate(pictures)
    ]


def pool(folder: Path, content: list[PoolRow], shard_size: int = 10) -> Path:
    assert write_pool(iter(content), folder, shard_size) == len(content)
    write_manifest(folder)
    return folder


def test_shards_hold_the_rows_in_order(tmp_path: Path) -> None:
    content = rows(25)
    folder = pool(tmp_path / "pool", content)
    shards = sorted(folder.glob("*.parquet"))
    assert [p.name for p in shards] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert [pq.read_metadata(p).num_rows for p in shards] == [10, 10, 5]
    first = pq.read_table(shards[0]).to_pylist()[0]
    assert first["image"] == {"bytes": content[0].image, "path": f"{content[0].id}.webp"}
    assert (first["width"], first["height"], first["query"], first["caption"]) == (
        12,
        9,
        "cat",
        "caption 0",
    )


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        folder = pool(tmp_path / name, rows(25))
        digests.append(
            [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())]
        )
    assert digests[0] == digests[1]


def test_an_exact_multiple_makes_no_empty_shard(tmp_path: Path) -> None:
    assert len(list(pool(tmp_path / "pool", rows(20)).glob("*.parquet"))) == 2
    assert write_pool(iter([]), tmp_path / "none", 10) == 0
    assert not list((tmp_path / "none").iterdir())


def test_shards_close_by_bytes_too(tmp_path: Path) -> None:
    def shards(name: str, shard_size: int, shard_bytes: int) -> list[list[bytes]]:
        folder = tmp_path / name
        assert write_pool(iter(content), folder, shard_size, shard_bytes) == len(content)
        paths = sorted(folder.glob("*.parquet"))
        assert [path.stem for path in paths] == [f"{n:05d}" for n in range(len(paths))]
        return [[i["bytes"] for i in pq.read_table(p)["image"].to_pylist()] for p in paths]

    sizes = [100, 100, 100, 101, 500, 1, 300, 299, 1]
    content = [PoolRow(f"{n:032x}", bytes(size), 1, 1, "", "") for n, size in enumerate(sizes)]
    found = shards("bytes", 10, 300)
    assert [[len(data) for data in shard] for shard in found] == [
        [100, 100, 100], [101], [500], [1], [300], [299, 1],
    ]  # fmt: skip
    assert [len(shard) for shard in shards("both", 2, 300)] == [2, 2, 1, 1, 1, 2]
    assert [len(shard) for shard in shards("one each", 10, 1)] == [1] * 9
    assert [len(shard) for shard in shards("rows", 4, 10_000)] == [4, 4, 1]


GROUP, GROUPS = 64, 3  # pictures of a row group, and row groups
PADDING = 1 << 16  # bytes behind each picture, within its WebP file


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of one shard with three row groups of 4 MiB of pictures: zeros, so that the file is small."""
    folder = tmp_path_factory.mktemp("heavy") / "pool"
    folder.mkdir()
    with pq.ParquetWriter(folder / "00000.parquet", SCHEMA, compression="zstd") as file:
        content = rows(GROUP * GROUPS)
        for start in range(0, len(content), GROUP):
            some = content[start : start + GROUP]
            table = pa.Table.from_pylist([_padded(row) for row in some], SCHEMA)
            file.write_table(table)
    write_manifest(folder)
    return folder


def _padded(row: PoolRow) -> dict[str, Any]:
    chunk = b"JUNK" + struct.pack("<I", PADDING) + bytes(PADDING)
    length = struct.pack("<I", len(row.image) - 8 + len(chunk))
    data = row.image[:4] + length + row.image[8:] + chunk
    return {**asdict(row), "image": {"bytes": data, "path": f"{row.id}.webp"}}


@pytest.mark.parametrize("reader", ["pictures", "load", "some", "album", "embed"])
def test_a_shard_is_read_by_row_group(
    heavy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """Arrow cannot hold more than 2 GiB of pictures in one table, and a machine perhaps not even that."""
    shard = heavy / "00000.parquet"
    ids = pq.read_table(shard, columns=["id"])["id"].to_pylist()
    _Watched.largest = 0
    monkeypatch.setattr(pq, "ParquetFile", _Watched)
    match reader:
        case "pictures":
            assert sum(map(len, read_files(shard))) == len(ids)
        case "load":
            assert load_images(heavy, None, 8, workers=1)[0] == ids
        case "some":
            assert len(load_images(shard, [ids[-1], ids[3]], 8, workers=1)[1]) == 2
        case "album":
            album = Album([shard])
            assert {len(album.data(name)) > PADDING for name in ids[::GROUP]} == {True}
        case "embed":
            made = tmp_path / "made.parquet"
            assert sum(embed_shard(cast(ClipModel, _Means()), 1, shard, made)) == len(ids)
            assert read_table(made, ["id"])["id"].to_pylist() == ids
    assert PADDING < _Watched.largest < GROUP * PADDING * 1.1


class _Watched(pq.ParquetFile):
    """Remembers the size of the largest table that was read."""

    largest = 0

    def read(self, *args: Any, **options: Any) -> pa.Table:
        return self._seen(super().read(*args, **options))

    def read_row_group(self, *args: Any, **options: Any) -> pa.Table:
        return self._seen(super().read_row_group(*args, **options))

    def iter_batches(self, *args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        return map(self._seen, super().iter_batches(*args, **options))

    def _seen(self, found: Any) -> Any:
        _Watched.largest = max(_Watched.largest, found.nbytes)
        return found


class _Means:
    """Stands for a CLIP: the mean colour of each picture."""

    header: ClassVar = {"model": "means"}

    def encode_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(np.asarray(i).mean((0, 1))) for i in images])


def by_hand(row: PoolRow, size: int, height: int = 9, width: int = 12) -> np.ndarray:
    image = Image.open(io.BytesIO(row.image)).convert("RGB")
    factor = size / min(height, width)
    image = image.resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]


@pytest.mark.parametrize("size", [6, 9, 16])
def test_load_images_resizes_and_cuts_the_centre(tmp_path: Path, size: int) -> None:
    content = rows(25)
    ids, images = load_images(pool(tmp_path / "pool", content), None, size, workers=1)
    assert ids == [row.id for row in content]
    assert images.shape == (25, size, size, 3)
    assert images.dtype == np.uint8
    for row, image in zip(content, images, strict=True):
        assert np.array_equal(image, by_hand(row, size))


@pytest.mark.parametrize(
    "column", [{}, {"image": ["x"]}, {"image": [{"path": "x"}]}, {"image": [{"bytes": "text"}]}]
)
def test_a_table_without_pictures_is_refused_in_one_line(
    tmp_path: Path, column: dict[str, Any]
) -> None:
    write_table(pa.table({"id": ["a"], **column}), tmp_path / "images.parquet")
    with pytest.raises(UserError, match=r"^\S*images\.parquet: column 'image' must be a struct.*$"):
        load_images(tmp_path / "images.parquet", None, 8, workers=1)


def test_load_images_in_the_order_asked_for(tmp_path: Path) -> None:
    content = rows(25)
    folder = pool(tmp_path / "pool", content)
    _, everything = load_images(folder, None, 9, workers=1)
    order = [24, 0, 11, 10, 9, 3]
    ids, some = load_images(folder, [content[n].id for n in order], 9, workers=1)
    assert ids == [content[n].id for n in order]
    assert np.array_equal(some, everything[order])
    ids, none = load_images(folder, [], 9, workers=1)
    assert (ids, none.shape) == ([], (0, 9, 9, 3))


def test_processes_give_the_same_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webdistill.images.pool.SERIAL_BELOW", 0)
    content = rows(60)
    folder = pool(tmp_path / "pool", content)
    order = [row.id for row in reversed(content)]
    for ids in (None, order):
        alone, together = (load_images(folder, ids, 8, workers=n) for n in (1, 2))
        assert alone[0] == together[0]
        assert np.array_equal(alone[1], together[1])


def test_a_single_file_will_do(tmp_path: Path) -> None:
    content = rows(7)
    folder = pool(tmp_path / "pool", content)
    ids, images = load_images(folder / "00000.parquet", None, 9, workers=1)
    assert len(ids) == len(images) == 7


def test_square_never_leaves_a_gap() -> None:
    for size in ((3, 200), (200, 3), (7, 8), (33, 32), (32, 32)):
        assert square(Image.new("RGB", size), 32).size == (32, 32)


def test_unknown_or_doubled_ids(tmp_path: Path) -> None:
    content = rows(5)
    folder = pool(tmp_path / "pool", content)
    with pytest.raises(UserError, match="f" * 32):
        load_images(folder, [content[0].id, "f" * 32], 9, workers=1)
    with pytest.raises(UserError, match="twice"):
        load_images(folder, [content[0].id, content[0].id], 9, workers=1)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = pool(tmp_path / "pool", rows(25))
    shard = folder / "00001.parquet"
    whole = shard.read_bytes()
    for damaged in (whole[:-100], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=r"00001\.parquet"):
            load_images(folder, None, 9, workers=1)
    shard.unlink()
    with pytest.raises(UserError, match=r"00001\.parquet is missing"):
        load_images(folder, None, 9, workers=1)


def broken_png() -> bytes:
    """Pillow raises SyntaxError: what follows half of the pixels is no chunk."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    data = file.getvalue()
    half = data.index(b"IDAT") + 4 + 500
    body = data[half - 504 : half]
    end = struct.pack(">I", zlib.crc32(body)) + struct.pack(">I", 4) + b"\0\1\2\3" + b"\0" * 20
    return data[: half - 508] + struct.pack(">I", 500) + body + end


@pytest.mark.parametrize("data", [b"", b"junk", broken_png()])
def test_the_row_that_cannot_be_decoded_is_named(tmp_path: Path, data: bytes) -> None:
    pictures = [{"bytes": row.image, "path": ""} for row in rows(8)]
    pictures[5]["bytes"] = data
    path = tmp_path / "images.parquet"
    table = pa.table({"id": [str(n) for n in range(8)], "image": pictures})
    pq.write_table(table, path, row_group_size=3, write_page_checksum=True)
    with pytest.raises(UserError, match="the image of row 5 cannot be decoded"):
        load_images(path, ["7", "5"], 9, workers=1)
