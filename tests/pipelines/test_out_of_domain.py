"""Leave one domain out: readers of every layout, parts, teacher, table; on small data sets made here."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch.nn import functional as F

from pipelines import cell, labelled
from pipelines.out_of_domain import table, teacher
from pipelines.out_of_domain.prepare import load, prepare, split
from pipelines.out_of_domain.readers import Source, open_source
from stages.evaluate.testset import read as read_test
from stages.search.candidates import collect
from stages.search.keywords import Keywords
from stages.search.local import open_local
from webdistill.core.errors import UserError
from webdistill.core.files import write_json
from webdistill.core.params import read_yaml
from webdistill.images.gate import decode
from webdistill.images.views import Views
from webdistill.models.checkpoint import load_network
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipelines" / "out_of_domain"
CLASSES = ["bike", "mug"]
COLOURS = itertools.count()


def picture(suffix: str = ".png", size: tuple[int, int] = (12, 10), colour: int = -1) -> bytes:
    """A picture unlike all before, or one with the number `colour`; its halves differ."""
    number = colour if colour >= 0 else 1_000_000 + next(COLOURS)
    rgb = (number % 251, number // 251 % 251, number // 63_001 % 251)
    image = Image.new("RGB", size, rgb)
    image.paste((rgb[1], rgb[2], rgb[0]), (0, 0, size[0] // 2, size[1]))
    out = io.BytesIO()
    image.save(out, {".jpg": "JPEG", ".JPEG": "JPEG"}.get(suffix, "PNG"))
    return out.getvalue()


def put(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(path.suffix) if data is None else data)
    return path


def tree(root: Path, *domains: str, classes: list[str] = CLASSES, count: int = 2) -> Path:
    """<root>/<domain>/<class>/<number>.png; a domain may end in a folder, as "amazon/images"."""
    for domain, name, number in itertools.product(domains, classes, range(count)):
        put(root / domain / name / f"{number:03d}.png")
    return root


def counts(source: Source) -> dict[str, dict[str, int]]:
    return {
        name: dict(Counter(label for _, label in domain.read(source.classes)))
        for name, domain in source.domains.items()
    }


# -- readers ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("domains", "names"),
    [
        (["amazon/images", "dslr/images", "webcam/images"], ["amazon", "dslr", "webcam"]),
        (
            ["Art", "Clipart", "Product", "Real World"],
            ["art", "clipart", "product", "real_world"],
        ),
        (["amazon", "caltech", "dslr", "webcam"], ["amazon", "caltech", "dslr", "webcam"]),
        (
            ["kfold/art_painting", "kfold/cartoon", "kfold/photo", "kfold/sketch"],
            ["art_painting", "cartoon", "photo", "sketch"],
        ),
        (["inner/data/one", "inner/data/two"], ["one", "two"]),
        (["train", "validation"], ["train", "validation"]),
    ],
)
def test_folder_layouts_are_recognised(
    tmp_path: Path, domains: list[str], names: list[str]
) -> None:
    put(tmp_path / "README.md", b"about")
    put(tmp_path / "splits" / "a.txt", b"x")
    source = open_source(tree(tmp_path, *domains))
    assert list(source.domains) == names
    assert source.classes == ("bike", "mug")
    assert counts(source) == {name: {"bike": 2, "mug": 2} for name in names}
    assert not source.notes


def test_pictures_come_sorted_with_their_bytes(tmp_path: Path) -> None:
    tree(tmp_path, "b")
    for name in ("mug/b.jpg", "mug/a.JPEG", "bike/c.png"):
        put(tmp_path / "a" / name)
    found = list(open_source(tmp_path).domains["a"].read(CLASSES))
    order = [("bike/c.png", "bike"), ("mug/a.JPEG", "mug"), ("mug/b.jpg", "mug")]
    assert found == [((tmp_path / "a" / name).read_bytes(), label) for name, label in order]


def test_hidden_files_links_and_other_files_are_passed_over(tmp_path: Path) -> None:
    tree(tmp_path / "data", "one", "two")
    real = tmp_path / "data" / "one" / "mug" / "000.png"
    for name in ("one/.DS_Store", "one/mug/.hidden.png", "one/mug/notes.txt", "one/mug/._000.png"):
        put(tmp_path / "data" / name, b"x")
    put(tmp_path / "data" / "__MACOSX" / "mug" / "a.png")
    put(tmp_path / "data" / "__MACOSX" / "bike" / "a.png")
    put(tmp_path / "data" / ".cache" / "mug" / "a.png")
    (tmp_path / "data" / "one" / "mug" / "link.png").symlink_to(real)
    (tmp_path / "data" / "one" / "linked").symlink_to(real.parent)
    (tmp_path / "data" / "three").symlink_to(tmp_path / "data" / "one")
    (tmp_path / "place").symlink_to(tmp_path / "data")  # the data set itself may be a link
    source = open_source(tmp_path / "place")
    assert counts(source) == {name: {"bike": 2, "mug": 2} for name in ("one", "two")}


def test_only_classes_of_all_domains_are_used_and_that_is_said(tmp_path: Path) -> None:
    tree(tmp_path, "one", "two")
    tree(tmp_path, "two", classes=["lamp"])
    source = open_source(tmp_path)
    assert source.classes == ("bike", "mug")
    assert source.notes == ("1 classes are not in all domains: lamp",)
    assert counts(source)["two"] == {"bike": 2, "mug": 2}


def test_visda_test_images_get_their_classes_from_the_numbered_list(tmp_path: Path) -> None:
    tree(tmp_path, "train", "validation", classes=["car", "person", "train"])
    for trunk, number in itertools.product(("trunk00", "trunk01"), range(3)):
        put(tmp_path / "test" / trunk / f"{number}.jpg")
    unlisted = open_source(tmp_path)
    assert list(unlisted.domains) == ["train", "validation"]
    assert "test is left out: its image_list.txt does not number classes" in unlisted.notes[0]
    lines = ["trunk00/0.jpg 0", "trunk00/1.jpg 1", "trunk01/0.jpg 2", "trunk01/2.jpg 2"]
    put(tmp_path / "test" / "image_list.txt", "\n".join(lines).encode())
    source = open_source(tmp_path)
    assert counts(source)["test"] == {"car": 1, "person": 1, "train": 2}
    assert source.classes == ("car", "person", "train")
    put(tmp_path / "test" / "image_list.txt", b"trunk00/0.jpg 3\n")
    with pytest.raises(UserError, match=r"image_list\.txt: '3' numbers none of 3 classes"):
        open_source(tmp_path)


def test_of_domainnet_only_listed_pictures_are_used(tmp_path: Path) -> None:
    tree(tmp_path, "clipart", "real", count=3)
    put(tmp_path / "clipart_train.txt", b"clipart/bike/000.png 0\nclipart/mug/001.png 1\n")
    put(tmp_path / "clipart_test.txt", b"clipart/bike/002.png 0\n../secret.png 0\n")
    source = open_source(tmp_path)
    assert counts(source) == {"clipart": {"bike": 2, "mug": 1}, "real": {"bike": 3, "mug": 3}}
    note = "clipart_train.txt and clipart_test.txt list 4 pictures; 3 of 6 here are used"
    assert source.notes == (note,)
    put(tmp_path / "real_train.txt", b"real/lamp/0.png 0\n")
    with pytest.raises(UserError, match=r"real_train\.txt lists none of the 6 pictures of"):
        open_source(tmp_path)


def parquet(path: Path, rows: list[tuple[bytes, str, str]], struct: bool = False) -> Path:
    images: list[Any] = [{"bytes": r[0], "path": ""} if struct else r[0] for r in rows]
    pq.write_table(
        pa.table({"image": images, "domain": [r[1] for r in rows], "class": [r[2] for r in rows]}),
        path,
        row_group_size=3,
    )
    return path


@pytest.mark.parametrize("struct", [False, True])
def test_a_parquet_file_is_read_by_domain(tmp_path: Path, struct: bool) -> None:
    rows = [(picture(), d, c) for _ in range(4) for d in ("photo", "sketch") for c in CLASSES]
    source = open_source(parquet(tmp_path / "set.parquet", rows, struct))
    assert list(source.domains) == ["photo", "sketch"]
    assert list(source.domains["sketch"].read(["mug"])) == [
        (data, name) for data, domain, name in rows if (domain, name) == ("sketch", "mug")
    ]


def test_what_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(UserError) as caught:
            open_source(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nowhere does not exist; name it as prepare.source" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no folders <domain>/<class>/ with pictures" in refused(tmp_path / "empty")
    tree(tmp_path / "alone", "Art")
    assert "holds no folders <domain>/<class>/" in refused(tmp_path / "alone" / "Art")
    two = tree(tree(tmp_path / "both", "x/one", "x/two"), "y/one", "y/two")
    assert "holds several data sets, " in refused(two)
    tree(tmp_path / "apart", "one", classes=["a", "b"])
    tree(tmp_path / "apart", "two", classes=["c", "d"])
    assert "no two classes in common: one has a, b; two has c, d" in refused(tmp_path / "apart")
    tree(tmp_path / "same", "Real World", "real_world")
    assert "'real_world' is empty or taken" in refused(tmp_path / "same")
    one = parquet(tmp_path / "one.parquet", [(picture(), "photo", c) for c in CLASSES])
    assert "holds 1 domain; prepare.source needs at least two" in refused(one)
    pq.write_table(pa.table({"domain": ["a"], "class": ["b"]}), tmp_path / "bare.parquet")
    assert "needs a column 'image' with the bytes" in refused(tmp_path / "bare.parquet")
    pq.write_table(pa.table({"image": [b""], "domain": ["a"]}), tmp_path / "bare.parquet")
    assert "has no column 'class'" in refused(tmp_path / "bare.parquet")


# -- parts -----------------------------------------------------------------------------------------------------
def test_parts_are_stratified_disjoint_and_whole() -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [100, 37, 7]))
    parts = split(labels, (0.8, 0.1, 0.1))
    assert sorted(np.concatenate(parts).tolist()) == list(range(144))
    for part, expected in zip(parts, ([80, 30, 6], [10, 3, 0], [10, 4, 1]), strict=True):
        assert np.bincount(labels[part], minlength=3).tolist() == expected
        assert part.tolist() == sorted(part.tolist())


def test_pictures_do_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    rows = [(picture(), d, c) for _ in range(6) for d in ("photo", "sketch") for c in CLASSES]
    first = open_source(parquet(tmp_path / "a.parquet", rows))
    second = open_source(parquet(tmp_path / "b.parquet", rows[::-1]))
    for name in first.domains:
        one, two = (load(source, name, CLASSES, 8)[0] for source in (first, second))
        assert one.ids == two.ids
        assert np.array_equal(one.labels, two.labels)
        assert np.array_equal(one.pixels, two.pixels)
    hashes = [hashlib.sha256(data).hexdigest() for data, d, _ in rows if d == "photo"]
    of = {hashlib.sha256(data).hexdigest(): CLASSES.index(c) for data, _, c in rows}
    pictures, _ = load(first, "photo", CLASSES, 8)
    assert pictures.labels.tolist() == [of[each] for each in sorted(hashes)]


def test_of_equal_pictures_one_stays_and_none_under_two_classes(tmp_path: Path) -> None:
    tree(tmp_path, "one", "two")
    put(tmp_path / "one" / "mug" / "again.png", (tmp_path / "one/mug/000.png").read_bytes())
    for name in CLASSES:
        put(tmp_path / "one" / name / "both.png", picture(colour=77))
    put(tmp_path / "one" / "bike" / "broken.png", picture()[:40])
    put(tmp_path / "one" / "bike" / "text.jpg", b"no picture")
    pictures, told = load(open_source(tmp_path), "one", CLASSES, 8)
    assert sorted(pictures.labels.tolist()) == [0, 0, 1, 1]
    assert told == "one: 4 pictures, 2 refused, 3 left out as equal to another"
    assert pictures.pixels.shape == (4, 8, 8, 3)


def settings(source: Path, size: int = 16) -> dict[str, Any]:
    """The pipeline's own params.yaml for a small data set, with a small teacher."""
    values = read_yaml(PIPELINE / "params.yaml")
    values["prepare"]["source"] = str(source)
    values["settings"] = ["one", "three"]
    values["common"]["task"].update(classes=CLASSES, image_size=size, threads=1)
    small = {"architecture": "resnet8", "epochs": 1, "batch_size": 16, "precision": "float32"}
    values["teacher"].update(small)
    return values


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """work/ of three domains with 20 pictures of each of two classes; one of them is in domain one and two."""
    root = tmp_path_factory.mktemp("out_of_domain")
    tree(root / "data", "one", "two", "three", count=19)
    for domain in ("one", "two", "three"):
        shared = picture(colour=5) if domain != "three" else None
        put(root / "data" / domain / "mug" / "last.png", shared)
        put(root / "data" / domain / "bike" / "last.png")
    values = settings(root / "data")
    prepare(values, root, root / "work")
    return root / "work", values


