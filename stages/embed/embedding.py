"""Pool shards -> embedding shards, each finished one kept in the work folder until all are done.

Batches run side by side, each on one thread: no waiting inside a batch, decoding and computing overlap, and the
result is the same for every thread count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from webdistill.core.errors import UserError
from webdistill.core.files import read_table, sha256_file, sync, write_table
from webdistill.images.gate import decode
from webdistill.models.clip import BATCH, ClipModel

Vectors = NDArray[np.float32]
Watch = Callable[..., Iterable[Vectors]]  # (batches, total=, size=) -> the same batches


def embed_files(model: ClipModel, files: Sequence[bytes], threads: int) -> Iterator[Vectors]:
    """Encoded RGB images -> unit vectors [B, d] float32, batch after batch, in order."""
    before = torch.get_num_threads()
    batches = iter([files[i : i + BATCH] for i in range(0, len(files), BATCH)])
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        try:
            waiting = [workers.submit(_embed, model, b) for b in islice(batches, threads + 2)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [workers.submit(_embed, model, b) for b in islice(batches, 1)]
        finally:
            workers.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


def _embed(model: ClipModel, files: Sequence[bytes]) -> Vectors:
    return model.encode_images([decode(data) for data in files]).numpy()


def embed_shard(
    model: ClipModel, shard: Path, folder: Path, threads: int, watch: Watch
) -> tuple[Path, bool]:
    """Embed one pool shard into `folder`, unless the same shard was embedded there by the same model before.

    -> the file, and whether it was there already. `watch` sees the batches pass by.
    """
    state = json.dumps([dict(model.header), sha256_file(shard)], sort_keys=True)
    key = hashlib.sha256(state.encode()).hexdigest()[:16]
    done = folder / f"{shard.stem}-{key}.parquet"
    if _whole(done):
        return done, True
    table = read_table(shard, ["id", "image"])
    files = [image["bytes"] for image in table["image"].to_pylist()]
    parts = list(watch(embed_files(model, files, threads), total=len(files), size=len))
    vectors = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
    if not np.isfinite(vectors).all():
        raise UserError(
            f"embed.model {model.header['model']!r} gives non-finite vectors; try precision: float32"
        )
    half = done.with_suffix(".partial")
    write_table(shard_table(table["id"], vectors), half, dict(model.header))
    sync(half)
    os.replace(half, done)
    return done, False


def _whole(path: Path) -> bool:
    try:
        read_table(path)
    except UserError:  # not there yet, or damaged on the disk
        return False
    return True


def shard_table(ids: pa.ChunkedArray, vectors: Vectors) -> pa.Table:
    """id | embedding (fixed_size_list<float16, d>)."""
    flat = pa.array(vectors.astype(np.float16).reshape(-1))
    return pa.table(
        {"id": ids, "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
    )


def read_embeddings(path: Path) -> NDArray[np.float64]:
    """[N, d] of one embedding shard, unit length again after the rounding to float16."""
    column = read_table(path, ["embedding"])["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    vectors = (
        flat.reshape(len(column), -1) if len(column) else flat.reshape(0, column.type.list_size)
    )
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
