"""python -m webdistill fit, on a small pool whose truth is known."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from webdistill.__main__ import main
from webdistill.core.files import digest, write_manifest, write_table
from webdistill.images.pool import IMAGE_TYPE, PoolRow, write_pool
from webdistill.models.checkpoint import save_network
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[3]
CLASSES = ["red", "green", "blue", "none"]
PARAMS = [
    ("[airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck]", json.dumps(CLASSES)),
    ("teacher: data/quickstart/teacher", "teacher: teacher"),
    ("test_images: data/quickstart/test/images.parquet", "test_images: test.parquet"),
]  # fmt: skip


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def pictures(count: int, seed: int) -> list[bytes]:
    """Coarse random patterns: no two alike."""
    rng = np.random.default_rng(seed)
    return [png(rng.integers(0, 256, (8, 8, 3)).repeat(4, 0).repeat(4, 1)) for _ in range(count)]


def write_test(data: list[bytes], path: Path) -> None:
    cells = [{"bytes": each, "path": ""} for each in data]
    table = pa.table({"id": [f"t{i}" for i in range(len(data))], "image": pa.array(cells, IMAGE_TYPE)})  # fmt: skip
    write_table(table, path)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 images, 12 of them resized copies of others; CLIP calls every one `red`; a ledger of 80 candidates."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text()
    for old, new in PARAMS:
        assert old in text
        text = text.replace(old, new)
    Path("params.yaml").write_text(text)
    torch.manual_seed(0)
    card: dict[str, object] = {
        "architecture": "resnet8", "classes": CLASSES, "image_size": 32, "mean": [0.5] * 3, "std": [0.3] * 3,
    }  # fmt: skip
    save_network(Path("teacher"), build("resnet8", 4, 32), card)
    data = pictures(48, 1)
    copies = [Image.open(io.BytesIO(each)).resize((40, 40)) for each in data[:12]]
    data += [png(np.asarray(each)) for each in copies]
    ids = [f"{i:032x}" for i in range(60)]
    rows = [PoolRow(n, d, 32, 32, "red", "") for n, d in zip(ids, data, strict=True)]
    write_pool(rows, Path("data/fetch/pool"), 25)
    write_manifest(Path("data/fetch/pool"))
    Path("data/embed").mkdir()
    scores = {"id": ids, "clip_class": pa.array([0] * 60, pa.int32())}
    write_table(pa.table(scores), Path("data/embed/scores.parquet"))
    ledger = {
        "status": ["ok"] * 60 + ["not_found"] * 15 + ["robots"] * 5,
        "licence": ["CC0"] * 45 + [""] * 15 + ["by"] * 20,
        "url": ["https://a.example/x"] * 60 + ["https://gone.example/y"] * 20,
    }
    write_table(pa.table(ledger), Path("data/fetch/ledger.parquet"))
    write_test(pictures(60, 2), Path("test.parquet"))
    return tmp_path


def fit(*flags: str) -> dict[str, object]:
    assert main(["fit", "--json", "fit.json", *flags]) == 0
    return json.loads(Path("fit.json").read_text())


def value(found: dict[str, object], key: str) -> float:
    return found["signals"][key]["value"]


def test_signals_say_what_was_planted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest(Path("teacher"))
    found = fit()
    shown = capsys.readouterr().out
    assert value(found, "duplicates") == pytest.approx(12 / 60)
    assert value(found, "licensed") == pytest.approx(45 / 60)
    assert value(found, "success") == pytest.approx(60 / 80)
    red = found["classes"]["red"]
    assert value(found, "clip_agreement") == pytest.approx(red["images"] / 60, abs=1e-6)
    assert "not_found 15, robots 5; most at gone.example 20" in shown
    assert "None of this is an accuracy" in shown
    assert len(found["layers"]) == 7
    assert Path(".work/fit.png").read_bytes().startswith(b"\x89PNG")
    assert digest(Path("teacher")) == before


def test_twice_the_same(project: Path) -> None:
    first, picture = fit(), Path(".work/fit.png").read_bytes()
    assert fit() == first
    assert Path(".work/fit.png").read_bytes() == picture


def test_what_is_absent_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("data/embed/scores.parquet", "data/fetch/ledger.parquet", "test.parquet"):
        Path(path).unlink()
    found = fit("--images", "40")
    shown = capsys.readouterr().out
    assert found["images"] == 40
    assert found["test_images"] == 0
    for words in (
        "dvc repro embed",
        "no ledger",
        "test images for comparison",
        "rarely holds both",
    ):
        assert words in " ".join(shown.split()), words
    assert "clip_agreement" not in found["signals"]


def replace_in_params(old: str, new: str) -> None:
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new))


def test_class_names_of_any_script_length_and_signs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["$\\foo$", "狐 🦊", "long " * 40 + "one", "long " * 40 + "two"]
    card = json.loads(Path("teacher/config.json").read_text())
    Path("teacher/config.json").write_text(json.dumps(card | {"classes": names}))
    replace_in_params(json.dumps(CLASSES), json.dumps(names))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit()
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120
    assert Path(".work/fit.png").stat().st_size


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda: shutil.rmtree("data/fetch/pool"), "dvc repro fetch"),
        (lambda: shutil.rmtree("teacher"), "task.teacher"),
        (lambda: next(Path("data/fetch/pool").glob("*.parquet")).write_bytes(b""), ".parquet"),
        (lambda: replace_in_params('"red", ', ""), "check-teacher"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], break_it, words: str
) -> None:
    break_it()
    assert main(["fit"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


@pytest.mark.parametrize("count", ["5", "0"])
def test_too_small_a_sample_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str], count: str
) -> None:
    assert main(["fit", "--images", count]) == 2
    assert f"--images {count}" in capsys.readouterr().err
