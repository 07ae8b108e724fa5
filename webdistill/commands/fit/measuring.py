"""Look at a sample of the pool, and at test images beside it where there are any."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webdistill.commands.fit import formulas
from webdistill.commands.fit.formulas import Doubles, Numbers
from webdistill.commands.fit.ledger import Ledger, read_ledger
from webdistill.commands.fit.teacher import Layer, ask
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, shards
from webdistill.harness.progress import progress
from webdistill.images.copies import find_pairs, groups
from webdistill.images.pool import load_images
from webdistill.models.checkpoint import Network

SURE = 0.9  # probability from which on the teacher counts as sure
FEWEST = 30  # images below which nothing is said
SIDE = 32  # px of the thumbnails that near-duplicates are looked for in, as in stages/filter
NEVER = 1.0  # a similarity above it: filter.duplicate_similarity switches the search off
USUAL = 0.88  # then this one counts


@dataclass(frozen=True)
class Sources:
    """Where the stages' outputs are; what does not exist is left out of the answer."""

    pool: Path
    scores: Path
    ledger: Path
    test_images: Path | None

    @staticmethod
    def below(data: Path, test_images: Path | None) -> Sources:
        return Sources(
            pool=data / "fetch" / "pool",
            scores=data / "embed" / "scores.parquet",
            ledger=data / "fetch" / "ledger.parquet",
            test_images=test_images,
        )


@dataclass(frozen=True)
class Seen:
    """What the teacher makes of a set of images."""

    images: int
    labels: Numbers  # [N] the teacher's class
    top: Doubles  # [N] its probability
    counts: Numbers  # [K] images per class
    confidence: float
    sure: float
    entropy: float  # nats
    effective: float
    layers: tuple[Layer, ...]
    novelty: float
    gain: float

    def layer_mean(self, what: str) -> float | None:
        """Mean over the BatchNorm layers of `shift`, `log_ratio` or `divergence`; None without such layers."""
        values = [getattr(layer, what) for layer in self.layers]
        return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class Clip:
    """CLIP's class beside the teacher's: shares of equal ones. `per_class` [K]: of CLIP's images of k; NaN = none."""

    agreement: float
    per_class: Doubles


@dataclass(frozen=True)
class Measured:
    """All there is to say. None: the file for it is not there."""

    pool_images: int
    pool: Seen
    duplicates: float  # share of the sample that another image of the sample makes redundant
    clip: Clip | None
    ledger: Ledger | None
    test: Seen | None


def measure(
    network: Network, sources: Sources, size: int, count: int, similarity: float, threads: int
) -> Measured:
    """`count` images of `size` px; `similarity` from which on two images are one. Raises UserError without a pool."""
    everything = _ids(sources.pool)
    ids = sample(everything, count)
    if len(ids) < FEWEST:
        raise UserError(
            f"{sources.pool} holds {len(everything)} images; with fewer than {FEWEST} there is nothing to say"
        )
    images = load_images(sources.pool, ids, size, threads)[1]
    pool = see(network, images, "teacher, pool")
    threshold = similarity if similarity <= NEVER else USUAL
    small = images if size == SIDE else load_images(sources.pool, ids, SIDE, threads)[1]
    pairs = find_pairs(small, None, threshold, threads=threads)
    return Measured(
        pool_images=len(everything),
        pool=pool,
        duplicates=redundant(groups(pairs, len(ids))),
        clip=_clip(sources.scores, ids, pool.labels, len(network.card.classes)),
        ledger=read_ledger(sources.ledger) if sources.ledger.exists() else None,
        test=_test(network, sources.test_images, size, count, threads),
    )


def sample(ids: Iterable[str], count: int) -> list[str]:
    """The `count` ids with the smallest sha256, in its order: a fair sample that depends on the ids alone.

    A larger one contains it, and a growing pool changes it little.
    """
    return sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())[:count]


def redundant(first: NDArray[np.int64]) -> float:
    """Groups as `copies.groups` gives them [N] -> share of images beyond one per group."""
    return 1 - len(np.unique(first)) / len(first)


def see(network: Network, images: NDArray[np.uint8], label: str) -> Seen:
    """Images [N, S, S, 3] -> what the teacher makes of them."""
    answers = ask(network, images, _bar(label))
    p = formulas.softmax(answers.logits)
    top, labels = p.max(axis=1), p.argmax(axis=1).astype(np.int64)
    counts = np.bincount(labels, minlength=p.shape[1]).astype(np.int64)
    distance, gain = formulas.novelty(answers.features)
    return Seen(
        images=len(p),
        labels=labels,
        top=top,
        counts=counts,
        confidence=float(top.mean()),
        sure=float((top > SURE).mean()),
        entropy=float(formulas.entropy(p).mean()),
        effective=formulas.effective_classes(counts),
        layers=answers.layers,
        novelty=distance,
        gain=gain,
    )


def _bar(label: str) -> Callable[[Iterable[slice], int], Iterable[slice]]:
    def bar(parts: Iterable[slice], total: int) -> Iterable[slice]:
        return progress(
            parts, total=total, unit="img", label=label, size=lambda part: part.stop - part.start
        )

    return bar


def _ids(pool: Path) -> list[str]:
    if not pool.is_dir():
        raise UserError(f"{pool} does not exist; run `dvc repro fetch` or `dvc pull` first")
    parts = [read_table(shard, ["id"])["id"].to_pylist() for shard in shards(pool)]
    return [name for part in parts for name in part]


def _clip(scores: Path, ids: list[str], labels: Numbers, classes: int) -> Clip | None:
    if not scores.exists():
        return None
    table = read_table(scores, ["id", "clip_class"])
    known = dict(zip(table["id"].to_pylist(), table["clip_class"].to_pylist(), strict=True))
    if missing := next((name for name in ids if name not in known), None):
        raise UserError(
            f"image {missing} of the pool is not in {scores}; run `dvc repro embed` so that they match again"
        )
    share, per_class = formulas.agreement(
        labels, np.array([known[name] for name in ids], np.int64), classes
    )
    return Clip(share, per_class)


def _test(network: Network, file: Path | None, size: int, count: int, threads: int) -> Seen | None:
    """Half as many test images are enough for a reference; labels are never read."""
    if file is None or not file.is_file():
        return None
    ids = sample(dict.fromkeys(read_table(file, ["id"])["id"].to_pylist()), count // 2)
    if len(ids) < FEWEST:
        return None
    return see(network, load_images(file, ids, size, threads)[1], "teacher, test images")
