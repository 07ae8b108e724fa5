"""Training beside a busy program: how its threads wait for each other, and how soon they get their turn.

    python -m benchmarks.busy_neighbour [--seconds 8] [--repetitions 3]

Steps of WRN-16-1 at 32 px (kd's forward and backward pass, bfloat16 where the processor has it) on two threads, alone
and beside one program that keeps a core busy. The ways, which take turns: OpenMP's own spinning; the short spins that
`webdistill.core.determinism` sets; these with the short turns that `webdistill.harness.slices` asks for. Prints
images/s, medians, and their ratios to OpenMP's own; and, once, what one thread does in both places.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from webdistill.core.determinism import SPINS
from webdistill.harness.slices import short_slices

BATCH, SIZE, WARM_UP = 64, 32, 5
SPIN = "while True: pass"
WAYS = ("OpenMP's own", "short spins", "short spins and turns")


def child(seconds: float, threads: int, way: str) -> float:
    """-> images/s of this process."""
    import time

    if way == WAYS[2]:
        short_slices()
    import torch
    from torch.nn import functional as F

    from webdistill.models.precision import low_precision
    from webdistill.models.zoo import build

    torch.set_num_threads(threads)
    net = build("wrn-16-1", 10).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    answers = torch.randn(BATCH, 10).softmax(1)
    bfloat16 = low_precision("auto", torch.device("cpu"))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(net(images).float(), answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for _ in range(WARM_UP):
        step()
    begun, done = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        step()
        done += BATCH
    return done / (time.monotonic() - begun)


def measure(seconds: float, threads: int, way: str, *, busy: bool) -> float:
    """Images/s of a fresh process."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))
    }
    environment["OMP_NUM_THREADS"] = str(threads)
    if way != WAYS[0]:
        environment["GOMP_SPINCOUNT"] = str(SPINS)
    neighbour = subprocess.Popen([sys.executable, "-c", SPIN]) if busy else None
    try:
        command = [sys.executable, "-m", "benchmarks.busy_neighbour", "--child"]
        done = subprocess.run(
            [*command, str(seconds), str(threads), way],
            env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
    finally:
        if neighbour is not None:
            neighbour.kill()
            neighbour.wait()
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of every measurement")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        seconds, threads, way = arguments.child
        print(child(float(seconds), int(threads), way))
        return 0
    for busy in (True, False):
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(arguments.repetitions):
            for way in WAYS:
                found[way].append(measure(arguments.seconds, 2, way, busy=busy))
        own = statistics.median(found[WAYS[0]])
        print("beside a busy program" if busy else "alone")
        for way, rates in found.items():
            middle = statistics.median(rates)
            print(
                f"  {way}: {middle:.0f} img/s ({min(rates):.0f} to {max(rates):.0f}), {middle / own:.2f}x"
            )
        one = measure(arguments.seconds, 1, WAYS[1], busy=busy)
        print(f"  one thread, short spins: {one:.0f} img/s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
