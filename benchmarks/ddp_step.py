"""python -m benchmarks.ddp_step: a training step of one process beside the same step shared by several.

Every layout (processes x threads of each) is a set of processes of its own; they train epochs of a few steps in turns,
so that whatever else the machine does falls upon all. The batch is that of all processes together, and the student is
the same but for rounding. The teacher's answers are there, as after the first epochs. Teacher and images are random.

Processor seconds are those of all processes of a layout: what sharing costs in work, whoever else is on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.method_steps import METHODS, make_run

ROOT = Path(__file__).resolve().parents[1]
Seconds = dict[
    str, dict[str, list[tuple[float, float]]]
]  # method -> layout -> what `Layout.epoch` gave, by rounds
LAYOUTS = ("1x1", "1x2", "2x1")  # processes x threads; the first is what others are compared with


class Layout:
    """The processes of one layout, which train an epoch whenever they are told to."""

    def __init__(self, name: str, method: str, chosen: argparse.Namespace, folder: Path) -> None:
        count, threads = map(int, name.split("x"))
        folder.mkdir()
        words = [
            f"--{key}={getattr(chosen, key)}" for key in ("teacher", "student", "batch", "steps")
        ]
        common = [sys.executable, "-m", "benchmarks.ddp_step", *words, "--methods", method]
        self.processes = [
            subprocess.Popen(
                [*common, "--join", str(folder), str(rank), str(count), str(threads)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
            for rank in range(count)
        ]  # fmt: skip

    def epoch(self) -> tuple[float, float]:
        """-> seconds of a step: of the slowest process, and of the processor for all together"""
        for each in self.processes:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        told = [each.stdout.readline() for each in self.processes if each.stdout is not None]
        if not all(told):
            raise SystemExit("a process has ended early; its message is above")
        walls, works = zip(*(map(float, line.split()) for line in told), strict=True)
        return max(walls), sum(works)

    def close(self) -> None:
        for each in self.processes:
            each.communicate()


def join(chosen: argparse.Namespace) -> None:
    """Be one process of a layout: train an epoch per line of the input, and tell its seconds of a step."""
    import torch

    from stages.distill.group import joined
    from webdistill.core import determinism

    folder, rank, count, threads = Path(chosen.join[0]), *map(int, chosen.join[1:])
    determinism.prepare(threads, 0)
    torch.set_num_threads(threads)
    run = make_run(chosen.methods[0], chosen, chosen.steps)

    def work() -> None:
        for number, _ in enumerate(sys.stdin):
            begun = time.perf_counter(), time.process_time()
            list(run.epoch(number))
            ended = time.perf_counter(), time.process_time()
            print(*((b - a) / chosen.steps for a, b in zip(begun, ended, strict=True)), flush=True)

    if count == 1:
        work()
    else:
        with joined(rank, count, folder, run.device):
            work()


def measure(chosen: argparse.Namespace) -> Seconds:
    """Trains all methods in all layouts."""
    seconds: Seconds = {}
    for method in chosen.methods:
        with tempfile.TemporaryDirectory() as name:
            layouts = {
                each: Layout(each, method, chosen, Path(name) / each) for each in chosen.layouts
            }
            found: dict[str, list[tuple[float, float]]] = {each: [] for each in layouts}
            for number in range(chosen.repeat + 1):
                for each, layout in layouts.items():
                    took = layout.epoch()
                    if number:  # the first round warms up
                        found[each].append(took)
            for layout in layouts.values():
                layout.close()
        seconds[method] = found
    return seconds


def table(seconds: Seconds) -> str:
    """Markdown: ratios to the first layout of the method, median of the rounds, lowest and highest."""
    lines = [
        "| method | processes x threads | times as fast | lowest - highest | processor time / the first's |",
        "|---|---|---:|---:|---:|",
    ]
    for method, layouts in seconds.items():
        first = next(iter(layouts.values()))
        for name, own in layouts.items():
            fast = [a[0] / b[0] for a, b in zip(first, own, strict=True)]
            work = statistics.median(b[1] / a[1] for a, b in zip(first, own, strict=True))
            span = f"{min(fast):.2f} - {max(fast):.2f}"
            row = (
                method,
                name.replace("x", " x "),
                f"{statistics.median(fast):.2f}",
                span,
                f"{work:.2f}",
            )
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ddp_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--methods", nargs="+", default=["kd", "simkd", "kd3"], choices=METHODS)
    add("--layouts", nargs="+", default=list(LAYOUTS), metavar="PROCESSESxTHREADS")
    add("--teacher", default="wrn-16-2")
    add("--student", default="wrn-16-1")
    add("--batch", type=int, default=64, help="images of all processes together")
    add("--steps", type=int, default=8, help="of an epoch that is timed")
    add("--repeat", type=int, default=7, help="rounds")
    add("--out", type=Path, metavar="FILE", help="JSON file for every figure")
    add("--join", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    if chosen.join:
        join(chosen)
        return 0
    load = os.getloadavg()[0]
    seconds = measure(chosen)
    print(f"{chosen.teacher} -> {chosen.student}, batch {chosen.batch}")
    print(f"(load average before the run: {load:.2f})\n")
    print(table(seconds))
    if chosen.out:
        facts = {key: value for key, value in vars(chosen).items() if key not in ("out", "join")}
        report = {"setting": facts, "load_before": load, "seconds_per_step": seconds}
        chosen.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
