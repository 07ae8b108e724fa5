"""What a student starts from: weights of a file, of a folder of this project, of its library, or of its teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.distill.params import AUTO, PRETRAINED, TEACHER, Distill
from webdistill.core.errors import UserError
from webdistill.harness.stage import Stage
from webdistill.models.checkpoint import Network, copy_into, load_network, read_tensors, weights
from webdistill.models.classifier import Classifier
from webdistill.models.projected import Projected
from webdistill.models.zoo import build, pretrained

TINY = 1e-300  # a tensor of zeros has no share to give


@dataclass(frozen=True)
class Start:
    """Weights that fit the student, but perhaps for its head: the tensors whose shape follows the classes."""

    tensors: Mapping[str, Tensor]
    source: str
    sha256: str
    architecture: str
    heads: frozenset[str]

    def give(self, student: Classifier) -> list[str]:
        """Copy the weights into the student. -> tensors of its head that stay fresh"""
        return copy_into(student, self.tensors, self.source, self.architecture, self.heads)


def read_start(stage: Stage) -> Start | None:
    """What `distill.student_weights` names, tried on a student, so that what does not fit stops before any work.

    None where it names nothing, or the teacher. Raises UserError naming the file and what is wrong with it.
    """
    named, architecture = stage.params.student_weights, stage.params.student
    if named in (None, TEACHER, AUTO):
        return None
    classes, size = stage.task.classes, stage.task.image_size
    with torch.random.fork_rng(devices=[]):  # the student's own draws come later
        student = build(architecture, len(classes), size)
        heads = _heads(student, build(architecture, len(classes) + 1, size))
        tensors, digest = _read(stage, named, architecture, classes)
    start = Start(tensors, named, digest, architecture, heads)
    fresh = start.give(student)
    stage.log(
        f"{architecture} starts from {named} (sha256 {digest[:16]}): {len(tensors)} tensors there, "
        + (f"{' and '.join(fresh)} made anew for {len(classes)} classes" if fresh else "all used")
    )
    return start


def of_teacher(stage: Stage, teacher: Network) -> Start | None:
    """The student as a part of its teacher: every tensor has the strongest channels of the teacher's of its name.

    A better start than noise where the student is a narrower or shallower version of its teacher: weight selection (Xu
    et al. 2024, arXiv 2311.18823), with channels chosen by norm as in pruning (Li et al. 2017, arXiv 1608.08710). None
    where `distill.student_weights` does not ask for it, or `auto` finds it impossible. Raises UserError where `teacher`
    does.
    """
    named, architecture = stage.params.student_weights, stage.params.student
    if not asks_teacher(stage.params):
        return None
    with torch.random.fork_rng(devices=[]):
        student = build(architecture, len(stage.task.classes), stage.task.image_size)
    source = f"its teacher {teacher.card.architecture}"
    own = weights(student)
    tensors = thinned(own, weights(teacher.net))
    if unfit := own.keys() - tensors.keys():
        reason = f"no part of {source} in {len(unfit)} of {len(own)} tensors, such as {min(unfit)}"
        if named == TEACHER:
            raise UserError(
                f"distill.student_weights = {TEACHER}, but {architecture} is {reason}; take auto, or null"
            )
        stage.log(f"{architecture} starts fresh: it is {reason}")
        return None
    digest = _digest(tensors)
    stage.log(f"{architecture} starts from the strongest channels of {source}: {len(own)} tensors")
    return Start(tensors, source, digest, architecture, frozenset())


def asks_teacher(settings: Distill) -> bool:
    """Whether the student is to start from channels of its teacher, if it can."""
    named = settings.student_weights
    return named == TEACHER or (named == AUTO and settings.reuses_classifier)


def starts_fresh(settings: Distill, teacher: Classifier, image_size: int) -> bool:
    """Whether nothing is given to the student, known before there are images."""
    if not asks_teacher(settings):
        return settings.student_weights in (None, AUTO)
    own = weights(build(settings.student, teacher.fc.out_features, image_size))
    return own.keys() != thinned(own, weights(teacher)).keys()


def thinned(own: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of each of a student's tensors the part of the teacher's of that name that has its shape, where there is one.

    Where n channels stand for m, they are the same n in every layer, inputs and outputs alike, so that layers still fit
    together: those with the largest sum, over all matrices and kernels, of their share of the squared weights. Kernels
    must have the same size.
    """
    fitting = {k: v for k, v in own.items() if k in teacher and _holds(teacher[k].shape, v.shape)}
    strength: dict[tuple[int, int], Tensor] = {}
    for name, tensor in fitting.items():
        squares = teacher[name].double().square()
        for axis in range(2 if tensor.ndim > 1 else 0):
            of, count = squares.shape[axis], tensor.shape[axis]
            share = squares.transpose(0, axis).flatten(1).sum(1) / squares.sum().clamp_min(TINY)
            strength[of, count] = strength.get((of, count), 0) + share
    strongest = {
        (of, count): each.sort(descending=True, stable=True).indices[:count].sort().values
        for (of, count), each in strength.items()
    }
    found = {}
    for name, tensor in fitting.items():
        part = teacher[name]
        for axis, (count, of) in enumerate(zip(tensor.shape, part.shape, strict=True)):
            if count < of:
                part = part.index_select(axis, strongest.get((of, count), torch.arange(count)))
        found[name] = part.clone()
    return found


def _holds(theirs: torch.Size, own: torch.Size) -> bool:
    return (
        len(theirs) == len(own)
        and all(a >= b for a, b in zip(theirs[:2], own[:2], strict=True))
        and theirs[2:] == own[2:]
    )


def _heads(student: Classifier, other: Classifier) -> frozenset[str]:
    """Tensors whose shape differs between two students of another number of classes each."""
    shapes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    return frozenset(k for k, v in student.state_dict().items() if shapes[k] != v.shape)


def _read(
    stage: Stage, named: str, architecture: str, classes: tuple[str, ...]
) -> tuple[dict[str, Tensor], str]:
    """-> tensors and their hash, which is a fact of the run from now on"""
    if named == PRETRAINED:
        tensors = pretrained(architecture)
        stage.inputs[f"{PRETRAINED} {architecture}"] = digest = _digest(tensors)
        return tensors, digest
    path = stage.input(named)
    if path.is_dir():
        return _of_folder(path, architecture, classes)
    return read_tensors(path), stage.inputs[named]


def _of_folder(
    folder: Path, architecture: str, classes: tuple[str, ...]
) -> tuple[dict[str, Tensor], str]:
    """A student or teacher of this project; of a projected student its own layers. Its head only for these classes."""
    network = load_network(folder, "raw")
    card, net = network.card, network.net
    if card.architecture != architecture:
        raise UserError(
            f"{folder} holds a {card.architecture}, but distill.student = {architecture}; change one of them"
        )
    own = net.backbone if isinstance(net, Projected) else net
    tensors = own.state_dict()
    if card.classes != classes:
        tensors = {name: each for name, each in tensors.items() if not name.startswith("fc.")}
    return tensors, card.sha256


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}\0".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
