"""A student of one pool: plain distillation, as stages/distill trains it, and its accuracy on the test images.

    python -m pipelines.pools.train tiny 0        -> pipelines/pools/cells/tiny-0.json

Without filter and selection: it is the pool itself that is measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipelines.shared.cell import flat
from pipelines.shared.labelled import accuracy
from pipelines.shared.program import argument, run_study
from stages.distill.loop import Run
from stages.distill.methods import build as build_method
from stages.distill.params import Distill
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, write_json
from webdistill.harness.params import load
from webdistill.images.pool import load_images
from webdistill.images.views import Views
from webdistill.models.checkpoint import load_network
from webdistill.models.zoo import build


def train(pool: Path, common: dict[str, Any], seed: int) -> dict[str, float]:
    """-> top1 on all test images, images and steps."""
    changed = {**dict(flat(common)), "task.seed": seed}
    settings = load(
        Path("params.yaml"), [f"{key}={json.dumps(value)}" for key, value in changed.items()]
    )
    task, options = settings.task, settings.sections["distill"]
    assert isinstance(options, Distill)
    torch.set_num_threads(task.threads)
    torch.manual_seed(seed)
    teacher = load_network(Path(task.teacher))
    ids, images = load_images(pool, None, task.image_size, workers=1)
    student = build(options.student, len(task.classes), task.image_size)
    card = teacher.card
    method = build_method(options, student, teacher.net, task.image_size)
    method.to(memory_format=torch.channels_last)
    run = Run(
        settings=options,
        seed=seed,
        views=Views(
            torch.from_numpy(images),
            card.mean,
            card.std,
            seed=seed,
            min_scale=options.min_scale,
            mixup=options.mixup,
        ),
        teacher=teacher.net,
        method=method,
        weight=torch.ones(len(ids)),
        ids=ids,
        classes=task.classes,
    )
    for number in range(options.epochs):
        list(run.epoch(number))
    names, tests = load_images(Path(task.test_images), None, task.image_size, workers=1)
    truth = read_table(Path(task.test_labels), ["id", "label"])
    known = dict(zip(truth["id"].to_pylist(), truth["label"].to_pylist(), strict=True))
    labels = torch.tensor([known[name] for name in names])
    top1 = accuracy(method.student(), torch.from_numpy(tests), labels, card.mean, card.std)
    return {"top1": top1, "images": len(ids), "steps": options.epochs * run.steps_per_epoch}


def main(settings: Mapping[str, Any], pool: str, seed: int) -> None:
    """Write cells/<pool>-<seed>.json. Raises UserError for a pool that params.yaml does not name."""
    if pool not in settings["settings"]:
        raise UserError(f"there is no pool '{pool}' in pipelines/pools/params.yaml")
    folder = Path("pipelines/pools")
    found = train(folder / "pool" / pool / "fetch" / "pool", settings["common"], seed)
    (folder / "cells").mkdir(exist_ok=True)
    write_json(found, folder / "cells" / f"{pool}-{seed}.json")
    print(f"{pool}, seed {seed}: {found['top1']:.2%}")


if __name__ == "__main__":
    run_study(main, argument("pool"), argument("seed", type=int))
