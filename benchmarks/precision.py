"""bfloat16 beside float32 on this processor: which one `precision: auto` should take.

    python -m benchmarks.precision [--seconds 3] [--repetitions 3] [--threads 2]

Images/s of networks in both precisions, which take turns: forward passes as of a teacher, and training steps (forward
and backward) as of a student. Prints medians and the ratio bfloat16 : float32 beside the processor's instructions.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from webdistill.engine.machine import arithmetic
from webdistill.models.classifier import Classifier
from webdistill.models.zoo import build

BATCH, WARM_UP = 32, 2
NETWORKS = (
    ("wrn-16-1", 32), ("wrn-16-2", 32), ("resnet18", 32), ("torchvision:resnet18", 128),
    ("torchvision:shufflenet_v2_x0_5", 96), ("mobilenetv3-small", 96),
)  # fmt: skip


def work(net: Classifier, images: Tensor, *, bfloat16: bool) -> Callable[[], None]:
    """A training step where `net` is in train mode, else a forward pass."""

    def once() -> None:
        with (
            torch.set_grad_enabled(net.training),
            torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
        ):
            loss = net(images).float().square().mean()
        if net.training:
            net.zero_grad()
            loss.backward()

    return once


def rate(once: Callable[[], None], seconds: float) -> float:
    """-> images/s"""
    for _ in range(WARM_UP):
        once()
    begun, done = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        once()
        done += BATCH
    return done / (time.monotonic() - begun)


def compare(net: Classifier, images: Tensor, seconds: float, repetitions: int) -> dict[bool, float]:
    """-> images/s without and with bfloat16, medians"""
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repetitions):
        for bfloat16, rates in found.items():
            rates.append(rate(work(net, images, bfloat16=bfloat16), seconds))
    return {bfloat16: statistics.median(rates) for bfloat16, rates in found.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of every measurement")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", type=int, default=len(NETWORKS), help="the first so many")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"{arithmetic('cpu')}, {arguments.threads} threads, batches of {BATCH}")
    print("| network, px | work | float32, img/s | bfloat16, img/s | bfloat16 : float32 |")
    print("|---|---|---|---|---|")
    for name, size in NETWORKS[: arguments.networks]:
        net = build(name, 10, size).to(memory_format=torch.channels_last)
        images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
        for training in (False, True):
            rates = compare(net.train(training), images, arguments.seconds, arguments.repetitions)
            print(
                f"| {name}, {size} | {'training step' if training else 'forward pass'} "
                f"| {rates[False]:.0f} | {rates[True]:.0f} | {rates[True] / rates[False]:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
