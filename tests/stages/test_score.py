"""Scores against the network called directly; order, shards, resume, teachers that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from stages.score import teacher
from stages.score.__main__ import main
from stages.score.params import Score
from stages.score.teacher import View, check_card, forward
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, read_table, write_manifest
from webdistill.harness.params import Params, Task
from webdistill.harness.stage import Stage
from webdistill.images.gate import encode
from webdistill.images.pool import PoolRow, load_images, write_pool
from webdistill.models.checkpoint import Card, Network, load_network, save_network
from webdistill.models.zoo import build

# a stage keeps its scratch space in the current folder
pytestmark = pytest.mark.usefixtures("place")

CLASSES = ("cat", "dog", "eel")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
SETTINGS = {"precision": "float32", "batch_size": 8, "other_image_size": False}


def make_teacher(folder: Path) -> Network:
    """A ResNet-8 whose BN statistics are not those of a fresh network."""
    torch.manual_seed(0)
    net = build("resnet8", 3)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    card = {
        "architecture": "resnet8",
        "classes": CLASSES,
        "image_size": 16,
        "mean": MEAN,
        "std": STD,
    }
    save_network(folder, net, card)
    return load_network(folder)


def make_pool(cell: Path, order: list[int], shard_size: int) -> Path:
    """Pictures 24 x 20; picture i depends on i only."""
    rows = []
    for i in order:
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        rows.append(PoolRow(f"{i:032x}", encode(Image.fromarray(pixels)), 24, 20, "cat", "a cat"))
    folder = cell / "fetch" / "pool"
    write_pool(rows, folder, shard_size)
    write_manifest(folder)
    return folder


def make_stage(
    cell: Path, network: Path, classes: tuple[str, ...] = CLASSES, **changes: Any
) -> Stage:
    task = Task(
        seed=0,
        threads=1,
        classes=classes,
        image_size=16,
        teacher=str(network),
        test_images="i",
        test_labels="l",
    )
    stage = Stage(
        "score", Params(task, {"score": Score.model_validate(SETTINGS | changes)}, {}), cell
    )
    stage.work.mkdir(parents=True, exist_ok=True)
    return stage


def run_stage(
    cell: Path, network: Path, **changes: Any
) -> dict[str, tuple[list[float], list[float]]]:
    """-> {id: (logits, features)}"""
    stage = make_stage(cell, network, **changes)
    main(stage)
    stage.publish()
    shards = sorted((cell / "score" / "teacher").glob("*.parquet"))
    rows = [row for shard in shards for row in read_table(shard).to_pylist()]
    return {row["id"]: (row["logits"], row["features"]) for row in rows}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    make_teacher(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_scores_equal_the_network_called_image_by_image(tmp_path: Path, network: Path) -> None:
    pool = make_pool(tmp_path, list(range(21)), 13)
    scores = run_stage(tmp_path, network)
    net = load_network(network).net.double()
    ids, images = load_images(pool, None, 16, 1)
    assert list(scores) == ids
    mean, std = torch.tensor(MEAN).double(), torch.tensor(STD).double()
    with torch.no_grad():
        for name, image in zip(ids, images, strict=True):
            x = ((torch.tensor(image).double() / 255 - mean) / std).permute(2, 0, 1)[None]
            maps = net.features(x)
            logits, features = net(x)[0], maps.mean(dim=(2, 3))[0]
            assert np.allclose(scores[name][0], logits, rtol=1e-3, atol=1e-3)
            assert np.allclose(scores[name][1], features, rtol=1e-3, atol=1e-3)


def test_shards_header_and_metrics(tmp_path: Path, network: Path) -> None:
    make_pool(tmp_path, list(range(21)), 13)
    scores = run_stage(tmp_path, network)
    shards = sorted((tmp_path / "score" / "teacher").glob("*.parquet"))
    assert [s.name for s in shards] == ["00000.parquet", "00001.parquet"]
    schema = pq.read_schema(shards[0])
    assert [str(field.type) for field in schema] == [
        "string",
        "fixed_size_list<element: halffloat>[3]",
        "fixed_size_list<element: halffloat>[64]",
    ]
    card = read_json(network / "config.json")
    assert schema.metadata[b"teacher_sha256"].decode() == card["sha256"]
    assert schema.metadata[b"precision"] == b"float32"
    logits = np.array([one for one, _ in scores.values()], dtype=np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    metrics = read_json(tmp_path / "score" / "metrics.json")
    counts = np.bincount(logits.argmax(axis=1), minlength=3) / 21
    assert metrics["images"] == 21
    assert metrics["mean_confidence"] == pytest.approx(p.max(axis=1).mean(), abs=1e-6)
    assert metrics["mean_entropy"] == pytest.approx(-(p * np.log(p)).sum(axis=1).mean(), abs=1e-6)
    assert metrics["largest_class_share"] == pytest.approx(counts.max(), abs=1e-6)
    assert metrics["smallest_class_share"] == pytest.approx(counts.min(), abs=1e-6)


def test_order_and_shards_do_not_matter(tmp_path: Path, network: Path) -> None:
    make_pool(tmp_path / "a", list(range(21)), 13)
    make_pool(tmp_path / "b", np.random.default_rng(0).permutation(21).tolist(), 4)
    assert run_stage(tmp_path / "a", network) == run_stage(tmp_path / "b", network)


def test_parts_of_a_shard_do_not_matter(
    tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pool(tmp_path, list(range(21)), 21)
    whole = run_stage(tmp_path, network)
    monkeypatch.setattr(teacher, "PART_BYTES", 1)
    assert run_stage(tmp_path, network) == whole


def test_bfloat16_is_close_and_named_in_the_header(tmp_path: Path, network: Path) -> None:
    make_pool(tmp_path, list(range(8)), 8)
    exact = run_stage(tmp_path, network)
    rough = run_stage(tmp_path, network, precision="bfloat16")
    assert exact != rough
    for name, (logits, _) in exact.items():
        assert np.allclose(logits, rough[name][0], atol=0.1)
    shard = tmp_path / "score" / "teacher" / "00000.parquet"
    assert pq.read_schema(shard).metadata[b"precision"] == b"bfloat16"


def test_the_teacher_is_not_changed(network: Path) -> None:
    loaded = load_network(network)
    loaded.net.train()  # even a network left in train mode is used, and not adapted, in eval mode
    before = {k: v.clone() for k, v in loaded.net.state_dict().items()}
    view = View("0" * 64, "resnet8", 16, MEAN, STD, "float32", 4)
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    assert [len(logits) for logits, _ in forward(loaded, view, images)] == [4, 2]
    assert all(torch.equal(v, before[k]) for k, v in loaded.net.state_dict().items())


def test_a_killed_run_goes_on_with_the_first_unfinished_shard(
    tmp_path: Path,
    network: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_pool(tmp_path / "a", list(range(21)), 5)
    make_pool(tmp_path / "b", list(range(21)), 5)
    run_stage(tmp_path / "a", network)
    original, calls = teacher.load_images, []

    def load(pool: Path, *args: Any) -> Any:
        calls.append(pool.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(pool, *args)

    monkeypatch.setattr(teacher, "load_images", load)
    with pytest.raises(KeyboardInterrupt):
        main(make_stage(tmp_path / "b", network))
    assert not (tmp_path / "b" / "score").exists()
    run_stage(tmp_path / "b", network)
    assert calls == [f"{i:05d}.parquet" for i in (0, 1, 2, 2, 3, 4)]
    assert "an earlier run finished 2 of 5 shards" in capsys.readouterr().err
    for name in ("teacher/manifest.json", "teacher/00000.parquet", "metrics.json"):
        one, two = ((tmp_path / c / "score" / name).read_bytes() for c in "ab")
        assert one == two
    assert not list((tmp_path / "b" / ".work").rglob("*.part*"))


def test_finished_work_counts_only_for_the_same_view(tmp_path: Path) -> None:
    shard = tmp_path / "00000.parquet"
    shard.write_bytes(b"one")
    view = View("0" * 64, "resnet8", 16, MEAN, STD, "float32", 4)
    other = View("1" * 64, "resnet8", 16, MEAN, STD, "float32", 4)
    name = view.name(shard)
    assert name != other.name(shard)
    shard.write_bytes(b"two")
    assert name != view.name(shard)


@pytest.mark.parametrize(
    ("classes", "size", "message"),
    [
        (("cat", "eel", "dog"), 16, "class 1 is 'eel' in task.classes and 'dog' in the card of t"),
        (("cat", "dog"), 16, "2 classes, the card of t 3: only the card has 'eel'"),
        ((*CLASSES, "fox"), 16, "4 classes, the card of t 3: only task.classes has 'fox'"),
        (CLASSES, 32, "task.image_size is 32, the teacher t was trained at 16 px"),
    ],
)
def test_teachers_that_do_not_fit(classes: tuple[str, ...], size: int, message: str) -> None:
    card = Card(
        architecture="resnet8", classes=CLASSES, image_size=16, mean=MEAN, std=STD, sha256="0" * 64
    )
    check_card(card, CLASSES, 16, False, "t")
    with pytest.raises(UserError, match=message):
        check_card(card, classes, size, False, "t")
    check_card(card, CLASSES, 32, True, "t")


def test_the_stage_stops_before_any_work(tmp_path: Path, network: Path) -> None:
    make_pool(tmp_path, list(range(4)), 4)
    with pytest.raises(UserError, match="class 0 is 'dog'"):
        main(make_stage(tmp_path, network, classes=("dog", "cat", "eel")))
    weights = network / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="has sha256"):
        main(make_stage(tmp_path, network))


def test_an_output_that_is_not_finite_names_the_image(
    tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pool(tmp_path, list(range(12)), 12)

    def broken(*args: Any) -> Any:
        for start, (logits, features) in zip((0, 8), forward(*args), strict=True):
            if start:
                logits[1] = np.inf
            yield logits, features

    monkeypatch.setattr(teacher, "forward", broken)
    with pytest.raises(UserError, match=f"image {9:032x} is not finite"):
        main(make_stage(tmp_path, network))


def test_an_empty_pool_is_named_and_has_no_scores(
    tmp_path: Path, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pool(tmp_path, [], 4)
    stage = make_stage(tmp_path, network)
    main(stage)
    said = capsys.readouterr()
    assert "data/fetch/pool holds no image" in said.out + said.err
