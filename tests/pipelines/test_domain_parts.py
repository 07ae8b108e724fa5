"""pipelines/out_of_domain: the student's parts and the teacher's data and training."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional as F

from pipelines.out_of_domain import teacher
from pipelines.out_of_domain.prepare import load, prepare, split
from pipelines.out_of_domain.readers import open_source
from pipelines.shared import labelled
from stages.evaluate.testset import read as read_test
from stages.search.candidates import collect
from stages.search.keywords import Keywords
from stages.search.local import open_local
from tests.pipelines.domains import (
    CLASSES,
    PIPELINE,
    ROOT,
    counts,
    parquet,
    picture,
    put,
    settings,
    tree,
)
from webdistill.core.errors import UserError
from webdistill.harness.params import read_yaml
from webdistill.images.gate import decode
from webdistill.images.views import Views
from webdistill.models.checkpoint import load_network
from webdistill.models.zoo import build


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
            shown = {image.tobytes() for image in test.some(test.ids)}
            assert not pixels & shown
            pixels |= shown
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
