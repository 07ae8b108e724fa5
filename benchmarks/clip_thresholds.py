"""What the filter's CLIP thresholds do under several CLIPs, against the quickstart's planted truth.

    python -m benchmarks.clip_thresholds [--data data] [--out FILE]

Needs a quickstart that has run as far as `filter`. The other CLIPs are made of its own vectors: `shifted` adds one
direction to images and classes, which moves all cosines up, as those of large models are; `48 dimensions` keeps the
first principal components of the images; `noisy` adds noise to the images. Counted are the pictures that reach the two
rules. A clean pool are those of them whose kind is `clean`: there the percentiles are its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.embed.embedding import read_embeddings
from stages.embed.scoring import Scores, class_embeddings, score
from webdistill.core.files import write_json
from webdistill.harness.params import load
from webdistill.models import clip

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]
NUMBERS = (0.02, -0.05)
SETTINGS = ("numbers", (25, 35), (30, 40), (40, 50), (50, 53))
REACHED = ("kept", "low_score", "low_margin", "duplicate")


def unit(vectors: Doubles) -> Doubles:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def variants(images: Doubles, texts: Doubles) -> dict[str, tuple[Doubles, Doubles]]:
    """CLIP -> unit vectors of the images [N, d] and of the classes [K, d]."""
    added = 0.6 * unit(np.random.default_rng(1).normal(size=(1, images.shape[1])))
    axes = np.linalg.svd(images[::10] - images.mean(0), full_matrices=False)[2][:48].T
    noise = 0.06 * np.random.default_rng(2).normal(size=images.shape)
    return {
        "quickstart": (images, texts),
        "shifted": (unit(images + added), unit(texts + added)),
        "48 dimensions": (unit(images @ axes), unit(texts @ axes)),
        "noisy": (unit(images + noise), texts),
    }


def dropped(found: Scores, pool: Mask, setting: str | tuple[int, int]) -> Mask:
    """[N] below one of the two thresholds, which are numbers, or percentiles of `pool`."""
    least = NUMBERS
    if not isinstance(setting, str):
        pairs = zip(found.other, setting, strict=True)
        least = tuple(float(np.percentile(values[pool], share)) for values, share in pairs)
    return np.asarray((found.score < least[0]) | (found.margin < least[1]))


def read(data: Path) -> tuple[list[str], Mask, Mask, NDArray[np.str_]]:
    """-> ids of the pool, whether the keyword is right, whether a picture reaches the rules, its kind."""
    truth = {
        row["row"]: row for row in pq.read_table(data / "quickstart/truth.parquet").to_pylist()
    }
    ledger = pq.read_table(data / "fetch/ledger.parquet", columns=["row", "id", "status"])
    rows = {r["id"]: truth[r["row"]] for r in ledger.to_pylist() if r["status"] == "ok"}
    reasons = dict(
        zip(*pq.read_table(data / "filter/dropped.parquet", columns=["id", "reason"]), strict=True)
    )
    reasons = {name.as_py(): why.as_py() for name, why in reasons.items()}
    ids = pq.read_table(data / "embed/scores.parquet")["id"].to_pylist()
    return (
        ids,
        np.array([rows[name]["keyword_right"] for name in ids]),
        np.array([reasons.get(name, "kept") in REACHED for name in ids]),
        np.array([rows[name]["kind"] for name in ids]),
    )


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, help="the table as JSON")
    chosen = parser.parse_args(given)
    settings = load(Path("params.yaml"))
    ids, right, reached, kind = read(chosen.data)
    model = clip.load(f"local-dir:{chosen.data / 'quickstart/clip'}", None, precision="float32")
    texts = class_embeddings(model, settings.task.classes, settings.raw["embed"]["templates"])
    shards = sorted((chosen.data / "embed/embeddings").glob("*.parquet"))
    images = np.concatenate([read_embeddings(path) for path in shards])
    query = pq.read_table(chosen.data / "embed/scores.parquet")["query_class"].to_numpy()
    wrong, fine, clean = reached & ~right, reached & right, reached & (kind == "clean")
    table = []
    print("| CLIP | thresholds | junk found | false alarms | kept of a clean pool |")
    print("|---|---|---:|---:|---:|")
    for name, vectors in variants(images, texts).items():
        found = score(ids, *vectors, query)
        for setting in SETTINGS:
            out, apart = dropped(found, reached, setting), dropped(found, clean, setting)
            told = setting if isinstance(setting, str) else f"{setting[0]}%, {setting[1]}%"
            figures = (out[wrong].mean(), out[fine].mean(), 1 - apart[clean].mean())
            table.append([name, told, *map(float, figures)])
            print(f"| {name} | {told} | {' | '.join(f'{100 * x:.1f}' for x in figures)} |")
    if chosen.out:
        write_json(table, chosen.out)


if __name__ == "__main__":
    main()
