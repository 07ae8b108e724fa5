"""The teacher: a network with ImageNet weights, fine-tuned with labels on the domains that count as lost.

    python -m pipelines.office_caltech.teacher

Reads work/teacher_data.safetensors and work/weights.safetensors, writes teacher/. The last epoch is kept;
`test_accuracy` of its card is that on held-out images of its own domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipelines.shared.labelled import accuracy, train
from pipelines.shared.program import run_study, say
from webdistill.core.errors import UserError
from webdistill.core.files import remove
from webdistill.models.checkpoint import save_network
from webdistill.models.cost import parameters

HERE = Path(__file__).parent
GREY = (0.5, 0.5, 0.5)  # mean and standard deviation with which EfficientNet-Lite was trained


def make(settings: Mapping[str, Any], work: Path, out: Path) -> float:
    """Train and write the teacher to `out`. -> accuracy on held-out images of the lost domains"""
    paths = [work / name for name in ("teacher_data.safetensors", "weights.safetensors")]
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"{path} does not exist; run python -m pipelines.office_caltech.prepare"
            )
    task, own = settings["common"]["task"], settings["teacher"]
    architecture, lost = settings["prepare"]["architecture"], settings["prepare"]["lost"]
    torch.set_num_threads(task["threads"])
    data = load_file(paths[0])
    net = train(
        data["images"],
        data["labels"],
        own,
        own["lr"],
        own["seed"],
        architecture=architecture,
        classes=len(task["classes"]),
        mean=GREY,
        std=GREY,
        start=load_file(paths[1]),
    )
    measured = accuracy(net, data["held_out_images"], data["held_out_labels"], GREY, GREY)
    card = {
        "name": f"{architecture} from ImageNet, fine-tuned on {' and '.join(lost)}",
        "architecture": architecture,
        "classes": task["classes"],
        "image_size": data["images"].shape[1],
        "mean": GREY,
        "std": GREY,
        "parameters": parameters(net),
        "trained_on": f"{len(data['images'])} images of {' and '.join(lost)}, from ImageNet weights",
        "test_accuracy": round(measured, 4),
        "licence": settings["prepare"]["licence"],
    }
    remove(out)
    save_network(out, net, card)
    return measured


def main(settings: Mapping[str, Any]) -> None:
    measured = make(settings, HERE / "work", HERE / "teacher")
    say(f"{measured:.4f} on held-out images of its own domains")


if __name__ == "__main__":
    run_study(main)
