"""Checkpoints at the ends of a method's phases: what they outlive, what begins anew, and what the stage writes."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stages.distill import phases
from stages.distill.__main__ import main
from stages.distill.checkpoint import save
from stages.distill.methods.augkd import AugKd
from stages.distill.training import prepare
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, write_manifest, write_table
from webdistill.harness.params import load
from webdistill.harness.stage import Stage
from webdistill.images.gate import encode
from webdistill.images.pool import IMAGE_TYPE
from webdistill.models.checkpoint import save_network
from webdistill.models.zoo import build

YAML = Path(__file__).parents[2] / "params.yaml"
COUNT, SIZE, GREY = 20, 12, (0.5, 0.5, 0.5)
IDS = [f"{i:032x}" for i in range(COUNT)]
SETTINGS = {
    "task.classes": ["a", "b", "c"], "task.image_size": SIZE, "task.threads": 1, "task.teacher": "teacher",
    "distill.method": "augkd", "distill.student": "resnet8", "distill.epochs": 6, "distill.steps_per_epoch": 2,
    "distill.batch_size": 5, "distill.warmup_epochs": 0.0, "distill.views": 2, "distill.mixup": 0.0,
    "distill.precision": "float32", "distill.device": "cpu", "distill.augkd.latent": 6,
    "distill.augkd.free_epochs": 2, "distill.augkd.anchor_epochs": 2,
}  # fmt: skip
STUDENT = Path("data/distill/student/weights.safetensors")
FOLDER = Path(".work/phases")
# A setting that decides nothing before the end of module 1 -> another value for it.
LATER = {
    "epochs": 7, "temperature": 2.0, "augkd.a": 0.9, "augkd.b": 0.5, "augkd.mixup": False, "augkd.teacher_weight": 0.1,
    "deconfound.inference": "raw", "min_scale": 0.9, "views": 1, "augkd.anchor_epochs": 1,
    "augkd.mask_ratio": 0.6, "augkd.uncertainty": "max_softmax", "augkd.mask_start": 0.06, "augkd.anchor_lr": 0.01,
}  # fmt: skip
DRAWN: dict[str, Any] = {
    "deconfound.dictionary": "drawn", "deconfound.drawn.images": 12,
    "deconfound.drawn.count": 3, "deconfound.drawn.dims": 2, "deconfound.drawn.start": 1,
}  # fmt: skip
LATEST = {*list(LATER)[:7]}  # of these, what decides nothing before the end of module 2 either


def stage_of(**changes: Any) -> Stage:
    named = {f"distill.{key}": value for key, value in changes.items()}
    overrides = [f"{key}={json.dumps(value)}" for key, value in (SETTINGS | named).items()]
    return Stage("distill", load(YAML, overrides), None)


def run_stage(**changes: Any) -> bytes:
    """-> the student's bytes."""
    stage = stage_of(**changes)
    main(stage)
    stage.publish()
    return STUDENT.read_bytes()


def write_images(pixels: NDArray[np.uint8]) -> None:
    """The pool, [N, H, W, 3]."""
    pictures = [{"bytes": encode(Image.fromarray(each)), "path": None} for each in pixels]
    folder = Path("data/fetch/pool")
    folder.mkdir(parents=True)
    table = pa.table({"id": IDS[: len(pixels)], "image": pa.array(pictures, IMAGE_TYPE)})
    write_table(table, folder / "00000.parquet")
    write_manifest(folder)


