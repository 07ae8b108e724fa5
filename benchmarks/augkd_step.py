"""python -m benchmarks.augkd_step: what a step of AuG-KD's modules costs, beside a straightforward version of it.

All versions take their steps in turns within one process; memory is the peak of further processes, one for each.
Teacher, classes and images are random: they do not change the cost. Ratios are of the processor's seconds, which other
programs stretch less than the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from stages.distill.params import Distill
    from webdistill.models.classifier import Classifier

SIZE, CLASSES = 32, 10
POOL = 8  # batches that the pool holds
RATE = 0.01  # of the student's SGD; Adam's is the method's
PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
ROUND = 6  # steps of module 1: one of the generator, five of student and encoder
EPOCHS = (8, 2, 6)  # of the modules; the mix of pipelines/out_of_domain is near it: 36, 6, 24
AUGKD = {
    "latent": 256, "free_epochs": EPOCHS[0], "anchor_epochs": EPOCHS[1], "mixup": True, "a": 0.4,
    "b": 0.2, "mask_ratio": 0.25, "uncertainty": "energy", "teacher_weight": 0.5,
    "mask_start": None, "anchor_lr": 1e-4, "encoder_lr": 1e-3,
}  # fmt: skip
# module 3 twice: as long as mixtures differ from their images, and afterwards
MODULES = ("free", "anchor", "mixup", "images")
KINDS = {
    "generator": "1: generator",
    "student": "1: student and encoder",
    "anchor": "2: anchor",
    "mixup": "3: images and mixtures",
    "images": "3: mixtures are the images",
    "whole": "whole schedule, mean step",
}
VERSIONS = {
    "plain": "straightforward",
    "guarded": "straightforward, frozen weights without gradients",
    "float32": "the stage's loop in float32",
    "ours": "the stage's loop",
}
Begin = Callable[[str], Iterator[Any]]  # module -> its steps, each taken by `next`
Spent = tuple[float, float]  # seconds of the processor, and of the clock
Found = dict[str, dict[str, list[Spent]]]  # version -> kind -> rounds


def make(version: str, setting: dict[str, Any]) -> Begin:
    """Networks and data of a version; what it returns begins one of MODULES."""
    import torch
    from ruamel.yaml import YAML

    from benchmarks.variants import make_teacher
    from stages.distill.params import Distill
    from webdistill.models.zoo import build

    torch.manual_seed(0)
    given = YAML(typ="safe").load(PARAMS)["distill"]
    changes = {
        "method": "augkd", "student": setting["student"], "batch_size": setting["batch"], "lr": RATE,
        "epochs": sum(EPOCHS), "steps_per_epoch": 1000, "warmup_epochs": 0, "temperature": 10.0,
        "min_scale": 0.5, "mixup": 0.0, "views": 0, "device": "cpu", "augkd": AUGKD,
        "precision": "float32" if version == "float32" else "auto",
    }  # fmt: skip
    settings = Distill.model_validate(given | changes)
    count = POOL * setting["batch"]
    pool = torch.randint(0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8)
    networks = make_teacher(setting["teacher"], pool, settings), build(setting["student"], CLASSES)
    data = pool, torch.arange(count) % CLASSES
    if version in ("plain", "guarded"):
        return _plain(*networks, *data, settings, version == "guarded")
    return _ours(*networks, *data, settings)


def _ours(
    teacher: Classifier, student: Classifier, pool: Tensor, labels: Tensor, settings: Distill
) -> Begin:
    import torch

    from benchmarks.variants import make_views
    from stages.distill.loop import Run
    from stages.distill.methods import build as build_method

    method = build_method(settings, student, teacher, SIZE)
    for net in (teacher, method):
        net.to(memory_format=torch.channels_last)
    run = Run(
        settings=settings, seed=0, views=make_views(pool, settings), teacher=teacher, method=method,
        weight=torch.ones(len(pool)), ids=[str(at) for at in range(len(pool))],
        classes=tuple(map(str, range(CLASSES))), labels=labels,
    )  # fmt: skip
    free, anchor, mixup = EPOCHS
    epochs = (0, free, free + anchor, free + anchor + mixup - 1)
    return lambda module: run.epoch(dict(zip(MODULES, epochs, strict=True))[module])


def _plain(
    teacher: Classifier, student: Classifier, pool: Tensor, labels: Tensor, settings: Distill,
    guarded: bool,
) -> Begin:  # fmt: skip
    from benchmarks.naive_augkd import NaiveAugKd, Pictures, augmentation
    from benchmarks.plan import MEAN, STD

    augkd, batch = settings.augkd, settings.batch_size
    naive = NaiveAugKd(
        teacher, student, augkd.latent, SIZE, temperature=settings.temperature,
        mask_ratio=augkd.mask_ratio, rate=RATE, guarded=guarded,
    )  # fmt: skip
    views = augmentation(SIZE, settings.min_scale, MEAN, STD)
    pictures = Pictures(pool.numpy(), labels, views)

    def begin(module: str) -> Iterator[None]:
        if module == "free":
            return naive.free(batch)
        if module == "anchor":
            return naive.anchoring(pictures, batch)
        return naive.mixing(pictures, batch, augkd.b if module == "mixup" else 1.0)

    return begin


def take_turns(versions: dict[str, Begin], repeat: int) -> Found:
    """Seconds of `repeat` rounds after one that warms up; every step is taken by all versions before the next."""
    found: Found = {name: {} for name in versions}
    for module in MODULES:
        steps = {name: begin(module) for name, begin in versions.items()}
        length = ROUND if module == "free" else 1
        spent: dict[str, list[Spent]] = {name: [] for name in versions}
        for number in range(length * (repeat + 1)):
            order = list(versions) if number % 2 else list(versions)[::-1]
            for name in order:
                processor, clock = time.process_time(), time.perf_counter()
                next(steps[name])
                spent[name].append((time.process_time() - processor, time.perf_counter() - clock))
        for name, each in spent.items():
            rounds = [each[at : at + length] for at in range(length, len(each), length)]
            found[name]["generator" if module == "free" else module] = [one[0] for one in rounds]
            if module == "free":
                found[name]["student"] = [_weighted([1] * (ROUND - 1), one[1:]) for one in rounds]
    return found


def _weighted(weights: Sequence[float], spent: Sequence[Spent]) -> Spent:
    """Weighted mean."""
    processor, clock = (
        sum(w * seconds for w, seconds in zip(weights, each, strict=True)) / sum(weights)
        for each in zip(*spent, strict=True)
    )
    return processor, clock


def shares() -> dict[str, float]:
    """Kind of step -> how many epochs of the schedule it fills."""
    from stages.distill.methods.augkd_losses import image_share

    free, anchor, mixup = EPOCHS
    a, b = float(str(AUGKD["a"])), float(str(AUGKD["b"]))
    mixing = sum(image_share(epoch, mixup, a, b) < 1 for epoch in range(mixup))
    module_1 = {"generator": free / ROUND, "student": free * (ROUND - 1) / ROUND}
    return {**module_1, "anchor": anchor, "mixup": mixing, "images": mixup - mixing}


def add_whole(found: Found) -> None:
    """Rounds of the kind "whole": the mean of a round's steps, weighted with how often the schedule takes them."""
    weights = shares()
    for kinds in found.values():
        rounds = zip(*(kinds[kind] for kind in weights), strict=True)
        kinds["whole"] = [_weighted(list(weights.values()), spent) for spent in rounds]


