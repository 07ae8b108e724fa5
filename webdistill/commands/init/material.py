"""Teacher folder and test set, from what people have: a file of weights, folders of labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.search.keywords import Keywords
from stages.search.sidecars import IMAGES
from webdistill.core.errors import UserError

ENDINGS = tuple(f".{ending}" for ending in IMAGES)
MAX_PIXELS = 25_000_000
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class NewTeacher:
    """A network of webdistill.models.names and the file with its weights, to become a teacher folder.

    `weights`: the file, or `pretrained`: what torchvision or timm has, whose classes are then the teacher's.
    """

    network: str
    weights: Path
    classes: tuple[str, ...]
    image_size: int
    mean: Triple
    std: Triple


def write_teacher(new: NewTeacher, folder: Path) -> None:
    """weights.safetensors and config.json, checked by loading them. Raises UserError when they do not fit together."""
    from stages.distill.params import PRETRAINED
    from webdistill.models.checkpoint import copy_into, load_network, load_weights, save_network
    from webdistill.models.zoo import build, pretrained

    library = str(new.weights) == PRETRAINED and not new.weights.is_file()
    if not library and not new.weights.is_file():
        raise UserError(f"--weights {new.weights}: there is no such file")
    try:
        net = build(new.network, len(new.classes), new.image_size)
    except UserError as error:
        raise UserError(f"--network: {error}") from None
    try:
        if library:  # the head, too: a teacher with a fresh one would know nothing
            copy_into(net, pretrained(new.network), f"{PRETRAINED} {new.network}", new.network)
        else:
            load_weights(net, new.weights, new.network)
    except UserError as error:
        raise UserError(f"--weights: {error}") from None
    card: dict[str, object] = {
        "architecture": new.network,
        "classes": list(new.classes),
        "image_size": new.image_size,
        "mean": list(new.mean),
        "std": list(new.std),
        "parameters": sum(p.numel() for p in net.parameters()),
    }
    save_network(folder, net, card)
    load_network(folder)


def labelled(folder: Path, keywords: Keywords) -> list[tuple[Path, int]]:
    """Image files in subfolders that are named after classes as `search` reads names, sorted; hidden ones are passed
    by. Raises UserError naming --test.
    """
    if not folder.is_dir():
        raise UserError(f"--test {folder}: expected a folder with a subfolder of images per class")
    number = {name: k for k, name in enumerate(keywords.words)}
    found = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name.startswith("."):
            continue
        label = number.get(keywords.class_of(inner.name))
        if label is None:
            raise UserError(
                f"--test {folder}: the subfolder '{inner.name}' is named after none of the classes; rename it, or name "
                "its class by --set 'search.keywords={CLASS: [WORD]}'"
            )
        found += [
            (file, label)
            for file in sorted(inner.rglob("*"))
            if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()
        ]
    if not found:
        raise UserError(
            f"--test {folder}: no image ({', '.join(ENDINGS)}) in a subfolder named after a class"
        )
    return found


def untested(test: Sequence[tuple[Path, int]], classes: Sequence[str]) -> str:
    """The classes of which a test set has no image, in a sentence; "" where there is none, or no test set."""
    shown = {label for _, label in test}
    absent = [name for label, name in enumerate(classes) if label not in shown]
    if not test or not absent:
        return ""
    return f"--test has no image of {', '.join(absent)}: nothing will be known of the student there"


def nameless(folder: Path, classes: Sequence[str], words: Mapping[str, Sequence[str]]) -> str:
    """What `search` will say of the folder's images that match no class; "" when all do."""
    from stages.search.candidates import collect
    from stages.search.folders import without_class
    from stages.search.local import open_local

    keywords = Keywords(classes, words)
    parts = open_local(folder, folder.as_posix(), {}, keywords).parts
    loose = [row for part in parts if part.path == folder for row in part.rows()]
    return without_class(collect(loose, keywords).table)


def write_test(files: Sequence[tuple[Path, int]], size: int, folder: Path) -> int:
    """images.parquet and labels.parquet; pictures equal pixel by pixel count once. Without files: two empty tables.

    -> number of images. Raises UserError for a file that is no image.
    """
    import pyarrow as pa

    from webdistill.core.files import write_table
    from webdistill.images.gate import Rejected, open_image
    from webdistill.images.pool import IMAGE_TYPE

    rows: dict[str, tuple[bytes, int]] = {}
    for file, label in files:
        try:
            stored = open_image(file.read_bytes(), MAX_PIXELS, size)
        except Rejected as error:
            raise UserError(f"--test: {file} is no usable image ({error.status})") from None
        if rows.setdefault(stored.id, (stored.image, label))[1] != label:
            raise UserError(f"--test: {file} is also in the subfolder of another class")
    folder.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": data, "path": f"{name}.webp"} for name, (data, _) in rows.items()]
    ids = pa.array(list(rows), pa.string())
    images = pa.table({"id": ids, "image": pa.array(cells, IMAGE_TYPE)})
    labels = pa.array([label for _, label in rows.values()], pa.int64())
    write_table(images, folder / "images.parquet")
    write_table(pa.table({"id": ids, "label": labels}), folder / "labels.parquet")
    return len(rows)
