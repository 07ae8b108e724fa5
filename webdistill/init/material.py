"""Teacher folder and test set, from what people have: a file of weights, folders of labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from webdistill.core.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 25_000_000
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class NewTeacher:
    """A network of webdistill.models.names and the file with its weights, to become a teacher folder."""

    network: str
    weights: Path
    classes: tuple[str, ...]
    image_size: int
    mean: Triple
    std: Triple


def write_teacher(new: NewTeacher, folder: Path) -> None:
    """weights.safetensors and config.json, checked by loading them. Raises UserError when they do not fit together."""
    from webdistill.models.checkpoint import load_network, load_weights, save_network
    from webdistill.models.zoo import build

    if not new.weights.is_file():
        raise UserError(f"--weights {new.weights}: there is no such file")
    try:
        net = build(new.network, len(new.classes), new.image_size)
    except UserError as error:
        raise UserError(f"--network: {error}") from None
    try:
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


def labelled(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Image files in subfolders that are named after classes, sorted. Raises UserError naming --test."""
    if not folder.is_dir():
        raise UserError(f"--test {folder}: expected a folder with a subfolder of images per class")
    number = {name.strip().casefold(): k for k, name in enumerate(classes)}
    found = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        label = number.get(inner.name.strip().casefold())
        if label is None:
            raise UserError(
                f"--test {folder}: the subfolder '{inner.name}' is named after none of the classes"
            )
        found += [(file, label) for file in sorted(inner.rglob("*")) if file.suffix.lower() in ENDINGS]  # fmt: skip
    if not found:
        raise UserError(
            f"--test {folder}: no image ({', '.join(ENDINGS)}) in a subfolder named after a class"
        )
    return found


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
