"""python -m webdistill check-teacher finds what would go wrong, and only that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tests.models.photographs import CLASSES, KNOWN, photographs, trained_with
from webdistill.__main__ import main
from webdistill.core.files import read_table, sha256_file, write_table
from webdistill.harness.params import read_yaml
from webdistill.images.gate import encode
from webdistill.images.pool import IMAGE_TYPE, PoolRow, write_pool
from webdistill.models.checkpoint import load_network, save_network
from webdistill.models.cost import parameters
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[3]
QUICKSTART = ROOT / "data" / "quickstart"
COUNT = 60  # test images
BEFORE = ["loading", "classes", "image size"]  # what is looked at before the network runs


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml, test images and a right teacher (ImageNet's normalisation); the current one."""
    monkeypatch.chdir(tmp_path)
    raw = read_yaml(ROOT / "params.yaml")
    raw["task"] |= {
        "classes": CLASSES, "threads": 1, "teacher": "teacher",
        "test_images": "images.parquet", "test_labels": "labels.parquet",
    }  # fmt: skip
    raw["distill"] |= {"student": "resnet8", "method": "kd"}  # as large as the teacher
    (tmp_path / "params.yaml").write_text(json.dumps(raw))
    images = photographs(COUNT)
    rows = [{"bytes": encode(Image.fromarray(image)), "path": None} for image in images]
    ids = [f"i{number}" for number in range(len(images))]
    write_table(
        pa.table({"id": ids, "image": pa.array(rows, IMAGE_TYPE)}), tmp_path / "images.parquet"
    )
    save_teacher(tmp_path, "ImageNet")
    return tmp_path


def save_teacher(
    task: Path, card: str, trained: str = "ImageNet", border: bool = False, **changes: object
) -> None:
    facts = {
        "architecture": "resnet8", "classes": CLASSES, "image_size": 32,
        "mean": list(KNOWN[card].mean), "std": list(KNOWN[card].std),
    }  # fmt: skip
    net = trained_with(trained, photographs(100, seed=1), border)
    save_network(task / "teacher", net, facts | changes)


def write_labels(task: Path, values: np.ndarray, name: str = "labels.parquet") -> None:
    ids = [f"i{number}" for number in range(len(values))]
    write_table(pa.table({"id": ids, "label": pa.array(values, pa.int64())}), task / name)


def own_answers(task: Path) -> np.ndarray:
    """Classes that the teacher gives to the test images."""
    teacher = load_network(task / "teacher")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (teacher.card.mean, teacher.card.std))
    x = (torch.from_numpy(photographs(COUNT)).permute(0, 3, 1, 2) / 255 - mean) / std
    return teacher.net(x).argmax(1).numpy()


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str], str]:
    """-> exit code, {what: level}, the whole text in one line."""
    code = main(["check-teacher", *arguments])
    shown = capsys.readouterr()
    assert not shown.err
    levels = {}
    for line in shown.out.splitlines():
        level, _, rest = line.partition("  ")
        if level.strip() in ("ok", "warn", "fail"):
            levels[rest.strip().split("  ")[0]] = level.strip()
    return code, levels, " ".join(shown.out.split())


