"""python -m benchmarks.method_steps: a training step of every method, beside a step of its networks alone.

Epochs of a few steps, of all methods and their bounds in turns within one process. The teacher's answers are there, as
after the first epochs, and an epoch is one pass over the pool, so that choosing images anew has its share. The bound of
a method is forward and backward pass of its student, projector included where it has one, on one batch that lies in
memory, with a plain squared error, and its optimiser: no views, no losses of the method, no figures. KD3's also has the
passes of its perturbed images and of its choices, DAFL's those of its generator and, forward and backward, of the
teacher. Teacher and images are random: they do not change the cost. The other methods that make images have no bound.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SIZE, CLASSES = 32, 10
PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
METHODS = ("kd", "dfnd", "simkd", "kd3", "odsd", "mosaic", "dafl")
BOUNDED = ("kd", "simkd", "kd3", "dafl")


def make_run(method: str, chosen: argparse.Namespace, steps: int) -> Any:
    """A run whose views the teacher has answered."""
    import torch
    from ruamel.yaml import YAML

    from benchmarks.variants import make_teacher, make_views
    from stages.distill.loop import Run
    from stages.distill.methods import build as build_method
    from stages.distill.params import Distill
    from webdistill.models.zoo import build

    torch.manual_seed(0)
    given = YAML(typ="safe").load(PARAMS)["distill"]
    changes = {
        "method": method, "student": chosen.student, "batch_size": chosen.batch, "views": 2,
        "steps_per_epoch": steps, "epochs": 10_000, "holdout": 0.0,
    }  # fmt: skip
    settings = Distill.model_validate(given | changes)
    pool = torch.randint(0, 256, (steps * chosen.batch, SIZE, SIZE, 3), dtype=torch.uint8)
    teacher = make_teacher(chosen.teacher, pool, settings)
    teacher.to(memory_format=torch.channels_last)
    built = build_method(settings, build(chosen.student, CLASSES), teacher, SIZE)
    built.to(memory_format=torch.channels_last)
    run = Run(
        settings=settings, seed=0, views=make_views(pool, settings), teacher=teacher, method=built,
        weight=torch.ones(len(pool)), ids=[str(at) for at in range(len(pool))],
        classes=tuple(map(str, range(CLASSES))),
    )  # fmt: skip
    for view in range(settings.views):
        for rows in torch.arange(len(pool)).split(chosen.batch):
            run.feed.answers(view, rows, run.views(view, rows))
    return run


def dafl_bound(run: Any, steps: int) -> Callable[[], None]:
    """`bound_of` for DAFL, whose teacher passes gradients to the images."""
    import numpy as np
    import torch

    from stages.distill.methods.synthesis import normal

    method, size = run.method, run.settings.batch_size
    latent = run.settings.dafl.latent
    noise = normal(size, latent, np.random.default_rng(0), torch.device("cpu"))

    def epoch() -> None:
        method.train()
        for _ in range(steps):
            with run.forward.autocast():
                images = method.generator(noise)
                parts = run.teacher(images).float(), method.net(images.detach()).float()
                loss = sum(part.square().mean() for part in parts)
            run.descent.step(loss)

    return epoch


def bound_of(run: Any, steps: int) -> Callable[[], None]:
    """An epoch of the networks alone: what no loop can beat."""
    import torch

    from webdistill.models.projected import Projected

    if run.settings.method == "dafl":
        return dafl_bound(run, steps)
    net, descent, size = run.method.student(), run.descent, run.settings.batch_size
    kd3 = run.settings.kd3 if run.settings.method == "kd3" else None
    numbers = itertools.count()
    images = run.views(0, torch.arange(size))
    with torch.no_grad(), run.forward.autocast():
        target = (net.features if isinstance(net, Projected) else net)(images).float() + 1

    def epoch() -> None:
        if kd3 is not None and next(numbers) % kd3.reselect_every == 0:
            run.forward.look(net)
        net.train()
        for _ in range(steps):
            with run.forward.autocast():
                found = (net.features if isinstance(net, Projected) else net)(images)
                loss = (found.float() - target).square().mean()
                if kd3 is not None:
                    part = images[: round(kd3.contrast_share * size)]
                    loss = loss + net.backbone.features(part).float().square().mean()
            descent.step(loss)

    return epoch


def measure(chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a step, one figure a round."""
    import torch

    torch.set_num_threads(chosen.threads)
    clock = time.process_time if chosen.processor_time else time.perf_counter
    epochs: dict[str, Callable[[int], object]] = {}
    for method in chosen.methods:
        run = make_run(method, chosen, chosen.steps)
        epochs[method] = lambda number, run=run: list(run.epoch(number))
        if method in BOUNDED:
            alone = bound_of(make_run(method, chosen, chosen.steps), chosen.steps)
            epochs[f"{method}: networks alone"] = lambda _, alone=alone: alone()
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(chosen.repeat + 1):
        for name, epoch in epochs.items():
            begun = clock()
            epoch(number)
            if number:  # the first round warms up
                seconds[name].append((clock() - begun) / chosen.steps)
    return seconds


def ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """one / other: of all rounds together, as not every epoch costs the same; lowest and highest of a round."""
    found = [a / b for a, b in zip(one, other, strict=True)]
    return sum(one) / sum(other), min(found), max(found)


def table(seconds: dict[str, list[float]], first: str) -> str:
    """Markdown: each method's step as a multiple of the first's, and of its networks alone."""
    lines = [
        f"| method | step / step of {first} | lowest - highest | networks alone / step |",
        "|---|---:|---:|---:|",
    ]
    for name, own in seconds.items():
        if ":" in name:
            continue
        all_rounds, low, high = ratio(own, seconds[first])
        bound = seconds.get(f"{name}: networks alone")
        share = f"{ratio(bound, own)[0]:.0%}" if bound else ""
        lines.append(f"| {name} | {all_rounds:.2f} | {low:.2f} - {high:.2f} | {share} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.method_steps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    add("--teacher", default="wrn-16-2")
    add("--student", default="wrn-16-1")
    add("--batch", type=int, default=32)
    add("--steps", type=int, default=10, help="of an epoch that is timed")
    add("--repeat", type=int, default=9, help="rounds")
    add("--threads", type=int, default=2)
    add("--processor-time", action="store_true", help="instead of time: for a busy machine")
    add("--out", type=Path, metavar="FILE", help="JSON file for every figure")
    chosen = parser.parse_args(argv)
    load = os.getloadavg()[0]
    seconds = measure(chosen)
    print(f"{chosen.teacher} -> {chosen.student}, batch {chosen.batch}, {chosen.threads} threads")
    print(f"(load average before the run: {load:.2f})\n")
    print(table(seconds, chosen.methods[0]))
    if chosen.out:
        facts = {key: value for key, value in vars(chosen).items() if key != "out"}
        report = {"setting": facts, "load_before": load, "seconds_per_step": seconds}
        chosen.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
