"""How different anchors are and how far masks move, by where the mask begins and at what rate it learns.

    python records/2026-11-29-augkd-anchors/measure.py ../shared/data/cifar10/test.parquet    # in the repository's root

Module 1 once, then module 2 from its end with every pair of values. Prints CSV: a row per pair and epoch.
"""

import csv
import io
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from stages.distill.checkpoint import restore, save
from stages.distill.loop import Run
from stages.distill.methods import build as build_method
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.checkpoint import load_network
from webdistill.models.zoo import build

COUNT, FREE, ANCHOR, STEPS = 128, 2, 3, 8
STATE = Path(".work/anchors.pt")
NAMES = ("anchor_spread", "mask_mean", "mask_moved", "uncertainty")


def make(start: float | None, rate: float) -> Run:
    changes = {
        "method": "augkd", "student": "resnet8", "epochs": FREE + ANCHOR + 1, "steps_per_epoch": STEPS,
        "batch_size": 16, "lr": 0.05, "warmup_epochs": 1.0, "precision": "float32", "device": "cpu", "shift": 0.0,
        "augkd.free_epochs": FREE, "augkd.anchor_epochs": ANCHOR, "augkd.mask_start": start, "augkd.anchor_lr": rate,
    }  # fmt: skip
    settings = load(
        Path("params.yaml"), [f"distill.{k}={json.dumps(v)}" for k, v in changes.items()]
    ).sections["distill"]
    torch.manual_seed(0)
    teacher = load_network(Path("data/quickstart/teacher"))
    method = build_method(settings, build("resnet8", 10), teacher.net, 32)
    card = teacher.card
    views = Views(pixels, card.mean, card.std, seed=0, min_scale=0.5, mixup=0.0)
    names = [str(i) for i in range(COUNT)]
    return Run(
        settings, 0, views, teacher.net, method, torch.ones(COUNT), names, card.classes, labels
    )


torch.set_num_threads(1)
rows = pq.read_table(sys.argv[1]).slice(0, COUNT)
cells = [c["bytes"] if isinstance(c, dict) else c for c in rows["image"].to_pylist()]
pixels = torch.from_numpy(
    np.stack([np.asarray(Image.open(io.BytesIO(c)).convert("RGB")) for c in cells])
)
labels = torch.tensor(rows["label"].to_pylist())
first = make(None, 1e-4)
for epoch in range(FREE):
    list(first.epoch(epoch))
STATE.parent.mkdir(exist_ok=True)
save(first, STATE)
table = csv.writer(sys.stdout, lineterminator="\n")
table.writerow(["mask_start", "anchor_lr", "epoch", *NAMES])
for start, rate in itertools.product((None, 0.06), (1e-4, 1e-3)):
    run = make(start, rate)
    restore(run, STATE)
    for epoch in range(FREE, FREE + ANCHOR):
        list(run.epoch(epoch))
        found = run.rows[-1]
        figures = [f"{found[name]:.4f}" for name in NAMES]
        table.writerow([start or 0.75, rate, epoch - FREE + 1, *figures])
STATE.unlink()