def ratios(found: Found, version: str, kind: str, clock: bool = False) -> list[float]:
    """Sorted, one for each round: how many times longer a step took `version` than the stage's loop."""
    pairs = zip(found[version][kind], found["ours"][kind], strict=True)
    return sorted(theirs[clock] / mine[clock] for theirs, mine in pairs)


def table(found: Found, memory: dict[str, float]) -> str:
    """Markdown: processor's seconds of the stage's loop, and ratios to it."""
    others = [name for name in found if name != "ours"]
    lines = [
        "| step | share of the steps, % | the stage's loop, ms | "
        + " | ".join(f"{VERSIONS[name]}, ratio" for name in others) + " |",
        "|---|---:|---:|" + "---:|" * len(others),
    ]  # fmt: skip
    weights = shares()
    for kind, label in KINDS.items():
        share = 100 * weights.get(kind, sum(weights.values())) / sum(weights.values())
        mine = 1000 * statistics.median(processor for processor, _ in found["ours"][kind])
        cells = [_cell(ratios(found, name, kind)) for name in others]
        lines.append(f"| {label} | {share:.1f} | {mine:.0f} | " + " | ".join(cells) + " |")
    clocks = [_cell(ratios(found, name, "whole", clock=True)) for name in others]
    lines.append("| the same by the clock | | | " + " | ".join(clocks) + " |")
    sizes = [f"{memory[name]:.0f} MiB" for name in others]
    lines.append(f"| peak memory | | {memory['ours']:.0f} MiB | " + " | ".join(sizes) + " |")
    return "\n".join(lines)


def _cell(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})"


def child(setting: dict[str, Any]) -> dict[str, Any]:
    """What one process measures: seconds of the versions named, in turns, and its peak memory."""
    import torch

    torch.set_num_threads(setting["threads"])
    found = take_turns(
        {name: make(name, setting) for name in setting["versions"]}, setting["repeat"]
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": found, "peak_mib": peak, "torch": torch.__version__}


def ask(setting: dict[str, Any]) -> dict[str, Any]:
    """`child` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.augkd_step", "--child", json.dumps(setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {', '.join(setting['versions'])} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.augkd_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--versions", nargs="+", default=list(VERSIONS), choices=list(VERSIONS), metavar="NAME",
        help=f"some of: {', '.join(VERSIONS)}; `ours` always is")  # fmt: skip
    add("--teacher", default="resnet20", help="architecture (%(default)s)")
    add("--student", default="resnet8", help="architecture (%(default)s)")
    add("--batch", type=int, default=64, metavar="N", help="images per step (%(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="of every version (%(default)s)")
    add("--repeat", type=int, default=9, metavar="N", help="measured rounds (%(default)s)")
    add("--out", type=Path, metavar="FILE", help="JSON file for every figure")
    add("--child", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child is not None:
        print(json.dumps(child(given.child)))
        return 0
    names = [name for name in VERSIONS if name in given.versions or name == "ours"]
    setting = {
        key: getattr(given, key) for key in ("teacher", "student", "batch", "threads", "repeat")
    }
    load = os.getloadavg()[0]
    report = ask({**setting, "versions": names})
    memory = {name: ask({**setting, "versions": [name], "repeat": 1})["peak_mib"] for name in names}
    found = report["seconds"]
    add_whole(found)
    print(
        f"AuG-KD, {given.teacher} -> {given.student}, batch {given.batch}, {given.threads} threads, torch "
        f"{report['torch']}; median (lowest - highest) of {given.repeat} rounds; load before: {load:.2f}\n"
    )
    print(table(found, memory))
    if given.out is not None:
        figures = {
            "setting": setting,
            "load_before": load,
            "torch": report["torch"],
            "peak_mib": memory,
        }
        given.out.write_text(
            json.dumps(figures | {"seconds": found}, indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
