"""Which prototypes of a compensation move which classes, over images of the pool or the method's own.

The compensation of image n is, with u = unit / rms(F - E[F]) as in webdistill/models/compensation.py,

    W_z u (F_n - E[F]) = sum_i (lambda_ni - mean lambda_i) e_i,    e_i = u N P(z_i) W_z z_i

so prototype i moves the answer by sd(lambda_i) e_i where an image asks for it by one standard deviation more than
images do on average. What `fuse: linear` makes of the host's answer is no prototype's and left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.distill.forward import Forward
from webdistill.models.classifier import Classifier
from webdistill.models.compensation import LEAST, Compensation
from webdistill.models.projected import Projected

SHOWN = 16  # images that ask for a prototype most
COLUMNS = ("prototype", "prior", "attention", "spread", "push", "asking")


@dataclass(frozen=True)
class Confounders:
    """Of every prototype: how it is asked for, what that adds to the answers, and who asks most."""

    prior: Tensor  # [N]
    attention: Tensor  # [N], mean of lambda_i over the images
    spread: Tensor  # [N], its standard deviation
    push: Tensor  # [N, K], sd(lambda_i) e_i, in logits
    asking: Tensor  # [N, at most SHOWN], places among the images, those that ask most first


@torch.no_grad()
def look(student: Classifier, images: Iterable[Tensor], forward: Forward) -> Confounders | None:
    """None without a compensation, or where all images ask alike. Leaves the student's mode as it was."""
    compensation, was_training = student.compensation, student.training
    if compensation is None or compensation.attention == "random":
        return None
    parts: list[tuple[Tensor, Tensor]] = []

    def note(module: Compensation, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, penultimate, host = inputs
        with torch.autocast(logits.device.type, enabled=False):
            asked = module.weights(module.asking(logits, penultimate))
        parts.append((asked.double(), host.double()))

    hook = compensation.register_forward_pre_hook(note)
    student.eval()
    try:
        for each in images:
            with forward.autocast():
                student(each)
    finally:
        hook.remove()
        student.train(was_training)
    asked, host = (torch.cat(column) for column in zip(*parts, strict=True))
    spread = asked.std(0, correction=0)
    moved = spread[:, None] * _effects(compensation)
    return Confounders(
        compensation.prior,
        asked.mean(0),
        spread,
        _in_logits(student, moved.float(), host.mean(0).float()),
        torch.argsort(asked, dim=0, descending=True, stable=True)[:SHOWN].T,
    )


def _effects(compensation: Compensation) -> Tensor:
    """e_i [N, outputs], float64."""
    unit = compensation.unit.double() / (compensation.square.double() + LEAST**2).sqrt()
    points = compensation.prototypes.double()
    if compensation.use_prior:
        points = points * compensation.prior.double()[:, None] * len(points)
    return unit * points @ compensation.fuse.weight.double().T


def _in_logits(student: Classifier, moved: Tensor, host: Tensor) -> Tensor:
    """What is added [N, outputs] to the mean `host` [outputs] -> what that adds to the logits [N, K]."""
    if not isinstance(student, Projected):
        return moved
    before, after = (
        student.answer(student.pool(means[:, :, None, None]))
        for means in (host[None], host + moved)
    )
    return after - before


def write(
    path: Path, found: Confounders | None, classes: Sequence[str], names: Sequence[str]
) -> None:
    """A row per prototype; none where nothing was found. `names` [n]: of the images, () where they have none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *(f"class/{name}" for name in classes)])
        for at in range(0 if found is None else len(found.prior)):
            assert found is not None
            push = found.push[at]
            figures = (
                found.prior[at],
                found.attention[at],
                found.spread[at],
                push.square().mean().sqrt(),
            )
            asking = [names[place] for place in found.asking[at].tolist()] if names else []
            told = [f"{float(each):.6g}" for each in figures]
            writer.writerow(
                [at, *told, " ".join(asking), *(f"{each:.6g}" for each in push.tolist())]
            )
