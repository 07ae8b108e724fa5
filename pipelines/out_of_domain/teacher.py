"""The teacher of a student's domain: trained with labels on all other domains, which then count as lost.

    python -m pipelines.out_of_domain.teacher DOMAIN

Reads work/<domain>/teacher_data.safetensors, writes work/<domain>/teacher/. The last epoch is kept; `test_accuracy`
of its card is that on held-out images of its own domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipelines.shared.labelled import accuracy, train
from pipelines.shared.program import argument, run_study, say
from webdistill.core.errors import UserError
from webdistill.core.files import remove
from webdistill.models.checkpoint import save_network
from webdistill.models.cost import parameters

HERE = Path(__file__).parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, whatever the data set


def make(settings: Mapping[str, Any], domain: str, folder: Path) -> float:
    """Train and write `folder`/teacher. -> accuracy on held-out images of the teacher's domains"""
    path = folder / "teacher_data.safetensors"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; run python -m pipelines.out_of_domain.prepare {domain}"
        )
    task, own = settings["common"]["task"], settings["teacher"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(task["threads"])
    data = {name: tensor.to(device) for name, tensor in load_file(path).items()}
    if len(data["images"]) < own["batch_size"]:
        raise UserError(
            f"teacher.batch_size is more than the {len(data['images'])} images; lower it"
        )
    net = train(
        data["images"],
        data["labels"],
        own,
        own["lr"],
        own["seed"],
        architecture=own["architecture"],
        classes=len(task["classes"]),
        mean=MEAN,
        std=STD,
    )
    measured = accuracy(net, data["held_out_images"], data["held_out_labels"], MEAN, STD)
    card = {
        "name": f"{own['architecture']}, all domains but {domain}",
        "architecture": own["architecture"],
        "classes": task["classes"],
        "image_size": data["images"].shape[1],
        "mean": MEAN,
        "std": STD,
        "parameters": parameters(net),
        "trained_on": f"{len(data['images'])} images of all domains but {domain}",
        "test_accuracy": round(measured, 4),
        "licence": settings["prepare"]["licence"],
    }
    remove(folder / "teacher")
    save_network(folder / "teacher", net.cpu(), card)
    return measured


def main(settings: Mapping[str, Any], domain: str) -> None:
    measured = make(settings, domain, HERE / "work" / domain)
    say(f"{measured:.4f} on held-out images of its own domains")


if __name__ == "__main__":
    run_study(main, argument("domain", help="of the student; the teacher never sees it"))
