"""check-teacher finds outputs that are in another order than the class list, and says which."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from webdistill.__main__ import main
from webdistill.commands.check_teacher import named, order
from webdistill.commands.check_teacher.command import COUNT, enough
from webdistill.core.files import write_json, write_manifest, write_table
from webdistill.harness.params import read_yaml
from webdistill.images.gate import decode, encode
from webdistill.images.pool import PoolRow, write_pool

ROOT = Path(__file__).parents[3]
QUICKSTART = ROOT / "data" / "quickstart"
CLASSES = [f"class {k}" for k in range(10)]


def answered(
    count: int, right: float, moved: dict[int, int], classes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """What a teacher gives whose output k stands for class moved[k], and the names."""
    random = np.random.default_rng(0)
    truth = random.integers(0, classes, count)
    inverse = np.arange(classes)
    for output, name in moved.items():
        inverse[name] = output
    guessed = random.integers(0, classes, count)
    return np.where(random.random(count) < right, inverse[truth], guessed), truth


def test_the_right_order_is_well_also_with_noisy_names() -> None:
    for right in (0.95, 0.4):
        found = order.check(*answered(512, right, {}), CLASSES, "the pool's keywords")
        assert found.level == "ok"
    assert (
        "of 512 pictures answered as named by the pool's keywords, 10.0% by guessing" in found.text
    )


@pytest.mark.parametrize(
    "truth", [np.arange(512) % 10, np.arange(510) // 51], ids=["turns", "runs"]
)
def test_the_order_of_the_pictures_does_not_matter(truth: np.ndarray) -> None:
    found = order.check((truth + 1) % 10, truth, CLASSES, "the pool's keywords")
    assert found.details == (f'"classes": {json.dumps([*CLASSES[-1:], *CLASSES[:-1]])}',)


@pytest.mark.parametrize("moved", [{2: 7, 7: 2}, {k: (k + 3) % 10 for k in range(10)}])
def test_another_order_is_found_and_told(moved: dict[int, int]) -> None:
    found = order.check(*answered(512, 0.8, moved), CLASSES, "the labels")
    assert found.level == "fail"
    for output, name in list(moved.items())[: order.SHOWN]:
        assert f"output {output} is 'class {name}', not 'class {output}'" in found.text
    expected = [CLASSES[moved.get(k, k)] for k in range(10)]
    assert found.details == (f'"classes": {json.dumps(expected)}',)


def test_guessing_is_no_order_and_a_chance_fit_is_no_permutation() -> None:
    for classes, count in ((10, 512), (1000, 79), (1000, 512)):
        names = [str(k) for k in range(classes)]
        found = order.check(*answered(count, 0.0, {}, classes), names, "the pool's keywords")
        assert found.level == "warn"
        assert "no other order fits" in found.text
    found = order.check(*answered(512, 0.9, {}, 1000), [str(k) for k in range(1000)], "names")
    assert found.level == "ok"


def test_an_untrained_last_layer_on_good_features_is_no_wrong_order() -> None:
    """Its outputs follow the classes a little, since pictures of a class look alike to the layers below."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 10, 512)
    features = np.eye(64)[truth] + 0.15 * random.standard_normal((512, 64))
    given = (features @ random.standard_normal((64, 10))).argmax(1)
    found = order.check(given, truth, CLASSES, "the folders")
    assert found.level == "warn"
    assert "is its last layer trained" in found.text
    assert not found.details


def test_too_few_pictures_say_nothing() -> None:
    given, truth = answered(order.FEWEST - 1, 0.9, {k: (k + 1) % 10 for k in range(10)})
    found = order.check(given, truth, CLASSES, "the labels")
    assert (found.level, "63 pictures" in found.text, "64 are needed" in found.text) == (
        "warn",
        True,
        True,
    )


def test_the_number_of_pictures_depends_on_their_size_alone() -> None:
    assert [enough(size, COUNT) for size in (32, 224, 1024)] == [512, 79, 64]


