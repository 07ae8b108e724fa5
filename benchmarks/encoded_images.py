"""What a training on many large pictures holds in memory.

    python -m benchmarks.encoded_images [--images 20000] [--side 256] [--arms few,encoded,memory] [--out FILE]

Every arm is the training of the stage `distill` in a process of its own. KD3 looks at all pictures before the epoch,
twice; with steps for more than one pass every method looks at them for the teacher's answers; then come the steps.
`few` has a 64th of the pictures, in memory, and stands for the networks and a batch: what an arm has beyond it is what
its pictures and answers cost. The pictures are noise of several shapes, a few hundred files repeated; the networks are
small, to be quick.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from stages.distill.training import prepare, train
from webdistill.core.files import remove, write_json, write_manifest, write_table
from webdistill.harness.params import load
from webdistill.harness.stage import Stage
from webdistill.images.pool import PoolRow, write_pool
from webdistill.images.stored import encode
from webdistill.models.checkpoint import save_network
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[1]
NETWORK, CLASSES, BATCH, DISTINCT = "nets:tiny", ["a", "b", "c", "d"], 64, 400
FEW = 64  # the arm `few` has a share 1 / FEW of the pictures, but for two batches at least
FEW_STEPS = 10  # what is held does not grow with them
SELECTION, POOL, TEACHER = "data/select/selection.parquet", "data/fetch/pool", "teacher"
NETS = """
from torch import nn
from webdistill.models.classifier import Classifier

class Tiny(Classifier):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 256, 4, 4), nn.BatchNorm2d(256), nn.ReLU(),
        )
        self.fc = nn.Linear(256, num_classes)

    def features(self, x):
        return self.body(x)

def tiny(num_classes):
    return Tiny(num_classes)
"""


def make_project(images: int, side: int) -> None:
    """Pool and teacher in the current folder."""
    rng = np.random.default_rng(0)
    files = [_picture(rng, side) for _ in range(min(DISTINCT, images))]
    rows = (PoolRow(f"{n:032x}", files[n % len(files)], side, side, "", "") for n in range(images))
    write_pool(rows, Path(POOL), shard_size=10_000)
    write_manifest(Path(POOL))
    Path("nets.py").write_text(NETS)
    torch.manual_seed(0)
    net, half = build(NETWORK, len(CLASSES), side).eval(), (0.5, 0.5, 0.5)
    with torch.no_grad():
        features = net.pool(net.features(torch.randn(64, 3, side, side)))
        centred = features - features.mean(0)
        net.fc.weight.mul_(2 / (centred @ net.fc.weight.T).std(0)[:, None])
        net.fc.bias.copy_(-(features @ net.fc.weight.T).mean(0))
    facts = {"classes": CLASSES, "image_size": side, "mean": half, "std": half}
    save_network(Path(TEACHER), net, {"architecture": NETWORK, **facts})


def _picture(rng: np.random.Generator, side: int) -> bytes:
    width = side + int(rng.integers(0, side // 2))
    coarse = Image.fromarray(rng.integers(0, 256, (side // 16, width // 16, 3), np.uint8))
    return encode(coarse.resize((width, side), Image.Resampling.BICUBIC), "jpeg")


def select(images: int) -> None:
    """The first pictures of the pool as selection."""
    classes = pa.array([n % len(CLASSES) for n in range(images)], pa.int32())
    columns = {
        "id": [f"{n:032x}" for n in range(images)], "weight": [1.0] * images,
        "confidence": [0.5] * images, "teacher_class": classes, "keyword_class": classes,
    }  # fmt: skip
    Path(SELECTION).parent.mkdir(exist_ok=True)
    write_table(pa.table(columns), Path(SELECTION))


def child(arm: str, side: int, method: str, steps: int, threads: int) -> dict[str, float]:
    """One arm, in the project that is the current folder."""
    chosen = {
        "task.classes": CLASSES, "task.image_size": side, "task.teacher": TEACHER, "task.threads": threads,
        "distill.student": NETWORK, "distill.method": method, "distill.views": 1, "distill.epochs": 1,
        "distill.steps_per_epoch": steps, "distill.batch_size": BATCH, "distill.holdout": 0.0,
        "distill.device": "cpu", "distill.precision": "float32",
        "distill.images": "encoded" if arm == "encoded" else "memory",
    }  # fmt: skip
    overrides = [f"{key}={json.dumps(value)}" for key, value in chosen.items()]
    stage = Stage("distill", load(ROOT / "params.yaml", overrides), None)
    prepared = prepare(stage, *(stage.input(name) for name in (SELECTION, POOL, TEACHER)))
    train(stage, prepared)
    answers = sum(file.stat().st_size for file in prepared.state.parent.glob("view-*"))
    return {
        "images": prepared.run.count,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "answers_gib": answers / 2**30,
    }


def measure(
    arm: str, images: int, side: int, method: str, steps: int, threads: int
) -> dict[str, float]:
    """An arm in a process of its own, in the project that is the current folder."""
    if arm == "few":
        images, steps = max(images // FEW, 2 * BATCH), min(steps, FEW_STEPS)
    select(images)
    remove(Path(".work"))  # or an arm would go on where the one before has ended
    command = [
        sys.executable, "-m", "benchmarks.encoded_images", "--child", arm, f"--side={side}",
        f"--method={method}", f"--steps={steps}", f"--threads={threads}",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WEBDISTILL_TRACKING": "off"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=256, help="px, of pictures and networks")
    parser.add_argument("--method", default="kd3")
    parser.add_argument("--steps", type=int, help="default: a little more than one pass")
    parser.add_argument("--threads", type=int, default=2, help="1 beside other programs")
    parser.add_argument("--arms", default="few,encoded,memory")
    parser.add_argument("--out", type=Path, help="all figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    images, side, threads = arguments.images, arguments.side, arguments.threads
    method, steps = arguments.method, arguments.steps or images // BATCH + 1
    if arguments.child:
        print(json.dumps(child(arguments.child, side, method, steps, threads)))
        return 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_project(images, side)
        found = {
            arm: measure(arm, images, side, method, steps, threads)
            for arm in arguments.arms.split(",")
        }
    for arm, figures in found.items():
        told = f"{arm}: {figures['images']:,.0f} images, peak {figures['peak_mib']:,.0f} MiB"
        if "few" in found and arm != "few":
            told += f", {figures['peak_mib'] - found['few']['peak_mib']:,.0f} beyond the networks"
        print(f"{told}; {figures['answers_gib']:.1f} GiB of answers in files")
    if arguments.out:
        write_json(found, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
