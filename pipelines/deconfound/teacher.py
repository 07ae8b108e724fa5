"""Trains the teacher of this study: half of Tiny-ImageNet's 200 classes, by lot, at 32 px.

    python -m pipelines.deconfound.teacher

Writes pipelines/deconfound/work/teacher/. Most epochs see smaller pictures, which costs a fraction of the time; the
last ones see the full size. The last epoch is kept; the validation images are looked at once, after it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipelines.quickstart_data.teacher import crop_and_flip
from pipelines.shared.program import run_study
from stages.distill.rate import rate_factor
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, remove
from webdistill.images.gate import decode
from webdistill.images.pool import square
from webdistill.models.checkpoint import save_network
from webdistill.models.classifier import Classifier
from webdistill.models.cost import parameters
from webdistill.models.zoo import build

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)  # of Tiny-ImageNet
SIZE, CLASSES = 32, 200
SHARDS = ("train-00", "train-01", "train-02")


def read_shards(source: Path, names: Sequence[str]) -> pa.Table:
    """Columns image, label, words of Tiny-ImageNet's shards. Raises UserError when they are not there."""
    folder = source / "tinyimagenet64"
    if not folder.is_dir():
        raise UserError(
            f"the folder of development data {folder.parent} holds no tinyimagenet64; "
            "name it as prepare.source in pipelines/deconfound/params.yaml"
        )
    columns = ["image", "label", "words"]
    return pa.concat_tables([read_table(folder / f"{name}.parquet", columns) for name in names])


def known_labels(seed: int) -> list[int]:
    """The labels that the teacher knows, in its order; the pool shows the others."""
    drawn = np.random.default_rng(seed).permutation(CLASSES)[: CLASSES // 2]
    return sorted(int(label) for label in drawn)


def of_classes(table: pa.Table, labels: Sequence[int]) -> pa.Table:
    """The rows with one of these labels."""
    return table.filter(pc.is_in(table["label"], pa.array(labels, table["label"].type)))


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(square(decode(data), SIZE))


def pixels(images: pa.ChunkedArray) -> Tensor:
    """Encoded pictures -> uint8 [N, 32, 32, 3], as the stages cut them."""
    with ProcessPoolExecutor(1) as workers:
        found = list(workers.map(_pixels, images.to_pylist(), chunksize=256))
    return torch.from_numpy(np.stack(found))


def normalise(images: Tensor, size: int = SIZE) -> Tensor:
    """uint8 [N, 32, 32, 3] -> float32 [N, 3, size, size], normalised, channels_last."""
    x = images.permute(0, 3, 1, 2).float() / 255
    if size != SIZE:
        x = F.interpolate(x, size=(size, size), mode="area")
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def answers(net: Classifier, images: Tensor) -> Tensor:
    """Logits [N, K] in float32."""
    net.eval()
    return torch.cat([net(normalise(part)) for part in images.split(500)])


def train(settings: Mapping[str, Any], images: Tensor, labels: Tensor) -> Classifier:
    """SGD with Nesterov momentum, warm-up and cosine decay over the epochs of all sizes, bfloat16 autocast."""
    torch.manual_seed(settings["seed"])
    generator = torch.Generator().manual_seed(settings["seed"])
    net = build(settings["architecture"], CLASSES // 2, SIZE)
    net.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        net.parameters(),
        lr=settings["lr"],
        momentum=0.9,
        nesterov=True,
        weight_decay=settings["weight_decay"],
    )
    sizes = [size for size, epochs in settings["sizes"] for _ in range(epochs)]
    batch, step = settings["batch_size"], 0
    per_epoch = len(images) // batch
    for epoch, size in enumerate(sizes):
        net.train()
        begun, total = time.monotonic(), torch.zeros(())
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: per_epoch * batch].split(batch):
            rate = rate_factor(step, len(sizes) * per_epoch, per_epoch // 2, "cosine")
            optimiser.param_groups[0]["lr"] = settings["lr"] * rate
            x = crop_and_flip(normalise(images[rows], size), generator, pad=size // 8)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(x)
            loss = F.cross_entropy(logits.float(), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach()
            step += 1
        told = f"{size} px, loss {float(total) / per_epoch:.3f}"
        seconds = time.monotonic() - begun
        print(f"epoch {epoch + 1}/{len(sizes)}: {told}, {seconds:.0f} s", file=sys.stderr)
    return net


def main(settings: Mapping[str, Any]) -> None:
    own, source = settings["teacher"], ROOT / settings["prepare"]["source"]
    torch.set_num_threads(1)
    known = known_labels(own["seed"])
    table = of_classes(read_shards(source, SHARDS), known)
    tests = of_classes(read_shards(source, ["val"]), known)
    place = {label: at for at, label in enumerate(known)}
    labels = torch.tensor([place[label] for label in table["label"].to_pylist()])
    net = train(own, pixels(table["image"]), labels)
    truth = torch.tensor([place[label] for label in tests["label"].to_pylist()])
    right = float((answers(net, pixels(tests["image"])).argmax(1) == truth).float().mean())
    card = {
        "name": f"half of Tiny-ImageNet, {own['architecture']}",
        "architecture": own["architecture"],
        "classes": settings["common"]["task"]["classes"],
        "image_size": SIZE,
        "mean": MEAN,
        "std": STD,
        "parameters": parameters(net),
        "trained_on": "Tiny-ImageNet training images of 100 classes",
        "test_accuracy": round(right, 4),
        "licence": "ImageNet terms of access: non-commercial research",
    }
    remove(HERE / "work" / "teacher")
    save_network(HERE / "work" / "teacher", net, card)
    print(f"accuracy on validation images {right:.4f}")


if __name__ == "__main__":
    run_study(main)