def ids_of(path: Path) -> list[str]:
    found: list[str] = pq.read_table(path)["id"].to_pylist()
    return found


def test_prepared_parts_are_disjoint_and_hold_every_picture(
    prepared: tuple[Path, dict[str, Any]],
) -> None:
    work, _ = prepared
    assert sorted(p.name for p in work.iterdir()) == ["one", "three"]
    for domain in ("one", "three"):
        listed = pq.read_table(work / domain / "list.parquet")
        assert Counter(listed["query"].to_pylist()) == {"bike": 16, "mug": 16}
        assert set(listed["licence"].to_pylist()) == {"PACS: for research"}
        pixels = {decode(data).tobytes() for data in listed["image"].to_pylist()}
        for part in ("val", "test"):
            folder = work / domain / part
            test = read_test(folder / "images.parquet", folder / "labels.parquet", 16, 2)
            assert test.labels.tolist().count(0) == test.labels.tolist().count(1) == 2
            assert not pixels & {image.tobytes() for image in test.images}
            pixels |= {image.tobytes() for image in test.images}
        assert len(pixels) == 40


def test_the_list_is_one_that_search_takes(prepared: tuple[Path, dict[str, Any]]) -> None:
    path, words = prepared[0] / "one" / "list.parquet", Keywords(CLASSES)
    found = collect(open_local(path, str(path), {}, words).rows(), words)
    assert found.counts["source_embedded"] == found.counts["with_query"] == 32
    assert set(found.table["query"].to_pylist()) == set(CLASSES)


