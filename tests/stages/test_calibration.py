"""Real pictures with right keywords, judged by two CLIPs whose cosines lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from stages.embed import embedding, scoring
from stages.filter.calibration import threshold
from webdistill.models import clip

QUICKSTART = Path(__file__).parents[2] / "data/quickstart"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEMPLATES = ("a photo of a {}.", "a blurry photo of a {}.")
COUNT, DIMS = 300, 48
Doubles = NDArray[np.float64]


def unit(vectors: Doubles) -> Doubles:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def embedded() -> tuple[Doubles, Doubles, list[int]]:
    """-> vectors of clean pictures and of classes by the quickstart's CLIP, and the pictures' keywords."""
    truth = pq.read_table(QUICKSTART / "truth.parquet").to_pylist()
    rows = [r for r in truth if r["kind"] == "clean"][:COUNT]
    column = pq.read_table(QUICKSTART / "web.parquet", columns=["image"])["image"]
    cells = [column[r["row"]].as_py() for r in rows]
    files = [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
    model = clip.load(f"local-dir:{QUICKSTART / 'clip'}", None, precision="float32")
    vectors = np.concatenate(list(embedding.embed_files(model, files, 1))).astype(np.float64)
    texts = scoring.class_embeddings(model, CLASSES, TEMPLATES)
    return vectors, texts, [r["true_class"] for r in rows]


@pytest.mark.parametrize("name", ["quickstart", "fewer dimensions"])
def test_a_clean_pool_is_kept_whichever_clip_judges_it(
    name: str, embedded: tuple[Doubles, Doubles, list[int]], tmp_path: Path
) -> None:
    """What `init` writes keeps nine in ten; numbers that suit one CLIP cost the other a third of the pool."""
    images, texts, keywords = embedded
    if name != "quickstart":
        axes = np.linalg.svd(images - images.mean(0), full_matrices=False)[2][:DIMS].T
        images, texts = unit(images @ axes), unit(texts @ axes)
    labels = pa.table(
        {"id": [f"{i:032x}" for i in range(COUNT)], "query": [CLASSES[k] for k in keywords]}
    )
    scores = scoring.score_shard(labels, images, texts, CLASSES)
    pq.write_table(scores, tmp_path / "scores.parquet")

    def kept(least_score: float | str, least_margin: float | str) -> float:
        least = threshold(least_score, tmp_path / "scores.parquet", "score")
        margin = threshold(least_margin, tmp_path / "scores.parquet", "margin")
        right = (scores["score"].to_numpy() >= least) & (scores["margin"].to_numpy() >= margin)
        return float(right.mean())

    assert kept("30%", "40%") >= 0.9
    if name != "quickstart":
        assert kept(0.02, -0.05) < 0.7
