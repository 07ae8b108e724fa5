"""How fast a training on encoded pictures is, beside the same training on tensors and a torchvision script.

    python -m benchmarks.encoded_loop [--source FILE] [--teacher NAME] [--student NAME] [--side 224] [--out FILE]

Arms, each in a process of its own, in turns: `memory` and `encoded` are the loop of the stage `distill` with method
kd, always new views and `distill.images` as named; `imagefolder` is the script that one would write otherwise:
torchvision's ImageFolder, a DataLoader with as many workers as threads, random crops and mirrors, teacher, KL
divergence, SGD; `decoding` decodes the encoded pictures and does nothing else. Networks have random weights. Images a
second are a batch by the median of its steps after two that do not count. Processor time an image is that of all
threads and workers: beside other programs it says more than seconds. Memory of workers is counted whole.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.encoded_images import CLASSES, POOL, ROOT, SELECTION, TEACHER, select
from stages.distill.training import prepare
from webdistill.core.files import remove, write_json, write_manifest
from webdistill.harness.params import load
from webdistill.harness.stage import Stage
from webdistill.images.encoded import Encoded
from webdistill.images.pool import PoolRow, write_pool
from webdistill.images.stored import decode, encode
from webdistill.models.checkpoint import load_network, save_network
from webdistill.models.zoo import build

ARMS = ("memory", "encoded", "imagefolder", "decoding")
UNCOUNTED = 2  # steps
AHEAD = 2  # batches that a worker of a DataLoader makes before they are asked for
DISTINCT = 300  # pictures of the source; further ones repeat them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_project(source: Path, images: int, side: int, teacher: str) -> None:
    """Pool, folder of classes and teacher in the current folder; pictures have `side` px as their shorter side."""
    files = pq.read_table(source, columns=["image"])["image"].to_pylist()[: min(images, DISTINCT)]
    encoded = []
    for data in files:
        picture = decode(data)
        scale = side / min(picture.size)
        size = (max(side, round(picture.width * scale)), max(side, round(picture.height * scale)))
        encoded.append((encode(picture.resize(size, Image.Resampling.BICUBIC), "jpeg"), *size))
    rows = (PoolRow(f"{n:032x}", *encoded[n % len(encoded)], "", "") for n in range(images))
    write_pool(rows, Path(POOL), shard_size=10_000)
    write_manifest(Path(POOL))
    for n in range(images):
        file = Path("folder", CLASSES[n % len(CLASSES)], f"{n}.jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded[n % len(encoded)][0])
    torch.manual_seed(0)
    facts = {"classes": CLASSES, "image_size": side, "mean": MEAN, "std": STD}
    net = build(teacher, len(CLASSES), side).eval()
    save_network(Path(TEACHER), net, {"architecture": teacher, **facts})
    select(images)


def ours(arm: str, chosen: argparse.Namespace) -> Generator[None, None, None]:
    """Steps of the stage's loop."""
    values = {
        "task.classes": CLASSES, "task.image_size": chosen.side, "task.teacher": TEACHER,
        "task.threads": chosen.threads, "distill.student": chosen.student, "distill.method": "kd",
        "distill.views": 0, "distill.epochs": 2, "distill.steps_per_epoch": chosen.steps + UNCOUNTED,
        "distill.batch_size": chosen.batch, "distill.holdout": 0.0, "distill.device": "cpu",
        "distill.precision": "float32", "distill.images": arm,
    }  # fmt: skip
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    stage = Stage("distill", load(ROOT / "params.yaml", overrides), None)
    run = prepare(stage, *(stage.input(name) for name in (SELECTION, POOL, TEACHER))).run
    yield from (None for _ in run.epoch(0))


