"""How much KD3's weight sigmoid(||z_S - z_T||) tells images apart, for trained students: it is nearly 1 for all.

    python -m pipelines.ablate.weights pipelines/compare/cells/kd3-0 [CELL ...]

Prints, per student, quantiles of the distance of student's and teacher's logits on training views of the pool, and mean
and standard deviation of the weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.shared.program import argument, run_study
from webdistill.images.pool import load_images
from webdistill.images.views import Views
from webdistill.models.checkpoint import Network, load_network

IMAGES = 4000


@torch.no_grad()
def distances(student: Network, teacher: Network, pool: Tensor, min_scale: float) -> Tensor:
    """||z_S - z_T||_2 of one training view of every image, [N]."""
    card = teacher.card
    views = Views(pool, card.mean, card.std, seed=0, min_scale=min_scale, mixup=0.0)
    parts = []
    for rows in torch.arange(len(pool)).split(200):
        images = views(0, rows)
        parts.append((student.net(images) - teacher.net(images)).norm(dim=1))
    return torch.cat(parts)


def show(settings: Mapping[str, Any], cells: Sequence[Path]) -> None:
    """Print the table, a row per cell."""
    teacher = load_network(Path(settings["common"]["task"]["teacher"]))
    size = settings["common"]["task"]["image_size"]
    _, images = load_images(Path(settings["data"]) / "fetch" / "pool", None, size, workers=1)
    pool = torch.from_numpy(images[:IMAGES])
    print("| student | distance 5 % | 50 % | 95 % | mean weight | its sd | weight > .99, % |")
    print("|---|---|---|---|---|---|---|")
    for cell in cells:
        student = load_network(cell / "distill" / "student")
        found = distances(student, teacher, pool, settings["common"]["distill"]["min_scale"])
        low, middle, high = found.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
        weight = torch.sigmoid(found)
        print(
            f"| {cell.name} | {low:.2f} | {middle:.2f} | {high:.2f} | {float(weight.mean()):.4f} "
            f"| {float(weight.std()):.4f} | {100 * float((weight > 0.99).float().mean()):.1f} |"
        )


if __name__ == "__main__":
    run_study(show, argument("cells", nargs="+", type=Path))
