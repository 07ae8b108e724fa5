"""The student on the lost training data itself, with labels, at the steps of the comparison: what could be reached.

    python -m pipelines.compare.reference

Needs the training images that `python -m pipelines.quickstart_data.source` makes. Writes reference.json: mean of
the seeds, as a line below the arms.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from pipelines.quickstart_data.teacher import accuracy
from stages.distill.loop import rate_factor
from webdistill.core.errors import UserError
from webdistill.core.files import write_json
from webdistill.core.params import read_yaml
from webdistill.images.views import Views
from webdistill.models.cifar import Classifier
from webdistill.models.precision import low_precision
from webdistill.models.zoo import build

HERE = Path(__file__).parent
DATA = HERE.parent / "quickstart_data" / "work" / "cifar10.safetensors"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # as `accuracy` normalises


def train(images: Tensor, labels: Tensor, settings: dict, lr: float, seed: int) -> Classifier:
    """Cross-entropy on the true labels, else as stages/distill: views, SGD, schedule, batch, steps."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = build(settings["student"], 10).to(memory_format=torch.channels_last)
    views = Views(images, MEAN, STD, seed=seed, min_scale=settings["min_scale"], mixup=0.0)
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in net.parameters() if p.ndim <= 1]},
    ]  # fmt: skip
    optimiser = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    steps = settings["epochs"] * settings["steps_per_epoch"]
    warmup = round(settings["warmup_epochs"] * settings["steps_per_epoch"])
    order, passes = torch.empty(0, dtype=torch.int64), 0
    bfloat16 = low_precision(settings["precision"], torch.device("cpu"))
    for step in range(steps):
        if len(order) < settings["batch_size"]:
            order, passes = torch.randperm(len(images), generator=generator), passes + 1
        rows, order = order[: settings["batch_size"]], order[settings["batch_size"] :]
        for group in optimiser.param_groups:
            group["lr"] = lr * rate_factor(step, steps, warmup, settings["decay"])
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = net(views(passes, rows))
        loss = F.cross_entropy(logits.float(), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def main() -> int:
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
    found = []
    for seed in settings["seeds"]:
        net = train(data["train_images"], data["train_labels"].long(), shared, own["lr"], seed)
        found.append(accuracy(net, data["test_images"], data["test_labels"].long()))
        print(f"seed {seed}: {found[-1]:.4f}", file=sys.stderr, flush=True)
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    write_json(
        {"top1": statistics.mean(found), "sd": spread, "seeds": found}, HERE / "reference.json"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