def test_the_teacher_gets_the_other_domains_without_what_the_student_has(
    prepared: tuple[Path, dict[str, Any]],
) -> None:
    work, values = prepared
    data = load_file(work / "one" / "teacher_data.safetensors")
    assert data["images"].shape == (71, 16, 16, 3)  # 0.9 * 19 = 17.1 mugs of domain two, else 18
    assert data["images"].dtype == np.uint8
    assert len(data["held_out_labels"]) == 8
    source = open_source(Path(values["prepare"]["source"]))
    known = {
        name: {image.tobytes() for image in load(source, name, CLASSES, 16)[0].pixels}
        for name in source.domains
    }
    shown = {image.tobytes() for key in ("images", "held_out_images") for image in data[key]}
    assert len(shown) == len(data["images"]) + len(data["held_out_images"])
    assert shown == (known["two"] | known["three"]) - known["one"]
    assert len(known["two"] & known["one"]) == 1


def test_preparing_again_or_one_domain_alone_gives_the_same_bytes(
    prepared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    work, values = prepared
    moved = tmp_path / "moved"
    shutil.copytree(values["prepare"]["source"], moved)
    again = {**values, "prepare": {**values["prepare"], "source": str(moved)}}
    prepare(again, tmp_path, tmp_path / "work", "three")
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["three"]
    names = [p.relative_to(tmp_path / "work") for p in (tmp_path / "work").rglob("*.*")]
    assert len(names) == 6
    for name in names:
        assert (tmp_path / "work" / name).read_bytes() == (work / name).read_bytes(), name


def test_wrong_domains_and_classes_are_one_line(
    prepared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, values = prepared
    with pytest.raises(UserError, match="has no domain 'four'; it has one, three, two"):
        prepare(values, tmp_path, tmp_path / "work", "four")
    values = settings(Path(values["prepare"]["source"]))
    values["common"]["task"]["classes"] = ["mug", "lamp"]
    expected = r"the class 'lamp' of common\.task\.classes; those of all domains are \[bike, mug\]"
    with pytest.raises(UserError, match=expected):
        prepare(values, tmp_path, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    values["common"]["task"]["classes"] = CLASSES
    small = tree(tmp_path / "small", "one", "two", "three", count=3)
    shutil.copy(small / "two/mug/000.png", small / "one/mug/000.png")
    for number in (1, 2):
        (small / "one" / "mug" / f"{number:03d}.png").write_bytes(b"broken")
    values["prepare"]["source"] = str(small)
    for number in (1, 2):
        (small / "two" / "mug" / f"{number:03d}.png").write_bytes(b"broken")
        (small / "three" / "mug" / f"{number:03d}.png").write_bytes(b"broken")
    shutil.copy(small / "two/mug/000.png", small / "three/mug/000.png")
    with pytest.raises(UserError, match="domain 'one': class 'mug' is left without teacher images"):
        prepare(values, tmp_path, tmp_path / "work", "one")


# -- teacher ---------------------------------------------------------------------------------------------------
def test_a_teacher_is_trained_and_its_card_says_what_is_measured(
    prepared: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    work, values = prepared
    measured = teacher.make(values, "one", work / "one")
    assert "epoch 1/1: loss " in capsys.readouterr().err
    network = load_network(work / "one" / "teacher")
    assert network.card.classes == ("bike", "mug")
    assert network.card.image_size == 16
    data = load_file(work / "one" / "teacher_data.safetensors")
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (teacher.MEAN, teacher.STD))
    x = torch.from_numpy(data["held_out_images"]).permute(0, 3, 1, 2) / 255
    right = network.net((x - mean) / std).argmax(1).numpy() == data["held_out_labels"]
    assert network.card.test_accuracy == round(measured, 4) == round(float(right.mean()), 4)
    with pytest.raises(UserError, match=r"does not exist; run python -m .*prepare three"):
        teacher.make(values, "three", work / "absent")


def test_training_with_labels_is_plain_sgd() -> None:
    """Against the formula by hand: v = 0.9 v + g + wd w, w -= lr (g + wd w + 0.9 v), BN and bias without wd."""
    images = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8)
    labels = torch.arange(40) % 3
    values = {
        "epochs": 2, "steps_per_epoch": None, "batch_size": 16, "warmup_epochs": 1,
        "decay": "cosine", "weight_decay": 0.01, "min_scale": 0.5, "precision": "float32",
    }  # fmt: skip
    net = labelled.train(
        images, labels, values, 0.1, 4, architecture="resnet8", classes=3, mean=teacher.MEAN, std=teacher.STD
    )  # fmt: skip
    torch.manual_seed(4)
    other = build("resnet8", 3).to(memory_format=torch.channels_last)
    views = Views(images, teacher.MEAN, teacher.STD, seed=4, min_scale=0.5, mixup=0.0)
    generator = torch.Generator().manual_seed(4)
    velocity = {name: torch.zeros_like(p) for name, p in other.named_parameters()}
    for step in range(
        4
    ):  # 2 epochs of 40 // 16 steps; a pass ends when fewer than 16 images are left
        if step % 2 == 0:
            order = torch.randperm(40, generator=generator)
        rows = order[16 * (step % 2) : 16 * (step % 2) + 16]
        rate = 0.1 * ((step + 1) / 2 if step < 2 else (1 + math.cos(math.pi * (step - 2) / 2)) / 2)
        other.zero_grad()
        F.cross_entropy(other(views(step // 2 + 1, rows)), labels[rows]).backward()
        with torch.no_grad():
            for name, p in other.named_parameters():
                gradient = p.grad + (0.01 * p if p.ndim > 1 else 0)
                velocity[name] = 0.9 * velocity[name] + gradient
                p.sub_(rate * (gradient + 0.9 * velocity[name]))
    for (name, own), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(own, theirs, atol=1e-5), name


def test_accuracy_counts_right_answers_of_plain_images() -> None:
    torch.manual_seed(0)
    net = build("resnet8", 2)
    images = torch.randint(0, 256, (9, 16, 16, 3), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 1])
    found = labelled.accuracy(net, images, labels, teacher.MEAN, teacher.STD)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (teacher.MEAN, teacher.STD))
    with torch.no_grad():
        answers = net.eval()((images.permute(0, 3, 1, 2) / 255 - mean) / std).argmax(1)
    assert found == int((answers == labels).sum()) / 9


# -- cells and table ---------------------------------------------------------------------------------------------
def overrides(command: list[str]) -> dict[str, str]:
    pairs = [v for flag, v in itertools.pairwise(command) if flag == "--set"]
    return dict(pair.split("=", 1) for pair in pairs)


def test_a_cell_of_a_setting_reads_that_settings_files() -> None:
    first, *_, last = cell.commands(PIPELINE, "kd", 2, "sketch")
    folder = str(PIPELINE / "cells" / "sketch-kd-2")
    assert first[4:7] == [folder, "--from", "pipelines/out_of_domain/pool/sketch"]
    values = overrides(last)
    assert values["task.teacher"] == '"pipelines/out_of_domain/work/sketch/teacher"'
    assert values["task.test_labels"] == (
        '"pipelines/out_of_domain/work/sketch/test/labels.parquet"'
    )
    assert "{setting}" not in " ".join(last)
    pool = cell.pool_commands(PIPELINE, "photo")[0]
    assert pool[4] == str(PIPELINE / "pool" / "photo")
    assert overrides(pool)["search.local"] == '"pipelines/out_of_domain/work/photo/list.parquet"'
    assert overrides(cell.pool_commands(PIPELINE, "photo")[2])["embed.templates"] == (
        '["a photo of a {}.", "a blurry photo of a {}."]'
    )


def test_no_cell_reads_the_images_that_are_kept_for_choices() -> None:
    text = (PIPELINE / "dvc.yaml").read_text().split("\n  cell:")[1]
    assert "/val" not in text
    assert "/val" not in str(cell.commands(PIPELINE, "augkd", 0, "photo"))


def test_settings_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(UserError, match="has settings; name one, as --setting photo or art_paint"):
        cell.commands(PIPELINE, "kd", 0)
    with pytest.raises(UserError, match="no setting 'film'; params.yaml has photo, art_painting"):
        cell.pool_commands(PIPELINE, "film")
    with pytest.raises(UserError, match="no setting 'photo'; params.yaml has none"):
        cell.commands(ROOT / "pipelines" / "compare", "kd", 0, "photo")


def finished(
    pipeline: Path, name: str, top1: float, steps: int = 400, teacher_top1: float = 0.4
) -> None:
    folder = pipeline / "cells" / name
    for stage in ("select", "distill", "evaluate"):
        (folder / stage).mkdir(parents=True)
        write_json({}, folder / stage / "metrics.json")
    figures = {"top1": top1, "top3": top1 + 0.1, "agreement": 0.5, "teacher_top1": teacher_top1}
    write_json(figures, folder / "evaluate" / "metrics.json")
    write_json({"steps": steps, "images": 100}, folder / "distill" / "metrics.json")


NAMED: dict[str, Any] = {
    "settings": ["photo", "sketch"],
    "arms": {"augkd": {}, "kd": {"distill.method": "kd"}, "fresh": {}},
    "seeds": [0, 1],
    "stages": ["select", "distill", "evaluate"],
    "data": "pool/{setting}",
    "common": {"task": {"teacher": "work/{setting}/teacher"}, "distill": {"method": "augkd"}},
    "baseline": "kd",
    "unequal": [],
}


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """Means of both domains: augkd 70 and 74 %, kd 60 and 62 %; of `fresh` one domain alone."""
    figures = {
        "photo-augkd-0": 0.80, "sketch-augkd-0": 0.60, "photo-augkd-1": 0.82, "sketch-augkd-1": 0.66,
        "photo-kd-0": 0.70, "sketch-kd-0": 0.50, "photo-kd-1": 0.72, "sketch-kd-1": 0.52,
        "photo-fresh-0": 0.90,
    }  # fmt: skip
    for name, top1 in figures.items():
        finished(tmp_path, name, top1, teacher_top1=0.4 if name.startswith("photo") else 0.2)
    return tmp_path


def test_the_mean_over_domains_is_taken_seed_by_seed(done: Path) -> None:
    results = table.read(done, NAMED)
    text = table.text(results, "kd")
    lines = text.splitlines()
    assert lines[0] == "| top-1, % | photo | sketch | mean | top-3, mean | top-5, mean |"
    half = 100 * math.sqrt(0.02**2 / 2)  # sample standard deviation of two values 2 points apart
    assert lines[2] == (
        f"| augkd | 81.00 ± {half:.2f} | 63.00 ± {3 * half:.2f} | 72.00 ± {2 * half:.2f} | "
        f"82.00 ± {2 * half:.2f} |  |"
    )
    assert lines[4] == "| fresh | 90.00 |  |  |  |  |"
    assert lines[5] == "| the teacher | 40.00 | 20.00 | 30.00 |  |  |"
    assert "| augkd | 2 | 200 | 400 | 72.00 ± 2.83 | 50.00 ± 0.00 | +11.00 [" in text
    assert "| kd | 2 | 200 | 400 | 61.00 ± 1.41 | 50.00 ± 0.00 |  |" in text
    assert "**Other data sets and\nnetworks**" in text
    assert text.endswith("\nnot yet run: photo-fresh-1, sketch-fresh-0, sketch-fresh-1\n")


def test_without_a_complete_seed_there_is_no_mean_and_no_picture(tmp_path: Path) -> None:
    finished(tmp_path, "photo-kd-0", 0.5)
    results = table.read(tmp_path, NAMED)
    assert not results.means
    assert "| kd | 50.00 |  |  |  |  |" in table.text(results, "kd")
    assert "sketch-kd-1" in results.missing
    assert [path.name for path in table.write(results, "kd", tmp_path)] == [
        "cells.csv",
        "results.md",
    ]


def test_cells_that_cannot_be_compared_are_refused(done: Path) -> None:
    finished(done, "sketch-fresh-0", 0.5, teacher_top1=0.3)
    with pytest.raises(UserError, match="differ in teacher or test set .*: sketch-fresh-0"):
        table.read(done, NAMED)
    shutil.rmtree(done / "cells")
    finished(done, "photo-kd-0", 0.5)
    finished(done, "sketch-kd-0", 0.5, steps=300)
    with pytest.raises(UserError, match="not trained for equally many optimiser steps"):
        table.read(done, NAMED)
    assert table.read(done, {**NAMED, "unequal": ["kd"]}).cells[-1].steps == 300
    finished(done, "sketch-augkd-0", 0.5, steps=300)
    finished(done, "photo-augkd-0", 0.5)
    with pytest.raises(UserError, match="not trained for equally many optimiser steps"):
        table.read(done, {**NAMED, "unequal": ["kd"]})
    shutil.rmtree(done / "cells")
    with pytest.raises(UserError, match="no finished cell in"):
        table.read(done, NAMED)


def test_files_are_the_same_each_time(done: Path) -> None:
    results = table.read(done, NAMED)
    paths = table.write(results, "kd", done)
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in table.write(results, "kd", done)] == before
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["setting"], r["arm"], r["seed"]) for r in rows[:2]] == [
        ("photo", "augkd", "0"),
        ("photo", "augkd", "1"),
    ]
    assert rows[0]["top3"] == str(0.80 + 0.1)
    with Image.open(paths[2]) as image:
        assert image.width > 500


def test_the_comparison_is_tracked_with_every_cell(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled: list[Any] = []
    monkeypatch.setattr(table, "submit_all", lambda records, folder: spooled.extend(records))
    results = table.read(done, NAMED)
    table.submit(done, NAMED, results, [])
    whole, *cells = spooled
    assert whole.metrics["augkd.top1"] == pytest.approx(0.72)
    assert whole.metrics["photo-kd.top1"] == pytest.approx(0.71)
    assert len(cells) == 9
    own = next(each for each in cells if each.stage == "sketch-kd-1")
    assert own.params["task.teacher"] == "work/sketch/teacher"
    assert own.params["distill.method"] == "kd"
    assert own.params["seed"] == 1


# -- the real thing ------------------------------------------------------------------------------------------------
def test_the_counts_of_pacs() -> None:
    named = read_yaml(PIPELINE / "params.yaml")
    path = ROOT / named["prepare"]["source"]
    if not path.exists():
        pytest.skip(f"the data set {named['prepare']['source']} is not here")
    source = open_source(path)
    assert sorted(named["settings"]) == list(source.domains)
    assert named["common"]["task"]["classes"] == list(source.classes)
    found = {name: sum(each.values()) for name, each in counts(source).items()}
    assert found == {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929}
