"""Pool shards -> embedding shards, each finished one kept in the work folder until all are done.

Batches run side by side, each on one thread: no waiting inside a batch, decoding and computing overlap, and the
result is the same for every thread count.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from stages.embed.params import Embed
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, sha256_file, write_table
from webdistill.engine.jobs import Facts, Function, Task
from webdistill.images.pool import read_files
from webdistill.images.stored import decode
from webdistill.models import clip
from webdistill.models.clip import BATCH, ClipModel

Vectors = NDArray[np.float32]


def embed_files(model: ClipModel, files: Iterable[bytes], threads: int) -> Iterator[Vectors]:
    """Encoded RGB images -> unit vectors [B, d] float32, batch after batch, in order."""
    before = torch.get_num_threads()
    stream = iter(files)
    batches = iter(lambda: list(islice(stream, BATCH)), [])  # read as they are wanted
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


def embedder(facts: Facts) -> Function:
    """The same on another machine. Raises UserError when the names give another model there."""
    model = clip.load(facts["model"], facts["pretrained"], precision=facts["header"]["precision"])
    for name, value in facts["header"].items():
        if model.header[name] != value:
            raise UserError(
                f"embed.model {facts['model']!r} has another {name} on {socket.gethostname()}; copy the files of the "
                "model there"
            )
    return partial(embed_shard, model, 1)


def task(model: ClipModel, settings: Embed, threads: int) -> Task:
    """What is done to a shard, here and elsewhere."""
    facts = {
        "device": model.device.type,
        "model": settings.model,
        "pretrained": settings.pretrained,
        "header": dict(model.header),
    }
    return Task(embedder, facts, partial(embed_shard, model, threads))


def target(model: ClipModel, shard: Path, folder: Path) -> Path:
    """Where the embeddings of these bytes by this model are kept."""
    state = json.dumps([dict(model.header), sha256_file(shard)], sort_keys=True)
    return folder / f"{shard.stem}-{hashlib.sha256(state.encode()).hexdigest()[:16]}.parquet"


def embed_shard(model: ClipModel, threads: int, shard: Path, target: Path) -> Iterator[int]:
    """Embed one pool shard into the file `target`; yields images done."""
    ids = read_table(shard, ["id"])["id"]
    files = (data for part in read_files(shard) for data in part.to_pylist())
    parts = []
    for vectors in embed_files(model, files, threads):
        if not np.isfinite(vectors).all():
            raise UserError(
                f"embed.model {model.header['model']!r} gives non-finite vectors; try precision: float32"
            )
        parts.append(vectors)
        yield len(vectors)
    whole = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
    write_table(shard_table(ids, whole), target, dict(model.header))


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
