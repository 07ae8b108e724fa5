"""What it is worth to keep the memory that tensors free (webdistill/models/memory.py), on a processor.

    python -m benchmarks.kept_memory [--network torchvision:mobilenet_v2] [--size 96] [--repetitions 5]

Forward passes in batches of 32 to 256, as `score` and the teacher of `distill` make them, and a training step of 32.
Two processes, with and without, take turns; processor time of one thread. Prints images/s (medians), their ratio, the
pages that the kernel had to clear for a batch, and each process's peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

BATCHES = (32, 64, 128, 256)
WAYS = ("default", "kept")


def child(way: str, network: str, size: int) -> None:
    """A line of JSON for every line that is read: case -> images/s and pages of one pass; peak memory in MiB."""
    import resource
    import time

    import torch

    from webdistill.models.memory import keep_freed_memory
    from webdistill.models.zoo import build

    if way == "kept":
        keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = build(network, 10, size).to(memory_format=torch.channels_last)
    images = {
        count: torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)
        for count in BATCHES
    }

    def forward(count: int) -> None:
        with torch.no_grad():
            net.eval()(images[count])

    def step(count: int) -> None:
        net.train().zero_grad()
        net(images[count]).square().mean().backward()

    cases = {f"forward, {count}": (forward, count) for count in BATCHES} | {"step, 32": (step, 32)}
    for function, count in cases.values():
        function(count)
    for _ in sys.stdin:
        found = {}
        for name, (function, count) in cases.items():
            pages, begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
            function(count)
            seconds = time.process_time() - begun
            new = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages
            found[name] = {"rate": count / seconds, "pages": new}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"cases": found, "peak": peak}), flush=True)


def measure(network: str, size: int, repetitions: int) -> dict[str, list[dict[str, Any]]]:
    """By way: what its process said, once a repetition."""
    program = [sys.executable, "-m", "benchmarks.kept_memory"]
    command = [*program, "--network", network, "--size", str(size), "--child"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    children = {
        way: subprocess.Popen(
            [*command, way],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for way in WAYS
    }  # fmt: skip
    said: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(repetitions):
        for way, process in children.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            said[way].append(json.loads(process.stdout.readline()))
    for process in children.values():
        process.communicate()
    return said


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="torchvision:mobilenet_v2", help="as distill.student")
    parser.add_argument("--size", type=int, default=96, help="of the images, in px")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.network, arguments.size)
        return 0
    said = measure(arguments.network, arguments.size, arguments.repetitions)
    print(f"{arguments.network} at {arguments.size} px, load {os.getloadavg()[0]:.1f}")
    print("| case | img/s, default | img/s, kept | ratio | pages, default | pages, kept |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in said["kept"][0]["cases"]:
        rates, pages = (
            [statistics.median(one["cases"][case][what] for one in said[way]) for way in WAYS]
            for what in ("rate", "pages")
        )
        print(
            f"| {case} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[1] / rates[0]:.2f} "
            f"| {pages[0]:,.0f} | {pages[1]:,.0f} |"
        )
    peaks = [max(one["peak"] for one in said[way]) for way in WAYS]
    print(f"\npeak memory: {peaks[0]:,.0f} MiB by default, {peaks[1]:,.0f} MiB kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