def write_selection(keywords: list[int]) -> None:
    """Every image with the class that its keyword names, -1 = none."""
    path, count = Path("data/select/selection.parquet"), len(keywords)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "id": IDS[:count], "weight": [1.0] * count, "teacher_class": [0] * count,
        "confidence": [0.5] * count, "keyword_class": pa.array(keywords, pa.int32()),
    }  # fmt: skip
    write_table(pa.table(columns), path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose stage `distill` has run once."""
    root, before = tmp_path_factory.mktemp("finished"), Path.cwd()
    os.chdir(root)
    write_images(np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8))
    write_selection([i % 4 - 1 for i in range(COUNT)])
    card = {"classes": ["a", "b", "c"], "image_size": SIZE, "mean": GREY, "std": GREY}
    torch.manual_seed(0)
    save_network(Path("teacher"), build("resnet8", 3), {**card, "architecture": "resnet8"})
    run_stage()
    yield root
    os.chdir(before)


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def places_of(**changes: Any) -> dict[int, Path]:
    stage = stage_of(**changes)
    return phases.places(stage, prepared(stage).run)


def prepared(stage: Stage) -> Any:
    names = ("data/select/selection.parquet", "data/fetch/pool", "teacher")
    return prepare(stage, *(stage.input(name) for name in names))


# -- what checkpoints outlive ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "after"),
    [
        ({"augkd.a": 0.9}, 4), ({"augkd.b": 0.6, "temperature": 2.0}, 4), ({"augkd.mixup": False}, 4),
        ({"epochs": 7}, 4), ({"augkd.mask_ratio": 0.6}, 2), ({"augkd.anchor_epochs": 1}, 2),
        ({"augkd.anchor_epochs": 0}, 2), ({"views": 1}, 2), ({"augkd.latent": 7}, 0), ({"lr": 0.05}, 0),
        ({"augkd.free_epochs": 1}, 0), ({"augkd.anchor_lr": 0.01}, 2), ({"augkd.mask_start": 0.06}, 2),
        ({"augkd.encoder_lr": 0.01}, 0),
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_is_that_of_settings_which_count_later(
    project: Path, changes: dict[str, Any], after: int
) -> None:
    kept = [epoch for epoch, path in places_of(**changes).items() if path.exists()]
    assert max(kept, default=0) == after


@pytest.mark.parametrize(
    ("changes", "after"), [({"epochs": 7}, 4), ({"augkd.anchor_epochs": 1}, 2), ({"lr": 0.05}, 0)], ids=str
)  # fmt: skip
def test_a_run_with_other_settings_continues_where_they_begin_to_count(
    project: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], after: int
) -> None:
    first = STUDENT.read_bytes()
    continued = run_stage(**changes)
    said = capsys.readouterr().err
    assert (f"continues after epoch {after} of {changes.get('epochs', 6)}\n" in said) == (after > 0)
    assert ("continues" in said) == (after > 0)
    shutil.rmtree(".work")
    assert continued == run_stage(**changes) != first
    assert "continues" not in capsys.readouterr().err


def checkpoint(**changes: Any) -> dict[str, Any]:
    """What the run with these settings, begun anew, leaves at the end of every phase but the last."""
    shutil.rmtree(".work", ignore_errors=True)
    stage = stage_of(**changes)
    run = prepared(stage).run
    found: dict[str, Any] = {}
    for phase in (0, 1):
        for number in range(len(run.rows), sum(run.phases[: phase + 1])):
            list(run.epoch(number))
        save(run, Path("phase.pt"))
        found[str(phase)] = flat(torch.load("phase.pt", weights_only=True))
    return found


def flat(value: Any) -> Any:
    """Tensors as their bytes, so that == compares bit for bit; without the rates, which every step sets anew."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    if isinstance(value, dict):
        return {key: flat(each) for key, each in value.items() if key != "lr"}
    return [flat(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module")
def plain(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    shutil.copytree(finished, place := tmp_path_factory.mktemp("plain") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return checkpoint()


@pytest.mark.parametrize("setting", LATER)
def test_a_setting_said_to_decide_nothing_before_the_end_of_a_phase_decides_nothing(
    project: Path, plain: dict[str, Any], setting: str
) -> None:
    base = DRAWN if setting.startswith("deconfound") else {}
    wanted, found = (
        checkpoint(**base) if base else plain,
        checkpoint(**base, **{setting: LATER[setting]}),
    )
    assert found["0"] == wanted["0"]
    assert (found["1"] == wanted["1"]) == (setting in LATEST)


def test_no_undecided_setting_is_left_out_above(project: Path) -> None:
    method = prepared(stage_of()).run.method
    assert isinstance(method, AugKd)
    assert method.undecided(0) == {*LATER}
    assert method.undecided(1) == LATEST


def test_what_decides_the_training_decides_the_checkpoints_names(project: Path) -> None:
    plain = places_of()
    assert set(plain) == {2, 4}
    assert all(path.exists() and path.parent == FOLDER.resolve() for path in plain.values())
    for setting, value in LATER.items():
        if setting != "augkd.anchor_epochs":
            other = places_of(**{setting: value})
            assert other[2] == plain[2], setting
            assert (other[4] == plain[4]) == (setting in LATEST), setting
    decided = {
        "lr": 0.2, "student": "resnet14", "weight_decay": 0.0, "batch_size": 4, "steps_per_epoch": 3,
        "decay": "steps", "warmup_epochs": 1.0, "precision": "bfloat16", "augkd.latent": 5,
        "augkd.encoder_lr": 0.01,
    }  # fmt: skip
    found = [places_of(**{setting: value}) for setting, value in decided.items()]
    for name, value in (("task.seed", 9), ("task.classes", ["a", "b", "d"])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SETTINGS, name, value)
            found.append(places_of())
    write_selection([1] * COUNT)
    other = places_of()
    assert other[2] == plain[2], "module 1 sees no image"
    assert other[4] != plain[4]
    names = [path for place in (plain, *found) for path in place.values()]
    assert len(set(names)) == len(names) == 2 * (len(decided) + 3)


def test_a_phase_without_images_is_shared_by_runs_on_other_images(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another number of images, other pixels, keywords and labels: everything as without the checkpoint."""
    first, count = STUDENT.read_bytes(), COUNT - 6
    shutil.rmtree("data/fetch/pool")
    write_images(np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8))
    write_selection([i % 3 for i in range(count)])
    continued = run_stage()
    assert "continues after epoch 2 of 6\n" in capsys.readouterr().err
    found = {path: path.read_bytes() for path in outputs()}
    shutil.rmtree(".work")
    assert run_stage() == continued != first
    assert "continues" not in capsys.readouterr().err
    assert {path: path.read_bytes() for path in outputs()} == found


def outputs() -> list[Path]:
    """What the stage wrote, but for what holds times."""
    names = sorted(path for path in Path("data/distill").rglob("*") if path.is_file())
    return [path for path in names if path.name != "metrics.json"]


def test_images_without_a_keyword_are_refused_beside_a_shared_checkpoint(project: Path) -> None:
    write_selection([-1] * COUNT)
    assert places_of()[2].exists()
    with pytest.raises(UserError, match="keyword"):
        run_stage()


# -- damage, number --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "no checkpoint"])
def test_a_damaged_checkpoint_is_removed_and_told_in_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    first, path = STUDENT.read_bytes(), places_of()[4]
    whole = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "noise":
            path.write_bytes(np.random.default_rng(0).bytes(1000))
        case _:
            torch.save({"method": {}}, path)
    with pytest.raises(UserError, match=r"was damaged and has been removed .*run again") as caught:
        run_stage()
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)
    assert not path.exists()
    capsys.readouterr()
    assert run_stage() == first
    assert "continues after epoch 2 of 6" in capsys.readouterr().err
    assert path.exists()


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, PermissionError])
def test_an_error_of_the_machine_leaves_the_checkpoint(
    project: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    path = places_of()[4]

    def failing(*_: object, **__: object) -> None:
        raise kind("no")

    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises((kind, UserError)):
        run_stage()
    assert path.exists()


def test_the_metrics_say_what_became_of_the_anchors(project: Path) -> None:
    run_stage(**{"augkd.anchor_lr": 0.01})
    with Path("data/distill/curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = read_json(Path("data/distill/metrics.json"))
    for name in ("anchor_spread", "mask_mean", "mask_moved"):
        assert found[name] == pytest.approx(float(rows[3][name]), abs=1e-5)
        assert rows[4][name] == "", "module 2 alone has them"
    assert found["mask_moved"] > 0
    run_stage(method="supervised")
    assert "mask_mean" not in read_json(Path("data/distill/metrics.json"))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('executed').touch()",))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_in_place_of_the_saved_state_is_inert(project: Path, wrapped: bool) -> None:
    """M1: raw, and in a file of torch.save."""
    state = prepared(stage_of()).state
    if wrapped:
        torch.save({"method": Bomb()}, state)
    else:
        state.write_bytes(pickle.dumps(Bomb(), protocol=2))  # torch.save's own
    with pytest.raises(UserError, match=r"was damaged and has been removed .*run again") as caught:
        run_stage()
    assert str(state) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("executed").exists()
    assert not state.exists()


def test_the_checkpoints_used_last_are_kept_and_half_written_ones_go(project: Path) -> None:
    ours, now = places_of(), time.time()
    for age, path in ((30.0, ours[2]), (5000.0, ours[4])):
        os.utime(path, (now - age, now - age))
    for age in range(100, 100 + phases.MOST):
        path = FOLDER / f"other{age}.pt"
        path.write_bytes(b"")
        os.utime(path, (now - age, now - age))
    for name, age in (("stale.7.tmp", 2 * phases.STALE), ("fresh.7.tmp", 10.0)):
        (FOLDER / name).write_bytes(b"")
        os.utime(FOLDER / name, (now - age, now - age))
    phases.forget(ours)
    kept = {path.name for path in FOLDER.iterdir()}
    others = {f"other{age}.pt" for age in range(100, 100 + phases.MOST - 1)}
    assert kept == {ours[2].name, "fresh.7.tmp"} | others
    latest = phases.latest(ours)
    assert latest == ours[2], "that of module 2 is gone"
    assert time.time() - latest.stat().st_mtime < 60 - 30


def test_no_more_than_so_many_checkpoints_lie_there_after_a_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "MOST", 2)
    for ratio in (0.3, 0.4):
        run_stage(**{"augkd.mask_ratio": ratio})
        assert len(list(FOLDER.glob("*.pt"))) <= 2


# -- what the stage writes -------------------------------------------------------------------------------------
def test_the_stage_writes_pictures_and_a_curve_whose_columns_differ(project: Path) -> None:
    folder = Path("data/distill/pictures")
    names = {"views.png", "kept_most_then_least.png", "over_training.png"}
    assert {path.name for path in folder.iterdir()} == names | {"manifest.json"}
    assert len(read_json(folder / "manifest.json")) > 0
    with Image.open(folder / "over_training.png") as sheet:
        assert sheet.size == ((6 * (SIZE + 1) + 1) * 3, (12 * (SIZE + 1) + 1) * 3)
        image, last = (
            np.asarray(sheet)[3 : 3 * SIZE, 3 + c * 39 : 3 * SIZE + c * 39] for c in (0, 5)
        )
    assert np.array_equal(image, last), "the last mixture is the image"
    with Path("data/distill/curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    figures = [{name for name, value in row.items() if value} for row in rows]
    common = {"epoch", "loss", "agreement", "holdout_agreement", "holdout_kl"}
    free = {"adversarial", "one_hot", "balance", "statistics", "dream_kd", "encoder"}
    anchor, last_ones = {"uncertainty", "mask", "anchor_label", *AugKd.noted}, {"label", "kd"}
    first = {"epoch", "loss", "agreement"} | free  # images wait for the end of module 1,
    second = common | {"dream_kd", "encoder"}  # which has no sixth step
    assert figures == [first, second, *[common | anchor] * 2, *[common | last_ones] * 2]
    assert [int(row["epoch"]) for row in rows] == list(range(1, 7))
    assert set(rows[0]) == common | free | anchor | last_ones
    stage = stage_of(method="kd", epochs=1)
    main(stage)
    assert {path.name for path in stage.artifacts} == {"views.png"}
