"""The teacher: EfficientNet-Lite2 with ImageNet weights, its last layer trained on part of the Caltech pictures.

    python -m pipelines.real_task.teacher

Reads work/teacher_data.safetensors and work/start/, writes work/teacher/. The last layer is fitted to the features of
the pictures and their mirror images; the layers below stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.shared.program import run_study
from webdistill.core.errors import UserError
from webdistill.core.files import remove
from webdistill.images.views import Views
from webdistill.models.checkpoint import copy_into, read_tensors, save_network
from webdistill.models.classifier import Classifier
from webdistill.models.cost import parameters
from webdistill.models.zoo import build

HERE = Path(__file__).parent
MEAN = STD = (0.5, 0.5, 0.5)  # as these weights were trained
HEAD = frozenset({"fc.weight", "fc.bias"})  # follows the classes
BATCH = 64  # pictures per forward pass


def trained(
    images: Tensor, labels: Tensor, own: Mapping[str, Any], classes: int, start: Path
) -> Classifier:
    """The network with its ImageNet weights and a new last layer; images uint8 [N, S, S, 3], labels int64 [N]."""
    name = f"timm:{own['network']}"
    net = build(name, classes, images.shape[1]).to(memory_format=torch.channels_last).eval()
    path = start / f"{own['network']}.safetensors"
    copy_into(net, read_tensors(path), str(path), name, free=HEAD)
    views = Views(images, MEAN, STD, seed=0, min_scale=1.0, mixup=0.0)
    parts = []
    with torch.no_grad():
        for rows in torch.arange(len(images)).split(BATCH):
            plain = views.plain(rows)
            both = torch.cat([plain, plain.flip(3)])
            parts.append(net.pool(net.features(both)).view(2, len(rows), -1))
        features = torch.cat(parts, dim=1).flatten(0, 1)
        net.fc.weight.zero_()
        net.fc.bias.zero_()
    fit(net.fc, features, labels.repeat(2), own["weight_decay"])
    return net


def fit(layer: nn.Linear, features: Tensor, labels: Tensor, weight_decay: float) -> None:
    """Logistic regression: cross-entropy plus weight_decay / 2 times the squared weights, to its minimum."""
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        told = F.cross_entropy(layer(features), labels)
        total: Tensor = told + weight_decay / 2 * layer.weight.square().sum()
        total.backward()
        return total

    optimiser.step(loss)


def make(settings: Mapping[str, Any], folder: Path) -> None:
    """Train and write `folder`/teacher."""
    path = folder / "teacher_data.safetensors"
    if not path.is_file():
        raise UserError(f"{path} does not exist; run python -m pipelines.real_task.prepare")
    task, own = settings["common"]["task"], settings["teacher"]
    torch.set_num_threads(task["threads"])
    data = load_file(path)
    net = trained(data["images"], data["labels"], own, len(task["classes"]), folder / "start")
    card = {
        "name": "EfficientNet-Lite2, ten kinds of office things",
        "architecture": f"timm:{own['network']}",
        "classes": task["classes"],
        "image_size": data["images"].shape[1],
        "mean": MEAN,
        "std": STD,
        "parameters": parameters(net),
        "trained_on": f"{len(data['images'])} Caltech pictures of Office-Caltech: the last layer; ImageNet: the rest",
        "licence": "Apache-2.0 (ImageNet weights); pictures for research only",
    }
    remove(folder / "teacher")
    save_network(folder / "teacher", net, card)


def main(settings: Mapping[str, Any]) -> None:
    make(settings, HERE / "work")


if __name__ == "__main__":
    run_study(main)
