"""A small project for the filter: pool, ledger, scores and test images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from stages.filter.__main__ import main
from stages.filter.params import Filter
from stages.search.found import SCORES
from webdistill.core.files import write_manifest, write_table
from webdistill.harness.params import Params, Task
from webdistill.harness.stage import Stage
from webdistill.images.pool import IMAGE_TYPE, PoolRow, write_pool

LOOSE = {
    "min_side": 1, "max_aspect": 100.0, "min_contrast": 0.0, "leak_similarity": 1.01,
    "min_score": -1.0, "min_margin": -2.0, "duplicate_similarity": 1.01, "licences": (), "unknown_licence": "keep",
    "max_punsafe": None, "max_nsfw": None, "max_pwatermark": None, "min_aesthetic": None, "min_similarity": None,
    "max_unsafe": 1.0, "min_entropy": 0.0, "embedding_neighbours": 0, "per_class": None,
}  # fmt: skip


def photo(seed: int, side: int = 40) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def name(i: int) -> str:
    return f"{i:032x}"


def stage_for(
    place: Path,
    images: Sequence[Image.Image],
    *,
    score: Sequence[float] | None = None,
    margin: Sequence[float] | None = None,
    keyword: Sequence[int] | None = None,
    unsafe: Sequence[float | None] | None = None,
    other: Mapping[str, Sequence[float]] | None = None,
    opted_out: Sequence[int] = (),
    test: Sequence[Image.Image] = (),
    licence: Mapping[int, tuple[str, str]] | None = None,
    takedown: str = "",
    listed: Mapping[str, Sequence[float | None]] | None = None,
    **settings: object,
) -> Stage:
    """A stage in the current folder over a pool of these images, called name(0), name(1), ...

    In the ledger each image stands twice: where it came from, and below at https://mirror.net with another file.
    `listed`: scores of the first of these; the second has those at the end of the sequence, if there are more.
    """
    count = len(images)
    pool = place / "data/fetch/pool"
    write_pool(
        (PoolRow(name(i), png(x), *x.size, "cat", "") for i, x in enumerate(images)), pool, 3
    )
    write_manifest(pool)
    ids = [name(i) for i in range(count)]
    columns = {
        "id": ids,
        "score": pa.array(score or [0.5] * count, pa.float32()),
        "margin": pa.array(margin or [0.5] * count, pa.float32()),
        "query_class": pa.array(keyword or [0] * count, pa.int32()),
        "unsafe": pa.array(unsafe or [None] * count, pa.float32()),
    }
    for what, values in (other or {}).items():
        columns[f"other_{what}"] = pa.array(values, pa.float32())
    (place / "data/embed").mkdir(parents=True)
    write_table(pa.table(columns), place / "data/embed/scores.parquet")
    flags = ["noai" if i in opted_out else "" for i in range(count)]
    stated = [(licence or {}).get(i, ("", "")) for i in range(count)]
    ledger = {
        "id": [*ids, "", *ids],
        "status": ["ok"] * count + ["opted_out"] + ["duplicate"] * count,
        "url": [
            *(f"https://host{i}.org/a.png" for i in range(count)),
            "https://gone.org/b.png",
            *(f"https://mirror.net/{i}.png" for i in range(count)),
        ],
        "sha256": [f"{i:064x}" for i in range(2 * count + 1)],
        "landing_page": [""] * (2 * count + 1),
        "file": [""] * (2 * count + 1),
        "origin": [""] * (2 * count + 1),
        "opt_out": [*[""] * count, "noai", *flags],
        "licence": [*(text for text, _ in stated), "", *["all rights reserved"] * count],
        "licence_url": [*(url for _, url in stated), "", *[""] * count],
    }
    write_table(pa.table(ledger), place / "data/fetch/ledger.parquet")
    scores = {
        column: pa.array([*stated[:count], None, *(stated[count:] or [None] * count)], pa.float64())
        for column, stated in (dict.fromkeys(SCORES, [None] * count) | dict(listed or {})).items()
    }
    (place / "data/search").mkdir(parents=True)
    write_table(
        pa.table({"url": ledger["url"], **scores}), place / "data/search/candidates.parquet"
    )
    (place / "takedown.txt").write_text(takedown)
    pictures = pa.array([{"bytes": png(x), "path": ""} for x in test], IMAGE_TYPE)
    names = pa.array([f"t{i}" for i in range(len(test))], pa.string())
    write_table(pa.table({"id": names, "image": pictures}), place / "test.parquet")
    task = Task(
        seed=0, threads=1, classes=("cat", "dog"), image_size=32,
        teacher="", test_images="test.parquet", test_labels="",
    )  # fmt: skip
    return Stage("filter", Params(task, {"filter": Filter(**{**LOOSE, **settings})}, {}), None)


def add_embeddings(place: Path, vectors: np.ndarray, shard_size: int) -> None:
    folder = place / "data/embed/embeddings"
    folder.mkdir()
    for start in range(0, len(vectors), shard_size):
        part = vectors[start : start + shard_size].astype(np.float16)
        ids = [name(start + i) for i in range(len(part))]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
        table = pa.table({"id": ids, "embedding": flat})
        write_table(table, folder / f"{start // shard_size:05d}.parquet")
    write_manifest(folder)


def finish(stage: Stage) -> tuple[list[str], dict[str, dict]]:
    main(stage)
    stage.publish()
    dropped = pq.read_table("data/filter/dropped.parquet").to_pylist()
    return pq.read_table("data/filter/kept.parquet")["id"].to_pylist(), {
        d["id"]: d for d in dropped
    }