def test_pictures_of_all_classes_alike() -> None:
    pairs = [("a", 0)] * 90 + [("b", 1)] * 5 + [("c", 2)] * 40
    labels = [label for _, label in named.alike(pairs, 60)]
    assert [labels.count(k) for k in range(3)] == [28, 5, 27]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The quickstart's teacher in a folder of its own, without a pool."""
    monkeypatch.chdir(tmp_path)
    raw = read_yaml(ROOT / "params.yaml")
    raw["task"] |= {
        "teacher": "teacher",
        "threads": 1,
        "test_images": "few.parquet",
    }
    raw["search"]["local"] = "pictures"
    (tmp_path / "params.yaml").write_text(json.dumps(raw))
    few = pq.read_table(QUICKSTART / "test/images.parquet").slice(0, order.FEWEST)
    write_table(few, tmp_path / "few.parquet")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/weights.safetensors").symlink_to(
        QUICKSTART / "teacher/weights.safetensors"
    )
    return tmp_path


def write_card(task: Path, classes: list[str]) -> None:
    """The card and the task with this list: what a user who has the wrong one would write."""
    card = json.loads((QUICKSTART / "teacher/config.json").read_text())
    write_json(card | {"classes": classes}, task / "teacher/config.json")
    raw = json.loads((task / "params.yaml").read_text())
    raw["task"]["classes"] = classes
    (task / "params.yaml").write_text(json.dumps(raw))


def pictures_by_name(count: int) -> list[tuple[str, bytes]]:
    """Test images of the quickstart, encoded, with the true class's name."""
    classes = read_yaml(ROOT / "params.yaml")["task"]["classes"]
    images = pq.read_table(QUICKSTART / "test/images.parquet").to_pylist()[:count]
    labels = {
        r["id"]: r["label"] for r in pq.read_table(QUICKSTART / "test/labels.parquet").to_pylist()
    }
    return [(classes[labels[row["id"]]], row["image"]["bytes"]) for row in images]


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(not QUICKSTART.exists(), reason="the quickstart's data are not checked out")
def test_folders_and_keywords_reveal_a_wrong_list_of_a_real_teacher(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = read_yaml(ROOT / "params.yaml")["task"]["classes"]
    wrong = sorted(right, key=lambda name: name[::-1])
    write_card(task, right)
    assert main(["check-teacher"]) == 0
    assert "class order not checked: neither the pool's keywords nor folders" in shown(capsys)
    for at, (name, data) in enumerate(pictures_by_name(72)):
        (task / "pictures" / name).mkdir(parents=True, exist_ok=True)
        decode(data).save(task / f"pictures/{name}/{at}.png")
    (task / "pictures/cat/broken.png").write_text("no picture")
    for classes, code in ((right, 0), (wrong, 2)):
        write_card(task, classes)
        assert main(["check-teacher"]) == code
        text = shown(capsys)
        assert "pictures answered as named by the folders of pictures" in text
        assert (f'"classes": {json.dumps(right)}' in text) is bool(code)
    rows = [
        PoolRow(f"{at:032x}", encode(decode(data)), 32, 32, name, "")
        for at, (name, data) in enumerate(pictures_by_name(72))
    ]
    (task / "data/fetch").mkdir(parents=True)
    write_pool(rows, task / "data/fetch/pool", 50)
    write_manifest(task / "data/fetch/pool")
    assert main(["check-teacher"]) == 2
    assert "as named by the pool's keywords" in shown(capsys)


def test_pictures_that_are_none_are_passed_by(tmp_path: Path) -> None:
    keywords = named.Keywords(["cat", "dog"])
    (tmp_path / "web/a cat").mkdir(parents=True)
    (tmp_path / "web/Dog").mkdir()
    (tmp_path / "web/Dog/x.png").write_text("no picture")
    assert named.of_folder(tmp_path / "web", keywords, ["cat", "dog"], 32, 64) is None
    Image.new("RGB", (40, 30)).save(tmp_path / "web/Dog/y.jpg")
    found = named.of_folder(tmp_path / "web", keywords, ["cat", "dog"], 32, 64)
    assert found is not None
    assert found.labels.tolist() == [1]
    assert found.images.shape == (1, 32, 32, 3)
