"""The teacher applied to pool shards."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from webdistill.core.errors import UserError
from webdistill.core.files import read_table, sha256_file, write_table
from webdistill.engine.jobs import Facts, Function
from webdistill.images.pool import load_images
from webdistill.models.checkpoint import Card, Network, load_network
from webdistill.models.device import device_of

Halves = NDArray[np.float16]
PART_BYTES = 2**28  # decoded pixels in memory at a time


@dataclass(frozen=True)
class View:
    """Everything but the images that decides the scores."""

    teacher_sha256: str
    architecture: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: str
    batch_size: int

    def header(self) -> dict[str, str]:
        """As Parquet metadata. Without the batch size, which is no property of the scores."""
        facts = {key: value for key, value in asdict(self).items() if key != "batch_size"}
        return {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in facts.items()
        }

    def name(self, shard: Path) -> str:
        """Name of the finished work on a shard; changes with the view and the shard's bytes."""
        key = json.dumps([asdict(self), sha256_file(shard)], sort_keys=True)
        return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.parquet"


def check_card(
    card: Card, classes: Sequence[str], image_size: int, other_image_size: bool, path: str
) -> None:
    """Raises UserError when the teacher's classes or image size are not those of the task."""
    for index, (ours, theirs) in enumerate(zip(classes, card.classes, strict=False)):
        if ours != theirs:
            raise UserError(
                f"class {index} is '{ours}' in task.classes and '{theirs}' in the card of {path}; "
                "task.classes must repeat the card's list in its order"
            )
    if len(classes) != len(card.classes):
        ours_longer = len(classes) > len(card.classes)
        where = "task.classes" if ours_longer else "the card"
        extra = classes[len(card.classes)] if ours_longer else card.classes[len(classes)]
        raise UserError(
            f"task.classes has {len(classes)} classes, the card of {path} {len(card.classes)}: "
            f"only {where} has '{extra}'; task.classes must repeat the card's list in its order"
        )
    if card.image_size != image_size and not other_image_size:
        raise UserError(
            f"task.image_size is {image_size}, the teacher {path} was trained at {card.image_size} "
            f"px; set task.image_size: {card.image_size}, or score.other_image_size: true if the "
            "difference is meant"
        )


@torch.no_grad()
def forward(
    network: Network, view: View, images: NDArray[np.uint8]
) -> Iterator[tuple[Halves, Halves]]:
    """Logits [b, K] and penultimate features [b, d] of uint8 images [n, s, s, 3], batch by batch.

    The last batch is filled up with copies: every image meets the same shapes, hence the same
    kernels and the same rounding, wherever it stands. The network is used in eval mode, on the
    device its weights are on.
    """
    device = device_of(network.net)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (view.mean, view.std))
    network.net.eval()
    for start in range(0, len(images), view.batch_size):
        batch = images[start : start + view.batch_size]
        rows = np.minimum(np.arange(view.batch_size), len(batch) - 1)
        pixels = torch.from_numpy(batch[rows]).to(device).permute(0, 3, 1, 2)  # a view, no copy
        x = ((pixels.float() / 255.0 - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=view.precision == "bfloat16"):
            maps = network.net.features(x)
        features = network.net.pool(maps.float())
        logits = network.net.answer(features)
        one, two = (t[: len(batch)].half().cpu().numpy() for t in (logits, features))
        yield one, two


def scorer(facts: Facts) -> Function:
    """The same on another machine. Raises UserError when the teacher is another one there."""
    torch.set_num_threads(facts["threads"])
    network = load_network(Path(facts["teacher"]))
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in facts["view"].items()
    }
    view = View(**values)
    if network.card.sha256 != view.teacher_sha256:
        raise UserError(
            f"task.teacher = {facts['teacher']} is another network on {socket.gethostname()}; copy the teacher there"
        )
    network.net.to(facts["device"])
    return partial(score_shard, network, view, 1)


def score_shard(
    network: Network, view: View, workers: int, shard: Path, target: Path
) -> Iterator[int]:
    """Score one pool shard into the file `target`; yields images done.

    Raises UserError naming an image whose scores do not fit float16 (no number, or beyond 65504).
    """
    ids: list[str] = read_table(shard, ["id"])["id"].to_pylist()
    batches = max(1, PART_BYTES // (3 * view.image_size**2 * view.batch_size))
    part = batches * view.batch_size
    logits, features = [], []
    for start in range(0, len(ids), part):
        names = ids[start : start + part]
        images = load_images(shard, names, view.image_size, workers)[1]
        done = 0
        for one, two in forward(network, view, images):
            finite = np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1)
            if not finite.all():
                raise UserError(
                    f"the teacher's output for image {names[done + int(finite.argmin())]} is not "
                    "finite in float16; check the teacher's weights and the mean and std of its "
                    "card, or try score.precision: float32"
                )
            logits.append(one)
            features.append(two)
            done += len(one)
            yield len(one)
    write_table(table(ids, np.concatenate(logits), np.concatenate(features)), target, view.header())


def table(ids: Sequence[str], logits: Halves, features: Halves) -> pa.Table:
    """id, logits fixed_size_list<float16, K>, features fixed_size_list<float16, d>."""
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        for name, values in (("logits", logits), ("features", features))
    }
    return pa.table({"id": pa.array(ids, pa.string()), **columns})


class Figures:
    """Sums over shards for the metrics, so that no more than one shard is in memory."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros(classes, dtype=np.int64)
        self.confidence = 0.0
        self.entropy = 0.0

    def add(self, path: Path) -> None:
        """Take in one finished shard."""
        flat = read_table(path, ["logits"])["logits"].combine_chunks().flatten()
        z = flat.to_numpy(zero_copy_only=False).reshape(-1, len(self.counts)).astype(np.float64)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        self.counts += np.bincount(z.argmax(axis=1), minlength=len(self.counts))
        self.confidence += float(p.max(axis=1).sum())
        self.entropy -= float((p * np.log(np.maximum(p, 1e-300))).sum())

    def metrics(self) -> dict[str, float]:
        """Means over the pool; entropy in nats."""
        images = int(self.counts.sum())
        sums = {
            "mean_confidence": self.confidence,
            "mean_entropy": self.entropy,
            "largest_class_share": float(self.counts.max()),
            "smallest_class_share": float(self.counts.min()),
        }
        return {"images": images} | {k: round(v / images, 6) for k, v in sums.items() if images}
