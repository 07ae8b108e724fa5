"""The confounder dictionary: gathered features in, prototypes, priors and quality figures out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from webdistill.clustering import (
    Clusters,
    Float32,
    Ints,
    Projection,
    fit_projection,
    group_means,
    kmeans,
    project,
)
from webdistill.core.errors import UserError
from webdistill.core.files import read_table


@dataclass(frozen=True)
class Selected:
    """The selected images in ascending order of id, whatever the order of selection and shards."""

    ids: NDArray[np.str_]  # [n]
    teacher_class: Ints  # [n]
    vectors: NDArray[np.float16]  # [n, d]


@dataclass(frozen=True)
class Dictionary:
    """Z and P(z) of KDCI with the clustering behind them."""

    prototypes: Float32  # [N, d], mean of the un-reduced vectors of a cluster
    prior: Float32  # [N], share of the images, sums to 1
    projection: Projection
    clusters: Clusters


def gather(selection: Path, shards: Sequence[Path], column: str) -> Selected:
    """Vectors of the selected images, one shard in memory at a time.

    They stay float16 as stored, half of a float32 matrix. Raises UserError when a selected image
    has no vector.
    """
    table = read_table(selection, ["id", "teacher_class"])
    ids = np.array(table["id"].to_pylist(), dtype=np.str_)
    order = np.argsort(ids, kind="stable")
    ids, classes = ids[order], np.asarray(table["teacher_class"].to_numpy())[order]
    found = np.zeros(len(ids), dtype=bool)
    vectors: NDArray[np.float16] | None = None
    for path in shards:
        part = read_table(path, ["id", column])
        width = part.schema.field(column).type.list_size
        if vectors is None:
            vectors = np.empty((len(ids), width), dtype=np.float16)
        here = np.array(part["id"].to_pylist(), dtype=np.str_)
        place = np.minimum(np.searchsorted(ids, here), len(ids) - 1)
        hit = ids[place] == here
        flat = part[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors[place[hit]] = flat.reshape(-1, width)[hit]
        found[place[hit]] = True
    if vectors is None or not found.all():
        lost = ids[~found][0]
        raise UserError(
            f"selected image {lost} is in no shard of data/score/teacher; run `dvc repro score "
            "select`"
        )
    return Selected(ids, classes, vectors)


def build(selected: Selected, count: int, dims: int, iterations: int, seed: int) -> Dictionary:
    """Equal bytes for any thread count; UserError when count or dims do not fit the images."""
    if count > len(selected.ids):
        raise UserError(
            f"prototypes.count = {count}, but only {len(selected.ids)} images are selected; lower "
            "it or select more"
        )
    projection = fit_projection(selected.vectors, dims)
    clusters = kmeans(project(selected.vectors, projection), count, iterations, seed)
    sizes = np.bincount(clusters.labels, minlength=count)
    prior = (sizes / len(selected.ids)).astype(np.float32)
    return Dictionary(
        group_means(selected.vectors, clusters.labels, count), prior, projection, clusters
    )


def save(dictionary: Dictionary, path: Path, facts: dict[str, str]) -> None:
    """Write prototypes.safetensors, `facts` in its header.

    As one JSON string, since safetensors keeps no order among several header keys.
    """
    tensors = {
        "prototypes": dictionary.prototypes,
        "prior": dictionary.prior,
        "pca_mean": dictionary.projection.mean,
        "pca_components": dictionary.projection.components,
        "centroids": dictionary.clusters.centroids,
    }
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(contiguous, path, metadata={"webdistill": json.dumps(facts, sort_keys=True)})


def teacher_of(shard: Path) -> str:
    """The teacher's sha256 from a shard's header, "" if it has none."""
    header = pq.read_schema(shard).metadata or {}
    return str(header.get(b"teacher_sha256", b"").decode())


def assignment(selected: Selected, clusters: Clusters) -> pa.Table:
    """id, prototype int32, distance float32 (Euclidean, in PCA space)."""
    return pa.table(
        {
            "id": pa.array(selected.ids.tolist(), pa.string()),
            "prototype": pa.array(clusters.labels, pa.int32()),
            "distance": pa.array(clusters.distances, pa.float32()),
        }
    )


def class_entropy(labels: Ints, teacher_class: Ints, count: int) -> NDArray[np.float64]:
    """[N] entropy in nats of the teacher's classes in each cluster; 0 = one class, log K = even."""
    mix = np.zeros((count, int(teacher_class.max()) + 1))
    np.add.at(mix, (labels, teacher_class), 1.0)
    share = mix / mix.sum(axis=1, keepdims=True)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    entropy: NDArray[np.float64] = -(share * logs).sum(axis=1)
    return entropy


def figures(selected: Selected, dictionary: Dictionary) -> dict[str, float]:
    """Quality of the dictionary for metrics.json."""
    clusters, count = dictionary.clusters, len(dictionary.prior)
    sizes = np.bincount(clusters.labels, minlength=count)
    entropy = class_entropy(clusters.labels, selected.teacher_class, count)
    return {
        "images": len(selected.ids),
        "prototypes": count,
        "explained_variance": round(dictionary.projection.explained, 6),
        "inertia": round(float(np.square(clusters.distances, dtype=np.float64).sum()), 4),
        "smallest_cluster": int(sizes.min()),
        "median_cluster": float(np.median(sizes)),
        "largest_cluster": int(sizes.max()),
        "mean_class_entropy": round(float((entropy * sizes).sum() / sizes.sum()), 6),
        "iterations": clusters.iterations,
        "moved_in_last_iteration": clusters.moved,
    }
