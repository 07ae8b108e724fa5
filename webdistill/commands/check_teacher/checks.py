"""One function per question. They look and judge; nothing is changed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stages.distill.cost import expected
from stages.distill.params import PRETRAINED, Distill
from stages.distill.start import starts_fresh
from webdistill.commands.check_teacher.findings import Finding
from webdistill.commands.check_teacher.pictures import Pictures
from webdistill.core.errors import UserError
from webdistill.harness.params import Params
from webdistill.harness.wording import plural
from webdistill.models.checkpoint import Card, Network
from webdistill.models.cost import multiply_adds, parameters
from webdistill.models.names import parse

BATCH_PIXELS = 2**16  # 64 images of 32 px, 1 of 224
SIGMAS = 3.0  # from which on an accuracy is lower than the card's
LIBRARIES = ("torchvision", "timm")  # that may have weights for the student
SHOWN = 8  # classes named in a message


def classes(card: Card, ours: Sequence[str]) -> Finding:
    """The outputs of the teacher mean what task.classes says, in its order."""
    theirs = card.classes
    if tuple(ours) == theirs:
        return Finding("ok", "classes", f"{len(theirs)}, equal to task.classes in the same order")
    fix = "let task.classes in params.yaml repeat the card's list"
    if sorted(ours) == sorted(theirs):
        moved = [
            f"{i} is '{b}' in the card, '{a}' in the task"
            for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
            if a != b
        ]
        text = f"task.classes has the card's {len(theirs)} classes in another order ({_listed(moved)}); {fix}"
        return Finding("fail", "classes", text)
    only_ours = [f"'{name}'" for name in ours if name not in theirs]
    only_theirs = [f"'{name}'" for name in theirs if name not in ours]
    text = (
        f"task.classes has {len(ours)} classes, the card {len(theirs)}; only in the task: "
        f"{_listed(only_ours) or 'none'}; only in the card: {_listed(only_theirs) or 'none'}; {fix}, or correct "
        "the names in the card"
    )
    return Finding("fail", "classes", text)


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def image_size(card: Card, settings: Params) -> Finding:
    """The stages resize to task.image_size; the teacher should know images of that size."""
    theirs, ours = card.image_size, settings.task.image_size
    if theirs == ours:
        return Finding("ok", "image size", f"{theirs} px, as task.image_size")
    text = f"the teacher was trained at {theirs} px, task.image_size is {ours}"
    if settings.raw["score"]["other_image_size"]:
        return Finding("warn", "image size", f"{text}; allowed by score.other_image_size")
    return Finding(
        "fail",
        "image size",
        f"{text}; set it to {theirs}, or score.other_image_size: true if the difference is meant",
    )


@dataclass(frozen=True)
class Answers:
    """Logits of all images, however long it takes: findings do not depend on the machine's load."""

    logits: NDArray[np.float32]  # [N, K]
    per_second: float


@torch.inference_mode()
def answers(network: Network, images: NDArray[np.uint8]) -> Answers:
    """Run the teacher on images [N, S, S, 3], normalised as its card says."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.card.mean, network.card.std))
    batch = max(1, min(len(images), BATCH_PIXELS // images.shape[1] ** 2))
    parts: list[NDArray[np.float32]] = []
    times: list[float] = []
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2)
        begun = time.perf_counter()
        parts.append(network.net((pixels.float() / 255 - mean) / std).numpy())
        times.append((time.perf_counter() - begun) / len(pixels))
    return Answers(np.concatenate(parts), 1 / float(np.median(times)))


def sense(found: Answers, card: Card) -> Finding:
    """The answers are finite numbers and not always the same class."""
    count = len(found.logits)
    if not np.isfinite(found.logits).all():
        return Finding(
            "fail",
            "answers",
            "not finite; the weights are damaged, or mean and std of the card are far off",
        )
    z = found.logits.astype(np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    counts = np.bincount(z.argmax(axis=1), minlength=len(card.classes))
    given, most = int((counts > 0).sum()), int(counts.argmax())
    text = f"{given} of {len(counts)} classes given for {count} images, mean confidence {p.max(axis=1).mean():.0%}"
    if given == 1 and count > 1:
        return Finding(
            "warn",
            "answers",
            f"always '{card.classes[most]}' for {count} images; is the normalisation right?",
        )
    return Finding("ok", "answers", text)


def accuracy(found: Answers, pictures: Pictures, card: Card) -> Finding:
    """Against the labels that the user named."""
    assert pictures.labels is not None
    count = len(found.logits)
    right = float((found.logits.argmax(axis=1) == pictures.labels).mean())
    error = math.sqrt(max(right * (1 - right), 1 / count) / count)
    text = f"{right:.1%} +- {error:.1%} on {count} images of {pictures.source}"
    chance = 1 / len(card.classes)
    if right < chance + SIGMAS * math.sqrt(chance * (1 - chance) / count):
        return Finding(
            "fail",
            "accuracy",
            f"{text}, no better than guessing; check the order of the classes and the normalisation",
        )
    if card.test_accuracy is None:
        return Finding("ok", "accuracy", f"{text}; the card does not say what to expect")
    expected = f"the card says {card.test_accuracy:.1%}"
    if right < card.test_accuracy - SIGMAS * error:
        return Finding(
            "warn",
            "accuracy",
            f"{text}; {expected}: other test images, or another normalisation or image size than in its training",
        )
    return Finding("ok", "accuracy", f"{text}; {expected}")


def cost(network: Network, size: int, found: Answers | None, threads: int) -> Finding:
    """What the teacher costs on this machine."""
    text = (
        f"{parameters(network.net):,} parameters, {multiply_adds(network.net, size) / 1e6:,.1f} million multiply-adds "
        f"an image of {size} px"
    )
    if found is not None:
        text += f", {found.per_second:,.0f} images/s on the CPU with {plural(threads, 'thread')}"
    return Finding("ok", "cost", text)


def student(network: Network, settings: Params, size: int) -> Finding:
    """What the student of params.yaml will cost beside this teacher."""
    distill = settings.sections["distill"]
    assert isinstance(distill, Distill)
    try:
        found = expected(distill, network.net, size)
    except UserError as error:
        return Finding("fail", "student", f"{distill.student} with {distill.method}: {error}")
    text = found.sentence
    if distill.deconfound.enabled and distill.deconfound.inference == "compensated":
        text += "; the compensation of distill.deconfound comes on top"
    if parse(distill.student).family in LIBRARIES and starts_fresh(distill, network.net, size):
        text += (
            f"; it starts fresh: distill.student_weights = {PRETRAINED} would start from the library's weights, which "
            "shows with few images"
        )
    if found.warning is None:
        return Finding("ok", "student", text)
    return Finding("warn", "student", f"{text}; {found.warning}")
