"""python -m benchmarks.kdci_step: what de-confounding adds to training with a host method, in time and memory.

Epochs of a few steps are timed in pairs, with the plug-in and without, in turns within one process; memory is the peak
of two further processes, one of each kind. Teacher and images are random: they do not change the cost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIZE, CLASSES = 32, 10
PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"


def make_run(setting: dict[str, Any], prototypes: int) -> Any:
    """A run of the host with so many prototypes; 0: without the plug-in."""
    import torch
    from ruamel.yaml import YAML

    from benchmarks.variants import make_teacher, make_views
    from stages.distill.deconfound import Dictionary, attach
    from stages.distill.loop import Run
    from stages.distill.methods import build as build_method
    from stages.distill.params import Distill
    from webdistill.models.zoo import build

    torch.manual_seed(0)
    given = YAML(typ="safe").load(PARAMS)["distill"]
    changes = {
        "method": setting["host"], "student": setting["student"], "batch_size": setting["batch"],
        "views": 0, "steps_per_epoch": setting["steps"], "epochs": 10_000, "lr": 0.01,
    }  # fmt: skip
    settings = Distill.model_validate(given | changes)
    pool = torch.randint(0, 256, (4 * setting["batch"], SIZE, SIZE, 3), dtype=torch.uint8)
    teacher = make_teacher(setting["teacher"], pool, settings)
    teacher.to(memory_format=torch.channels_last)
    method = build_method(settings, build(setting["student"], CLASSES), teacher, SIZE)
    if prototypes:
        width = teacher.fc.in_features
        dictionary = Dictionary(
            torch.rand(prototypes, width), torch.full((prototypes,), 1 / prototypes)
        )
        plug_in = settings.deconfound.model_copy(update={"attention": setting["attention"]})
        attach(method, plug_in, dictionary, width)
    method.to(memory_format=torch.channels_last)
    return Run(
        settings=settings, seed=0, views=make_views(pool, settings), teacher=teacher, method=method,
        weight=torch.ones(len(pool)), ids=[str(at) for at in range(len(pool))],
        classes=tuple(map(str, range(CLASSES))),
    )  # fmt: skip


def child(setting: dict[str, Any]) -> dict[str, Any]:
    """What one process measures: seconds of epochs by kind, or its peak memory with one kind alone."""
    import torch

    torch.set_num_threads(setting["threads"])
    runs = [make_run(setting, count) for count in setting["kinds"]]
    seconds: list[list[float]] = [[] for _ in runs]
    for epoch in range(setting["repeat"] + 1):
        for run, found in zip(runs, seconds, strict=True):
            begun = time.perf_counter()
            list(run.epoch(epoch))
            if epoch:  # the first pair warms up
                found.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak}


def ask(setting: dict[str, Any]) -> dict[str, Any]:
    """`child` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.kdci_step", "--child", json.dumps(setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {setting['host']} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(setting: dict[str, Any], count: int) -> dict[str, Any]:
    """One row: overhead in time (median, lowest, highest of the pairs) and in memory."""
    without, with_it = ask({**setting, "kinds": [0, count]})["seconds"]
    pairs = sorted(b / a - 1 for a, b in zip(without, with_it, strict=True))
    memory = [ask({**setting, "kinds": [kind], "repeat": 1})["peak_mib"] for kind in (0, count)]
    return {
        "host": setting["host"],
        "student": setting["student"],
        "attention": setting["attention"],
        "prototypes": count,
        "overhead": statistics.median(pairs),
        "lowest": pairs[0],
        "highest": pairs[-1],
        "seconds_without": without,
        "seconds_with": with_it,
        "peak_mib_without": memory[0],
        "peak_mib_with": memory[1],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| host | student | attention | prototypes | time, % | lowest - highest | peak memory, % |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        memory = row["peak_mib_with"] / row["peak_mib_without"] - 1
        lines.append(
            f"| {row['host']} | {row['student']} | {row['attention']} | {row['prototypes']} "
            f"| {100 * row['overhead']:+.1f} | {100 * row['lowest']:+.1f} - {100 * row['highest']:+.1f} "
            f"| {100 * memory:+.1f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kdci_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hosts", nargs="+", default=["kd", "dfnd", "kd3"])
    parser.add_argument("--students", nargs="+", default=["resnet8"])
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--attention", nargs="+", default=["additive"], choices=["additive", "dot"])
    parser.add_argument("--prototypes", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="of an epoch that is timed")
    parser.add_argument("--repeat", type=int, default=9, help="pairs of epochs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file for every figure")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child is not None:
        print(json.dumps(child(arguments.child)))
        return 0
    rows = []
    every = itertools.product(
        arguments.hosts, arguments.students, arguments.attention, arguments.prototypes
    )
    for host, student, attention, count in every:
        setting = {
            "host": host, "student": student, "attention": attention, "teacher": arguments.teacher,
            "batch": arguments.batch, "steps": arguments.steps, "repeat": arguments.repeat,
            "threads": arguments.threads,
        }  # fmt: skip
        rows.append(measure(setting, count))
        print(f"{host}, {student}, {attention}, {count}: done", file=sys.stderr, flush=True)
    print(table(rows))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
