"""The study at full size, with tiny networks: calls that are cut short give what one call gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.full_size import arrays, train
from webdistill.core.errors import UserError
from webdistill.harness.params import read_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings() -> dict[str, Any]:
    given = read_yaml(train.HERE / "params.yaml")
    small = {"epochs": 2, "batch_size": 16, "warmup_epochs": 1}
    given["prepare"]["image_size"] = 16
    given["teacher"] |= small | {"architecture": "resnet8", "steps_per_epoch": 3}
    given["distill"] |= small | {"student": "resnet8", "steps_per_epoch": 3, "views": 2}
    return given | {
        "seeds": [0],
        "threads": 1,
        "device": "cpu",
        "arms": {"simkd": {"method": "simkd"}},
    }


def work(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("pool", 60), ("train", 50), ("test", 20)):
        pixels = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        arrays.write_parts(pixels, folder, name, mib=0.02)
        if name != "pool":
            np.save(folder / f"{name}_labels.npy", rng.integers(0, 10, count))
    return folder


def test_parts_are_small_and_together_everything(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    arrays.write_parts(pixels, tmp_path, "pool", mib=0.02)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    assert all(file.stat().st_size <= 0.02 * 2**20 for file in files)
    assert np.array_equal(arrays.read_parts(tmp_path, "pool"), pixels)
    with pytest.raises(UserError, match="no test-.*; run python -m"):
        arrays.read_parts(tmp_path, "test")


def test_a_picture_is_reduced_as_pillow_does(tmp_path: Path) -> None:
    picture = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 50).convert("RGB")
    picture.save(tmp_path / "a.png")
    got = arrays.decoded((tmp_path / "a.png").read_bytes(), 32)
    assert np.array_equal(got, np.asarray(picture.resize((32, 32), Image.Resampling.LANCZOS)))


def test_calls_cut_short_end_as_one_call_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    once, often = work(tmp_path / "once"), work(tmp_path / "often")
    assert train.train(settings, once, minutes=10)
    calls = 0
    while not train.train(settings, often, minutes=0):
        calls += 1
        assert calls < 10
    assert calls == 2  # after the teacher's first epoch; after its second and the student's first
    found = [json.loads((folder / "results.json").read_text()) for folder in (once, often)]
    assert found[0] == found[1]
    assert set(found[0]) == {"teacher", "simkd-0"}
    for name in ("teacher.pt", "simkd-0.pt"):
        one, two = (torch.load(folder / name, weights_only=True) for folder in (once, often))
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert not list(often.glob("*.state"))
    rows = (often / "results.json").read_bytes()
    assert train.train(settings, often, minutes=0)  # all are there: nothing is trained again
    assert (often / "results.json").read_bytes() == rows


def test_every_arm_is_valid(settings: dict[str, Any]) -> None:
    given = read_yaml(train.HERE / "params.yaml")
    methods = {arm: train.options(given, arm).method for arm in given["arms"]}
    assert methods == {"kd3": "kd3", "simkd": "simkd", "kd": "kd"}


def test_training_needs_neither_parquet_nor_pillow_nor_mlflow() -> None:
    barred = ("pyarrow", "mlflow", "dvc", "safetensors", "open_clip", "faiss", "onnxruntime", "PIL")
    code = (
        "import sys\n"
        "class Bar:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {barred}: raise ImportError('barred ' + name)\n"
        "sys.meta_path.insert(0, Bar())\n"
        "import pipelines.full_size.train as t\n"
        "from webdistill.models.zoo import build\n"
        "build('resnet34', 10, 32), t.options(t.read_yaml(t.HERE / 'params.yaml'), 'kd3')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
