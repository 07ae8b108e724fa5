"""The student on the lost training data itself, with labels, at the steps of the comparison: what could be reached.

    python -m pipelines.compare.reference

Needs the training images that `python -m pipelines.quickstart_data.source` makes. Writes reference.json: mean of
the seeds, as a line below the arms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipelines.quickstart_data.teacher import MEAN, STD, accuracy
from pipelines.shared.labelled import train
from webdistill.core.errors import UserError
from webdistill.core.files import write_json
from webdistill.harness.params import read_yaml

HERE = Path(__file__).parent
DATA = HERE.parent / "quickstart_data" / "work" / "cifar10.safetensors"


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    settings = read_yaml(HERE / "params.yaml")
    own, shared = settings["reference"], settings["common"]["distill"]
    if not DATA.exists():
        problem = UserError(
            f"{DATA.name} is missing; run python -m pipelines.quickstart_data.source"
        )
        print(f"reference: error: {problem}", file=sys.stderr)
        return 2
    data = load_file(DATA)
    torch.set_num_threads(settings["common"]["task"]["threads"])
    images, labels = data["train_images"], data["train_labels"].long()
    network = {"architecture": shared["student"], "classes": 10, "mean": MEAN, "std": STD}
    found = []
    for seed in settings["seeds"]:
        net = train(images, labels, shared, own["lr"], seed, **network)
        found.append(accuracy(net, data["test_images"], data["test_labels"].long()))
        print(f"seed {seed}: {found[-1]:.4f}", file=sys.stderr, flush=True)
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    write_json(
        {"top1": statistics.mean(found), "sd": spread, "seeds": found}, HERE / "reference.json"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
