"""The student on the lost training data itself, with labels, at the steps of the comparison: what could be reached.

    python -m pipelines.compare.reference

Needs the training images that `python -m pipelines.quickstart_data.source` makes. Writes reference.json: mean of
the seeds, as a line below the arms.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipelines.quickstart_data.teacher import MEAN, STD, accuracy
from pipelines.shared.labelled import train
from pipelines.shared.program import run_study, say
from webdistill.core.errors import UserError
from webdistill.core.files import write_json

HERE = Path(__file__).parent
DATA = HERE.parent / "quickstart_data" / "work" / "cifar10.safetensors"


def main(settings: Mapping[str, Any]) -> None:
    own, shared = settings["reference"], settings["common"]["distill"]
    if not DATA.exists():
        raise UserError(f"{DATA.name} is missing; run python -m pipelines.quickstart_data.source")
    data = load_file(DATA)
    torch.set_num_threads(settings["common"]["task"]["threads"])
    images, labels = data["train_images"], data["train_labels"].long()
    network = {"architecture": shared["student"], "classes": 10, "mean": MEAN, "std": STD}
    found = []
    for seed in settings["seeds"]:
        net = train(images, labels, shared, own["lr"], seed, **network)
        found.append(accuracy(net, data["test_images"], data["test_labels"].long()))
        say(f"seed {seed}: {found[-1]:.4f}")
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    write_json(
        {"top1": statistics.mean(found), "sd": spread, "seeds": found}, HERE / "reference.json"
    )


if __name__ == "__main__":
    run_study(main)
