"""Trains the quickstart's teacher on CIFAR-10 train images 0-39,999, which then count as lost.

    python -m pipelines.quickstart_data.teacher

Writes data/quickstart/teacher/ (weights in float16, and their card). The last epoch is kept; the test images
are looked at once, after it, with the weights as they are stored.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from pipelines.quickstart_data.classes import CLASSES
from webdistill.harness.params import read_yaml
from webdistill.models.checkpoint import save_network
from webdistill.models.classifier import Classifier
from webdistill.models.cost import parameters
from webdistill.models.zoo import build

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "data" / "quickstart" / "teacher"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def normalise(images: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W], normalised, channels_last."""
    x = images.permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def crop_and_flip(x: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Per image: a random crop of the reflect-padded image and a coin-flip mirror, as one gather."""
    count, _, height, width = x.shape
    padded = F.pad(x, (pad,) * 4, mode="reflect")
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    flip = torch.randint(0, 2, (count, 1), generator=generator).bool()
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(flip, width - 1 - columns, columns) + left
    rows = torch.arange(height).expand(count, height) + top
    index = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).view(count, 1, -1)
    flat = padded.flatten(2).gather(2, index.expand(-1, 3, -1))
    return flat.view(x.shape).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(net: Classifier, images: Tensor, labels: Tensor) -> float:
    net.eval()
    hits = 0
    for start in range(0, len(images), 500):
        logits = net(normalise(images[start : start + 500]))
        hits += int((logits.argmax(1) == labels[start : start + 500]).sum())
    return hits / len(images)


def train(settings: dict, images: Tensor, labels: Tensor) -> Classifier:
    """SGD with Nesterov momentum, linear warm-up, cosine decay, bfloat16 autocast."""
    torch.manual_seed(settings["seed"])
    generator = torch.Generator().manual_seed(settings["seed"])
    net = build(settings["architecture"], len(CLASSES)).to(memory_format=torch.channels_last)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim == 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": plain}],
        lr=settings["lr"],
        momentum=0.9,
        nesterov=True,
    )
    batch, epochs = settings["batch_size"], settings["epochs"]
    steps, warm = (
        epochs * (len(images) // batch),
        settings["warmup_epochs"] * (len(images) // batch),
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: (
            (s + 1) / warm
            if s < warm
            else (1 + math.cos(math.pi * (s - warm) / (steps - warm))) / 2
        ),
    )
    started = time.monotonic()
    for epoch in range(epochs):
        net.train()
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        for index in order[: len(order) // batch * batch].split(batch):
            x = crop_and_flip(normalise(images[index]), generator)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(x)
            loss = F.cross_entropy(logits.float(), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            scheduler.step()
            total += loss.item()
        minutes = (time.monotonic() - started) / 60
        print(
            f"epoch {epoch + 1}/{epochs}: loss {total / (len(order) // batch):.4f}, {minutes:.1f} min",
            file=sys.stderr,
            flush=True,
        )
    return net


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = read_yaml(HERE / "params.yaml")["teacher"]
    data = load_file(HERE / "work" / "cifar10.safetensors")
    lost = slice(0, 40_000)
    labels = data["train_labels"].long()
    net = train(params, data["train_images"][lost], labels[lost])
    net = net.half().float()  # what will be stored
    measured = accuracy(net, data["test_images"], data["test_labels"].long())
    card = {
        "name": f"quickstart {params['architecture']}",
        "architecture": params["architecture"],
        "classes": CLASSES,
        "image_size": 32,
        "mean": MEAN,
        "std": STD,
        "parameters": parameters(net),
        "trained_on": "CIFAR-10 train images 0-39,999",
        "test_accuracy": round(measured, 4),
        "licence": "Apache-2.0",
    }
    save_network(OUT, net.half(), card)
    print(f"test accuracy {measured:.4f}")


if __name__ == "__main__":
    main()
