"""The confounder dictionary: gathered features in, prototypes and priors out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save as in_bytes

from stages.prototypes.params import Prototypes
from webdistill.clustering import (
    Clusters,
    Float32,
    Ints,
    Projection,
    assign_all,
    fit_projection,
    group_means,
    kmeans,
    project,
)
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, write_table
from webdistill.harness.stage import Stage


@dataclass(frozen=True)
class Selected:
    """The selected images in ascending order of id, whatever the order of selection and shards."""

    ids: pa.Array  # [n] string: a third of what numpy's four bytes a character take
    teacher_class: Ints  # [n]
    vectors: NDArray[np.float16]  # [n, d]


@dataclass(frozen=True)
class Dictionary:
    """Z and P(z) of KDCI with the clustering behind them."""

    prototypes: Float32  # [N, d], mean of the un-reduced vectors of a cluster
    prior: Float32  # [N], share of the images, sums to 1
    projection: Projection
    clusters: Clusters
    sampled: int  # images that PCA and k-means learned from


def gather(selection: Path, shards: Sequence[Path], column: str, classes: int) -> Selected:
    """Vectors of the selected images, one shard in memory at a time.

    They stay float16 as stored, half of a float32 matrix. Raises UserError when a selected image
    has no vector, or a class that is none of the `classes`.
    """
    table = read_table(selection, ["id", "teacher_class"])
    table = table.take(pc.sort_indices(table["id"]))
    teacher_class = np.asarray(table["teacher_class"].to_numpy())
    if teacher_class.max() >= classes:
        raise UserError(
            f"data/select/selection.parquet has teacher class {teacher_class.max()}, but "
            f"task.classes names {classes}; run `dvc repro select`"
        )
    ids = table["id"].combine_chunks()
    known = _as_bytes(ids)
    found = np.zeros(len(ids), dtype=bool)
    vectors: NDArray[np.float16] | None = None
    for path in shards:
        part = read_table(path, ["id", column])
        width = part.schema.field(column).type.list_size
        if vectors is None:
            vectors = np.empty((len(ids), width), dtype=np.float16)
        here = _as_bytes(part["id"])
        place = np.minimum(np.searchsorted(known, here), len(ids) - 1)
        hit = known[place] == here
        flat = part[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors[place[hit]] = flat.reshape(-1, width)[hit]
        found[place[hit]] = True
    if vectors is None or not found.all():
        lost = ids[int(found.argmin())].as_py()
        raise UserError(
            f"selected image {lost} is in no shard of data/score/teacher; run `dvc repro score "
            "select`"
        )
    return Selected(ids, teacher_class, vectors)


def _as_bytes(ids: pa.Array | pa.ChunkedArray) -> NDArray[np.bytes_]:
    """Ids in one byte a character, for searching."""
    return ids.cast(pa.binary()).to_numpy(zero_copy_only=False).astype(np.bytes_)


def sample(images: int, size: int | None, seed: int) -> Ints | None:
    """Rows that PCA and k-means learn from, ascending; None = all, also when there are no more than `size`."""
    if size is None or size >= images:
        return None
    drawn = np.random.default_rng([seed, 1]).choice(images, size, replace=False, shuffle=False)
    return np.sort(drawn)


def build(selected: Selected, settings: Prototypes, seed: int, threads: int) -> Dictionary:
    """Equal bytes for any number of threads; UserError when count or dims do not fit the images."""
    images, count = len(selected.ids), settings.count
    if count > images:
        raise UserError(
            f"prototypes.count = {count}, but only {images} images are selected; lower it or "
            "select more"
        )
    vectors, rows = selected.vectors, sample(images, settings.sample, seed)
    projection = fit_projection(
        vectors if rows is None else vectors[rows], settings.dims, threads=threads
    )
    flat = project(vectors, projection, threads)
    if rows is None:
        clusters = kmeans(flat, count, settings.iterations, seed, threads=threads)
    else:
        clusters = kmeans(flat[rows], count, settings.iterations, seed, threads=threads)
        clusters = assign_all(flat, clusters, threads)
    sizes = np.bincount(clusters.labels, minlength=count)
    return Dictionary(
        group_means(vectors, clusters.labels, count, threads),
        (sizes / images).astype(np.float32),
        projection,
        clusters,
        images if rows is None else len(rows),
    )


def tensors(dictionary: Dictionary) -> dict[str, NDArray[np.float32]]:
    """What prototypes.safetensors holds."""
    return {
        "prototypes": dictionary.prototypes,
        "prior": dictionary.prior,
        "pca_mean": dictionary.projection.mean,
        "pca_components": dictionary.projection.components,
        "centroids": dictionary.clusters.centroids,
    }


def noise(dictionary: Dictionary, seed: int) -> dict[str, NDArray[np.float32]]:
    """The control of KDCI: normal numbers with every dimension's mean and standard deviation over the prototypes."""
    known = dictionary.prototypes
    drawn = np.random.default_rng([seed, 2]).standard_normal(known.shape)
    random = known.mean(0) + known.std(0) * drawn
    return {"prototypes": random.astype(np.float32), "prior": dictionary.prior}


def save(tensors: Mapping[str, NDArray[np.float32]], path: Path, facts: dict[str, str]) -> None:
    """Write a dictionary, `facts` in its header.

    As one JSON string, since safetensors keeps no order among several header keys.
    """
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    path.write_bytes(
        in_bytes(contiguous, metadata={"webdistill": json.dumps(facts, sort_keys=True)})
    )


def write_empty(stage: Stage, *names: str) -> None:
    """Dictionaries of nothing, always the same: who asks for no prototypes depends on none."""
    for name in names:
        with stage.output(f"{name}.safetensors") as path:
            save({}, path, {})


def of_nothing(stage: Stage) -> None:
    """The outputs for an empty pool."""
    from stages.prototypes.quality import COLUMNS

    write_empty(stage, "prototypes", "random", "constant", "drawn", "none")
    types = (("id", pa.string()), ("prototype", pa.int32()), ("distance", pa.float32()))
    with stage.output("assignment.parquet") as path:
        write_table(pa.schema(list(types)).empty_table(), path)
    with stage.output("clusters.csv") as path:
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    stage.metrics({"images": 0, "prototypes": 0})
    stage.log("no image was selected, so there are no prototypes")


def teacher_of(shard: Path) -> str:
    """The teacher's sha256 from a shard's header, "" if it has none."""
    header = pq.read_schema(shard).metadata or {}
    return str(header.get(b"teacher_sha256", b"").decode())


def assignment(selected: Selected, clusters: Clusters) -> pa.Table:
    """id, prototype int32, distance float32 (Euclidean, in PCA space)."""
    return pa.table(
        {
            "id": selected.ids,
            "prototype": pa.array(clusters.labels, pa.int32()),
            "distance": pa.array(clusters.distances, pa.float32()),
        }
    )