# -- the whole command --------------------------------------------------------------------------------------
def test_a_right_teacher_passes_without_labels(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """labels.parquet does not even exist."""
    code, levels, text = checked(capsys)
    assert code == 0
    assert levels.pop("class order") == "warn"  # nothing names the pictures
    assert set(levels.values()) == {"ok"}
    assert list(levels) == [*BEFORE, "normalisation", "answers", "cost", "student"]
    size = parameters(build("resnet8", 4))
    assert f"{size:,} parameters, 12.2 million multiply-adds an image of 32 px" in text
    assert f"resnet8 with kd has {size:,} parameters (100.0% of the teacher's {size:,})" in text
    assert text.endswith("7 ok, 1 warn, 0 fail")


def test_a_wrong_normalisation_is_told_with_the_right_one(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_teacher(task, "-1 to 1", "ImageNet")
    code, levels, text = checked(capsys)
    assert (code, levels["normalisation"]) == (0, "warn")
    assert "'ImageNet' fits the teacher's first BatchNorm clearly better than the card's" in text
    assert (
        'put into config.json "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]' in text
    )


def test_wrong_images_are_not_blamed_on_the_teacher(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark = photographs(60) // 8
    rows = [{"bytes": encode(Image.fromarray(image)), "path": None} for image in dark]
    ids = [f"d{number}" for number in range(60)]
    write_table(pa.table({"id": ids, "image": pa.array(rows, IMAGE_TYPE)}), task / "dark.parquet")
    save_teacher(task, "ImageNet", "ImageNet")
    _, levels, text = checked(capsys, "--images", "dark.parquet")
    assert levels["normalisation"] == "warn"
    assert "no usual one fits" in text or "clearly better" in text


def test_classes_in_another_order(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_teacher(task, "ImageNet", classes=["bee", "ant", "cat", "dog"])
    code, levels, text = checked(capsys)
    assert (code, levels["classes"]) == (2, "fail")
    assert "in another order (0 is 'bee' in the card, 'ant' in the task, 1 is 'ant'" in text


def test_classes_that_differ(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_teacher(task, "ImageNet", classes=["ant", "bee", "cow", "dog"])
    code, levels, text = checked(capsys)
    assert (code, levels["classes"]) == (2, "fail")
    assert "only in the task: 'cat'; only in the card: 'cow'" in text


@pytest.mark.parametrize(("allowed", "level", "code"), [(False, "fail", 2), (True, "warn", 0)])
def test_another_image_size(
    task: Path, capsys: pytest.CaptureFixture[str], allowed: bool, level: str, code: int
) -> None:
    save_teacher(task, "ImageNet", image_size=64)
    raw = read_yaml(task / "params.yaml")
    raw["score"]["other_image_size"] = allowed
    (task / "params.yaml").write_text(json.dumps(raw))
    found, levels, text = checked(capsys)
    assert (found, levels["image size"]) == (code, level)
    assert f"an image of {32 if allowed else 64} px" in text  # looked at as the pipeline would


def test_a_network_that_takes_no_images_of_the_tasks_size(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (task / "mynet.py").write_text(
        "from torch import nn\ndef make(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, num_classes))\n"
    )
    card = {"architecture": "mynet:make", "classes": CLASSES, "image_size": 16}
    save_network(
        task / "teacher", build("mynet:make", 4, 16), card | {"mean": [0.5] * 3, "std": [0.2] * 3}
    )
    raw = read_yaml(task / "params.yaml")
    raw["score"]["other_image_size"] = True
    (task / "params.yaml").write_text(json.dumps(raw))
    code, levels, text = checked(capsys)
    assert (code, levels["answers"]) == (2, "fail")
    assert "takes no image of 32 px" in text


def test_altered_weights(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = task / "teacher" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    code, levels, text = checked(capsys)
    assert (code, levels["loading"]) == (2, "fail")
    assert f"sha256 of weights.safetensors: {sha256_file(path)}" in text
    assert list(levels) == BEFORE


def test_a_state_dict_of_torch_is_named(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = task / "teacher"
    torch.save(load_network(folder).net.state_dict(), folder / "weights.pt")
    (folder / "weights.safetensors").unlink()
    path = folder / "config.json"
    digest = sha256_file(folder / "weights.pt")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": digest}))
    code, _, text = checked(capsys)
    assert code == 0
    assert f"weights.pt (a state dict, read as plain tensors), sha256 {digest[:12]}" in text


def test_weights_of_a_new_network(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads((task / "teacher" / "config.json").read_text())
    save_network(task / "teacher", build("resnet8", 4), card)
    _, levels, text = checked(capsys)
    assert levels["normalisation"] == "warn"
    assert "those of a new network" in text


def test_a_network_without_batchnorm(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads((task / "teacher" / "config.json").read_text())
    card["architecture"] = "timm:test_vit"
    save_network(task / "teacher", build("timm:test_vit", 4, 32), card)
    code, levels, text = checked(capsys)
    assert (code, levels["normalisation"]) == (0, "warn")
    assert "has no BatchNorm" in text


def test_numbers_that_are_none(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = trained_with("ImageNet", photographs(50), border=False)
    net.fc.bias.data[0] = float("nan")
    save_network(task / "teacher", net, json.loads((task / "teacher/config.json").read_text()))
    code, levels, _ = checked(capsys)
    assert (code, levels["answers"]) == (2, "fail")


# -- the student ---------------------------------------------------------------------------------------------
def set_distill(task: Path, **changes: object) -> None:
    raw = read_yaml(task / "params.yaml")
    raw["distill"] |= changes
    (task / "params.yaml").write_text(json.dumps(raw))


@pytest.mark.parametrize("images", [True, False])
def test_a_student_larger_than_the_teacher_is_a_warning(
    task: Path, capsys: pytest.CaptureFixture[str], images: bool
) -> None:
    set_distill(task, method="simkd")
    if not images:
        (task / "images.parquet").unlink()
    code, levels, text = checked(capsys)
    assert (code, levels["student"]) == (0, "warn")
    assert "12.2), projector and the teacher's classifier included; the student has more" in text
    assert "name a smaller network in distill.student, or set distill.method to kd" in text


@pytest.mark.parametrize(
    ("student", "weights", "said"),
    [
        ("torchvision:shufflenet_v2_x0_5", "auto", True),
        ("torchvision:shufflenet_v2_x0_5", "pretrained", False),
        ("resnet8", None, False),  # no library has weights for it
    ],
)
def test_a_library_network_that_starts_fresh_is_told_of_its_weights(
    task: Path, capsys: pytest.CaptureFixture[str], student: str, weights: str | None, said: bool
) -> None:
    set_distill(task, student=student, student_weights=weights)
    assert ("it starts fresh: distill.student_weights = pretrained" in checked(capsys)[2]) is said


def test_a_student_that_does_not_exist_fails(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_distill(task, student="torchvision:nothing")
    code, levels, text = checked(capsys)
    assert (code, levels["student"]) == (2, "fail")
    assert "torchvision:nothing with kd: torchvision has no classification network" in text


def test_a_compensation_is_said_to_come_on_top(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deconfound = read_yaml(task / "params.yaml")["distill"]["deconfound"]
    for inference, told in (("compensated", True), ("raw", False)):
        changed = {"dictionary": "prototypes", "inference": inference}
        set_distill(task, deconfound=deconfound | changed)
        text = checked(capsys)[2]
        assert ("the compensation of distill.deconfound comes on top" in text) == told


# -- accuracy ------------------------------------------------------------------------------------------------
def test_labels_are_read_only_when_they_are_named(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (task / "labels.parquet").write_text("no Parquet file")
    assert checked(capsys)[0] == 0
    assert main(["check-teacher", "--labels", "labels.parquet"]) == 2
    assert "damaged or no Parquet file" in capsys.readouterr().err


@pytest.mark.parametrize(("stated", "level"), [(0.75, "ok"), (None, "ok"), (0.99, "warn")])
def test_accuracy_is_compared_with_the_cards(
    task: Path, capsys: pytest.CaptureFixture[str], stated: float | None, level: str
) -> None:
    save_teacher(task, "ImageNet", test_accuracy=stated)
    labels = own_answers(task)
    labels[::4] = (labels[::4] + 1) % 4  # a quarter wrong
    write_labels(task, labels)
    code, levels, text = checked(capsys, "--labels", "labels.parquet")
    assert (code, levels["accuracy"]) == (0, level)
    assert "75.0% +- 5.6% on 60 images" in text


def test_accuracy_of_chance_fails(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(task, (own_answers(task) + 1) % 4)
    code, levels, text = checked(capsys, "--labels", "labels.parquet")
    assert (code, levels["accuracy"]) == (2, "fail")
    assert "0.0%" in text
    assert "no better than guessing" in text


def test_images_without_a_label_are_left_out(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(task, own_answers(task)[:50])
    assert "100.0% +- 2.0% on 50 images" in checked(capsys, "--labels", "labels.parquet")[2]


# -- where images come from ----------------------------------------------------------------------------------
def test_the_pool_is_the_default(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = task / "data" / "fetch" / "pool"
    pool.parent.mkdir(parents=True)
    rows = [
        PoolRow(f"p{n}", encode(Image.fromarray(image)), 32, 32, "", "")
        for n, image in enumerate(photographs(120))
    ]
    write_pool(rows, pool, shard_size=20)
    text = checked(capsys)[2]
    assert "given for 80 images" in text  # four of the six shards
    (task / "images.parquet").unlink()
    assert checked(capsys)[0] == 0


def test_without_any_images_the_rest_is_checked(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (task / "images.parquet").unlink()
    code, levels, text = checked(capsys)
    assert (code, levels["normalisation"], levels["cost"]) == (0, "warn", "ok")
    assert "`dvc repro fetch` collects some, or" in " ".join(text.split())
    assert "--images" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "teacher folder nowhere does not exist"),
        (["."], "config.json does not exist"),
        (["--images", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["--images", "teacher"], "holds no .parquet file"),
        (["--labels", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["--images", "labels.parquet"], "has no column 'image'; it has id, label"),
        (["--labels", "images.parquet"], "has no column 'label'"),
        (["--labels", "far.parquet"], "label 4 is outside 0-3"),
        (["--params", "nowhere.yaml"], "there is no nowhere.yaml"),
    ],
)
def test_what_is_missing_is_told_in_one_line(
    task: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write_labels(task, np.zeros(COUNT, int))
    write_labels(task, np.full(COUNT, 4), "far.parquet")
    assert main(["check-teacher", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_help_imports_no_torch() -> None:
    code = "import sys, webdistill.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# -- the quickstart's teacher ----------------------------------------------------------------------------------
@pytest.mark.skipif(not QUICKSTART.exists(), reason="the quickstart's data are not checked out")
@pytest.mark.parametrize(("card", "level"), [("CIFAR-10", "ok"), ("-1 to 1", "warn")])
def test_real_images_and_a_real_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], card: str, level: str
) -> None:
    facts = json.loads((QUICKSTART / "teacher" / "config.json").read_text())
    facts |= {"mean": list(KNOWN[card].mean), "std": list(KNOWN[card].std)}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    weights = QUICKSTART / "teacher" / "weights.safetensors"
    (tmp_path / "weights.safetensors").symlink_to(weights)
    raw = read_yaml(ROOT / "params.yaml")
    raw["task"]["threads"] = 1
    (tmp_path / "params.yaml").write_text(json.dumps(raw))
    few = read_table(QUICKSTART / "test" / "images.parquet").slice(0, 64)
    write_table(few, images := tmp_path / "images.parquet")
    code, levels, _ = checked(
        capsys, str(tmp_path), "--images", str(images), "--params", str(tmp_path / "params.yaml")
    )
    assert (code, levels["normalisation"]) == (0, level)
