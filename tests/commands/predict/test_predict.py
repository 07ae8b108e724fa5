"""`webdistill predict`: the same answers from the folder, the ONNX file and int8, and a row for every picture."""

from __future__ import annotations

import csv
import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages.evaluate import export, int8
from stages.evaluate.deployed import deployable
from webdistill.__main__ import main
from webdistill.commands.predict import pictures
from webdistill.models.checkpoint import load_network, save_network
from webdistill.models.zoo import build

CLASSES = ("cat", "dog", "a boat, or ship")
SIZE = 32


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student as `distill` leaves it, and both exports of `evaluate`."""
    root = tmp_path_factory.mktemp("students")
    torch.manual_seed(0)
    card = {"classes": list(CLASSES), "image_size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3}
    save_network(root / "student", build("resnet8", 3), {**card, "architecture": "resnet8"})
    network = load_network(root / "student")
    export.export(deployable(network), SIZE, root / "student.onnx")
    random = np.random.default_rng(0).integers(0, 256, (16, SIZE, SIZE, 3), np.uint8)
    int8.quantise(root / "student.onnx", root / "int8.onnx", random, 1)
    for name in ("student.onnx", "int8.onnx"):
        export.describe(root / name, CLASSES, SIZE)
    return root


def photograph(path: Path, seed: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    image.save(path)
    return image


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def by_hand(folder: Path, image: Image.Image) -> np.ndarray:
    """As the model card says it."""
    short = min(image.size)
    width, height = (max(SIZE, round(side * SIZE / short)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), np.float32) / 255
    network = load_network(folder)
    x = torch.from_numpy((pixels - 0.5) / 0.25).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        return network.net(x).double().softmax(1)[0].numpy()


def test_folder_graph_and_int8_answer_as_the_card_says(
    students: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [photograph(tmp_path / f"{i}.png", i) for i in range(4)]
    found = {}
    for name in ("student", "student.onnx", "int8.onnx"):
        assert main(["predict", str(students / name), str(tmp_path), "--csv"]) == 0
        found[name] = rows(capsys)
    for at, image in enumerate(shown):
        expected = by_hand(students / "student", image)
        for name, near in (("student", 1e-5), ("student.onnx", 1e-5), ("int8.onnx", 0.05)):
            row = found[name][at]
            assert row["path"] == str(tmp_path / f"{at}.png")
            assert float(row["probability"]) == pytest.approx(expected.max(), abs=near)
            assert row["error"] == ""
        assert found["student"][at]["class"] == CLASSES[int(expected.argmax())]
    same = [[row["class"] for row in found[name]] for name in ("student", "student.onnx")]
    assert same[0] == same[1]


def test_hostile_files_cost_their_rows_only(
    students: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["good.png", "bomb.png", "text.png", "cut.jpg", "absent.png", "pipe.png", "last.png"]
    photograph(tmp_path / "good.png", 1)
    photograph(tmp_path / "last.png", 2)
    photograph(tmp_path / "cut.jpg", 3)
    cut = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "bomb.png").write_bytes(bomb())
    os.mkfifo(tmp_path / "pipe.png")
    assert (
        main(
            [
                "predict",
                str(students / "student.onnx"),
                "--csv",
                *(str(tmp_path / n) for n in names),
            ]
        )
        == 0
    )
    found = {Path(row["path"]).name: row for row in rows(capsys)}
    assert list(found) == names
    assert [name for name in names if not found[name]["error"]] == ["good.png", "last.png"]
    assert found["bomb.png"]["error"].startswith("too many pixels")
    assert found["cut.jpg"]["error"].startswith("truncated")
    assert found["absent.png"]["error"] == "does not exist"
    assert found["pipe.png"]["error"] == "is no file"
    assert {found[n]["class"] for n in ("good.png", "last.png")} <= set(CLASSES)


def bomb() -> bytes:
    """A PNG whose header announces 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def die(item: pictures.Item) -> pictures.Pixels | str:
    """A decoder that crashes on one file; importable by the worker process."""
    if item[0].name == "crash.png":
        os.kill(os.getpid(), 11)
    return pictures.read(item)


def test_a_crash_of_the_decoder_costs_one_row(
    students: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a.png", "crash.png", "z.png"):
        photograph(tmp_path / name, 1)
    monkeypatch.setattr(pictures, "read", die)
    assert main(["predict", str(students / "student.onnx"), str(tmp_path), "--csv"]) == 0
    assert [row["error"] for row in rows(capsys)] == ["", "crashes the decoder", ""]


def test_the_table_and_its_exit_codes(
    students: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph(tmp_path / "a\x1b[2Jb.png", 1)
    assert main(["predict", str(students / "student.onnx"), str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["path", "class", "probability"]
    assert "\x1b" not in lines[1]
    assert lines[1].endswith("%")
    assert main(["predict", str(students / "student.onnx"), str(tmp_path / "absent.png")]) == 2
    assert capsys.readouterr().out.splitlines()[1].endswith("does not exist")


def test_a_class_that_moves_the_cursor_does_not(
    students: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name is in a file that may be somebody else's."""
    shutil.copy(students / "student.onnx", tmp_path / "theirs.onnx")
    export.describe(tmp_path / "theirs.onnx", ["\x1b[2Ja", "\x1b[2Jb", "\x1b[2Jc"], SIZE)
    photograph(tmp_path / "a.png", 1)
    assert main(["predict", str(tmp_path / "theirs.onnx"), str(tmp_path / "a.png")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_student_that_is_none_is_one_line(
    students: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    network = load_network(students / "student")
    export.export(deployable(network), SIZE, tmp_path / "nameless.onnx")
    export.export(deployable(network), SIZE, tmp_path / "other.onnx")
    export.describe(tmp_path / "other.onnx", CLASSES[:2], SIZE)
    (tmp_path / "empty").mkdir()
    photograph(tmp_path / "a.png", 1)
    for student, image, said in (
        ("absent.onnx", "a.png", "does not exist; name a student's folder or ONNX file"),
        ("broken.onnx", "a.png", "is no ONNX file that onnxruntime can run"),
        ("nameless.onnx", "a.png", "does not name its classes and image size; write it anew by"),
        ("other.onnx", "a.png", "does not name its classes and image size; write it anew by"),
        (
            str(students / "student.onnx"),
            "empty",
            "holds no file named .apng, .avif, .bmp, .dib, .gif",
        ),
        ("empty", "a.png", "empty is no student's folder: it has no config.json"),
    ):
        assert main(["predict", str(tmp_path / student), str(tmp_path / image)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert said in line


def test_a_folder_stands_for_every_picture_that_can_be_read(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.gif", "c.tiff", "._a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures.listed([tmp_path])] == ["a.JPG", "b.gif", "c.tiff"]