def script(chosen: argparse.Namespace) -> Generator[None, None, None]:
    """Steps of a plain training with torchvision's tools."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    torch.set_num_threads(chosen.threads)
    teacher = load_network(Path(TEACHER)).net.eval().requires_grad_(False)
    torch.manual_seed(0)
    student = build(chosen.student, len(CLASSES), chosen.side).train()
    change = transforms.Compose(
        [
            transforms.CenterCrop(chosen.side),
            transforms.RandomCrop(chosen.side, padding=chosen.side // 8, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    loader = DataLoader(
        datasets.ImageFolder("folder", change),
        chosen.batch,
        shuffle=True,
        num_workers=chosen.threads,
        drop_last=True,
    )
    optimiser = torch.optim.SGD(student.parameters(), 0.1, 0.9, nesterov=True, weight_decay=5e-4)
    while True:
        for images, _ in loader:
            with torch.no_grad():
                wanted = (teacher(images) / 4).softmax(1)
            logits = (student(images) / 4).log_softmax(1)
            optimiser.zero_grad(set_to_none=True)
            F.kl_div(logits, wanted, reduction="batchmean").mul(16).backward()
            optimiser.step()
            yield


def decoding(chosen: argparse.Namespace) -> Generator[None, None, None]:
    """Batches of decoded pictures, as `Encoded` gives them with its threads."""
    from webdistill.images.encoded import write_pictures

    ids = [f"{n:032x}" for n in range(chosen.images)]
    write_pictures(Path(POOL), ids, Path("encoded"))
    device = torch.device("cpu")
    places = np.arange(chosen.images)
    found = Encoded(Path("encoded"), places, chosen.side, workers=chosen.threads, device=device)
    rng = np.random.default_rng(0)
    while True:
        found[torch.from_numpy(rng.choice(chosen.images, chosen.batch, replace=False))]
        yield


def child(arm: str, chosen: argparse.Namespace) -> dict[str, float]:
    """One arm, in the project that is the current folder."""
    arms = {"imagefolder": script, "decoding": decoding}
    running = arms[arm](chosen) if arm in arms else ours(arm, chosen)
    times, cpu = [time.perf_counter()], [time.process_time()]
    for _ in running:
        times.append(time.perf_counter())
        cpu.append(time.process_time())
        if len(times) > chosen.steps + UNCOUNTED:
            break
    running.close()  # ends the workers
    spent = [b - a for a, b in pairwise(times)][UNCOUNTED:]
    used, peak = (cpu[-1] - cpu[UNCOUNTED]) / len(spent), resource.getrusage(resource.RUSAGE_SELF)
    memory = peak.ru_maxrss
    if arm == "imagefolder":
        workers = resource.getrusage(resource.RUSAGE_CHILDREN)
        batches = len(times) - 1 + AHEAD * chosen.threads  # that they made
        used += (workers.ru_utime + workers.ru_stime) / batches
        memory += workers.ru_maxrss * chosen.threads
    return {
        "images_per_second": chosen.batch / statistics.median(spent),
        "cpu_ms": 1000 * used / chosen.batch,
        "peak_mib": memory / 1024,
    }


def measure(arm: str, given: list[str]) -> dict[str, float]:
    """An arm in a process of its own, in the project that is the current folder."""
    remove(Path(".work"))
    remove(Path("encoded"))
    command = [sys.executable, "-m", "benchmarks.encoded_loop", "--child", arm, *given]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WEBDISTILL_TRACKING": "off"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    default = ROOT.parent / "shared/data/office_caltech/office_caltech_s144.parquet"
    add("--source", type=Path, default=default, help="Parquet with pictures in `image`")
    add("--images", type=int, default=600)
    add("--side", type=int, default=224, help="px")
    add("--batch", type=int, default=32)
    add("--steps", type=int, default=10, help="counted ones")
    add("--threads", type=int, default=2, help="1 beside other programs")
    add("--rounds", type=int, default=2, help="of all arms, in turns; the best of an arm counts")
    add("--teacher", default="torchvision:resnet18")
    add("--student", default="torchvision:mobilenet_v3_small")
    add("--out", type=Path, help="all figures as JSON")
    add("--child", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def table(chosen: argparse.Namespace, load: float, found: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    head = (
        f"{chosen.teacher} -> {chosen.student}, {chosen.images:,} pictures of {chosen.side} px, batches of "
        f"{chosen.batch}, {chosen.threads} threads; load average before {load:.1f}"
    )
    lines = [head, "", "| arm | images/s | of `memory` | CPU ms an image | peak MiB |"]
    lines.append("|---|---:|---:|---:|---:|")
    most = found["memory"]["images_per_second"]
    for arm, one in found.items():
        rate = one["images_per_second"]
        cells = f"{rate / most:.2f} | {one['cpu_ms']:.2f} | {one['peak_mib']:.0f}"
        lines.append(f"| {arm} | {rate:.1f} | {cells} |")
    return "\n".join(lines)


def main(given: list[str]) -> int:
    chosen = arguments(given)
    if chosen.child:
        print(json.dumps(child(chosen.child, chosen)))
        return 0
    out = chosen.out and chosen.out.resolve()
    source, load_before = chosen.source.resolve(), os.getloadavg()[0]
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_project(source, chosen.images, chosen.side, chosen.teacher)
        for _ in range(chosen.rounds):
            for arm in ARMS:
                one = measure(arm, given)
                if (
                    one["images_per_second"] > found.get(arm, one)["images_per_second"]
                    or arm not in found
                ):
                    found[arm] = one
    print(table(chosen, load_before, found))
    if out:
        names = ("images", "side", "batch", "steps", "threads", "rounds", "teacher", "student")
        setting = {name: getattr(chosen, name) for name in names}
        write_json({"setting": setting, "load_before": load_before, "results": found}, out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
