"""CLIP neighbours: for each image the others whose embedding is nearest, as further candidates for duplicates.

They find what the coarse descriptor cannot: copies cut off at one corner, where every part has moved. Which of them are
copies is decided as for all candidates, by the pictures themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webdistill.core.errors import UserError
from webdistill.core.files import read_table
from webdistill.images.copies import EXACT
from webdistill.images.hashes import Floats, Rows
from webdistill.images.neighbours import Index, blocks, one_thread, sample_size, side_by_side

DIMS = 64  # of the principal components in which neighbours are sought
LEARNT = 20_000  # embeddings that these are computed from, at most


def neighbours(
    shards: Sequence[Path], ids: Sequence[str], rows: Rows, count: int, threads: int
) -> tuple[Rows, Rows]:
    """Pairs (row, row) of the images `rows` with the `count` nearest of each among them; of an image with itself none.

    Raises UserError when the shards hold other images than `ids`.
    """
    if len(rows) < 2:
        return rows[:0], rows[:0]
    vectors = _projected(shards, ids)[rows]
    sample = None
    if len(rows) > EXACT:
        sample = vectors[:: max(len(rows) // sample_size(len(rows)), 1)].astype(np.float32)
    places = np.arange(len(rows))

    def nearest(part: Rows) -> tuple[Rows, Rows]:
        found = index.search(vectors[part].astype(np.float32), count + 1).place
        here = np.broadcast_to(part[:, None], found.shape)
        # An image is its own neighbour, but not always the first: equals come in no order.
        keep = (found >= 0) & (found != here)
        keep &= np.cumsum(keep, axis=1) <= count
        return here[keep], found[keep]

    with one_thread():
        index = Index(vectors.shape[1], sample)
        for part in blocks(places):
            index.add(vectors[part].astype(np.float32))
    pairs = list(side_by_side(nearest, blocks(places), threads))
    one, two = (
        np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*pairs, strict=True)
    )
    return rows[one], rows[two]


def _projected(shards: Sequence[Path], ids: Sequence[str]) -> NDArray[np.float16]:
    """[N, p <= DIMS]: principal components of the centred embeddings, each row of unit length."""
    tables = [read_table(path, ["id"]) for path in shards]
    names = [name for table in tables for name in table["id"].to_pylist()]
    if names != list(ids):
        raise UserError(
            "data/embed/embeddings is of another pool than data/fetch/pool; run `dvc repro filter`"
        )
    step = max(len(ids) // LEARNT, 1)
    parts, start = [], 0
    for path in shards:
        vectors = _read(path)
        parts.append(vectors[-start % step :: step])
        start += len(vectors)
    sample = np.concatenate(parts).astype(np.float64)
    mean = sample.mean(axis=0)
    with one_thread():
        axes = np.linalg.eigh((sample - mean).T @ (sample - mean))[1][:, ::-1][:, :DIMS]
        out = [_unit((_read(path) - mean) @ axes) for path in shards]
    return np.concatenate(out)


def _read(path: Path) -> Floats:
    column = read_table(path, ["embedding"])["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return np.asarray(flat.reshape(-1, column.type.list_size))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float16]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float16)
