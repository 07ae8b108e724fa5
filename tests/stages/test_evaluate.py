"""The evaluate stage: export against torch, files against the contract."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from stages.evaluate import deployed, export, int8, testset
from stages.evaluate.__main__ import main
from stages.evaluate.forward import as_input
from stages.evaluate.params import Evaluate
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, sha256_file, write_manifest, write_table
from webdistill.harness.stage import run
from webdistill.images.gate import encode
from webdistill.images.pool import PoolRow, load_images, write_pool
from webdistill.models.checkpoint import load_network
from webdistill.models.zoo import build

YAML = Path(__file__).parents[2] / "params.yaml"
CLASSES = tuple(f"class {i}" for i in range(7))


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _write_test_set(
    folder: Path, labels: list[int], ids: list[str] | None = None
) -> tuple[Path, Path]:
    random = np.random.default_rng(0)
    own = [f"{i:032x}" for i in range(len(labels))]
    images = [
        {"bytes": _png(random.integers(0, 256, (32, 32, 3), np.uint8)), "path": None}
        for _ in labels
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    write_table(pa.table({"id": own, "image": pa.array(images, kind)}), folder / "images.parquet")
    # The files need not be in the same order.
    rows = list(zip(ids or own, labels, strict=True))[::-1]
    write_table(
        pa.table({"id": [r[0] for r in rows], "label": pa.array([r[1] for r in rows], pa.int64())}),
        folder / "labels.parquet",
    )
    return folder / "images.parquet", folder / "labels.parquet"


def test_labels_are_joined_by_id(tmp_path: Path) -> None:
    images, labels = _write_test_set(tmp_path, [3, 1, 2])
    found = testset.read(images, labels, 32, 7)
    assert found.labels.tolist() == [3, 1, 2]
    assert found.some(found.ids).shape == (3, 32, 32, 3)
    assert found.absent(CLASSES) == ["class 0", *CLASSES[4:]]
    assert testset.read(images, labels, 16, 7).some(found.ids).shape == (3, 16, 16, 3)


def test_batches_are_the_whole_test_set_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = _write_test_set(tmp_path, [i % 7 for i in range(10)])
    monkeypatch.setattr(testset, "PIXELS", 4 * 32 * 32)
    found = testset.read(images, labels, 32, 7)
    parts = list(found.batches())
    assert [len(part) for part in parts] == [4, 4, 2]
    assert np.array_equal(np.concatenate(parts), found.some(found.ids))


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": b"no picture", "path": None}], kind)
    write_table(pa.table({"id": ["a"], "image": rows}), tmp_path / "images.parquet")
    write_table(pa.table({"id": ["a"], "label": [0]}), tmp_path / "labels.parquet")
    found = testset.read(tmp_path / "images.parquet", tmp_path / "labels.parquet", 32, 7)
    with pytest.raises(UserError, match="the image of row 0 cannot be decoded"):
        list(found.batches())


def test_labels_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    images, labels = _write_test_set(tmp_path, [3, 1, 7])
    with pytest.raises(UserError, match="label 7 is outside 0-6"):
        testset.read(images, labels, 32, 7)
    images, labels = _write_test_set(tmp_path, [3, 1], ids=["x", f"{1:032x}"])
    with pytest.raises(
        UserError, match=r"labels\.parquet must hold one label for each of the 2 images"
    ):
        testset.read(images, labels, 32, 7)


class _Stage:
    """Stands in for the harness: inputs from one folder, outputs to another."""

    def __init__(self, root: Path, task: object, params: Evaluate) -> None:
        self.task, self.params, self.root = task, params, root
        self.found: dict[str, float] = {}
        self.tracked: dict[str, float] = {}
        self.said: list[str] = []
        self.work = root / "work"
        self.opened: list[str] = []

    def input(self, name: str) -> Path:
        self.opened.append(name)
        return self.root / name

    def networks(self, *architectures: str) -> list[str]:
        self.built_from = architectures
        return []

    def output(self, name: str):
        import contextlib

        folder = self.root / "out"
        folder.mkdir(exist_ok=True)
        return contextlib.nullcontext(folder / name)

    def picture(self, name: str, data: bytes) -> None:
        assert name == "mistakes.png"
        assert data.startswith(b"\x89PNG")

    def artifact(self, path: Path) -> None:
        assert path.name in ("student.onnx", "student_int8.onnx", "config.json")
        assert path.is_file()

    def metrics(self, values: dict[str, float]) -> None:
        self.found.update(values)

    def track_metrics(self, values: dict[str, float]) -> None:
        self.tracked.update(values)

    def progress(self, items, **_):
        return iter(items)

    def log(self, message: str) -> None:
        self.said.append(message)


EVALUATE = Evaluate(
    calibration_bins=15, parity_images=20, int8_images=24, int8_max_loss=0.02, device="cpu"
)


def _write_selection(data: Path) -> None:
    """A pool of 40 pictures, 32 of them selected."""
    random = np.random.default_rng(1)
    pixels = [random.integers(0, 256, (36, 32, 3), np.uint8) for _ in range(40)]
    rows = [
        PoolRow(f"{i:032x}", encode(Image.fromarray(p)), 32, 36, "", "")
        for i, p in enumerate(pixels)
    ]
    write_pool(rows, data / "fetch/pool", 25)
    write_manifest(data / "fetch/pool")
    chosen = pa.table({"id": [row.id for row in rows[4:36]][::-1]})
    (data / "select").mkdir(parents=True)
    write_table(chosen, data / "select/selection.parquet")


def _prepared(root: Path) -> _Stage:
    from types import SimpleNamespace

    from webdistill.models.checkpoint import save_network

    card = {"classes": list(CLASSES), "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    torch.manual_seed(1)
    for folder, architecture in (("data/distill/student", "resnet8"), ("teacher", "resnet14")):
        net = build(architecture, 7)
        save_network(root / folder, net, {**card, "architecture": architecture})
    _write_test_set(root, [i % 7 for i in range(30)])
    _write_selection(root / "data")
    (root / "work").mkdir()
    task = SimpleNamespace(
        threads=1,
        classes=CLASSES,
        teacher="teacher",
        test_images="images.parquet",
        test_labels="labels.parquet",
    )
    return _Stage(root, task, EVALUATE)


@pytest.fixture
def stage(tmp_path: Path) -> _Stage:
    return _prepared(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> _Stage:
    """The stage after its run, which may be repeated."""
    stage = _prepared(tmp_path_factory.mktemp("done"))
    main(stage)
    return stage


def test_the_stage_writes_what_it_promises_and_the_same_bytes_twice(
    done: _Stage,
) -> None:
    out = done.root / "out"
    names = (
        "student.onnx",
        "int8/student_int8.onnx",
        "predictions.parquet",
        "confusion.csv",
        "per_class.csv",
        "calibration.csv",
    )
    first, figures = {n: (out / n).read_bytes() for n in names}, dict(done.found)
    main(done)
    assert first == {n: (out / n).read_bytes() for n in names}
    assert figures == done.found
    json.dumps(figures, allow_nan=False)
    assert not [k for k in figures if "latency" in k or "second" in k]
    kinds = ("teacher", "torch", "onnx", "int8")
    times = {f"latency_{kind}_b{batch}_ms" for kind in kinds for batch in (1, 64)}
    assert times | {"latency_threads", "onnx_max_difference"} == set(done.tracked)
    kept = json.loads((done.root / "work" / deployed.SPEED).read_text())
    assert kept["threads"] == 1
    assert kept["student"] == sha256_file(out / "student.onnx")
    assert times <= set(kept)

    table = read_table(out / "predictions.parquet").to_pylist()
    assert list(table[0]) == ["id", "label", "prediction", "confidence", "teacher_prediction"]
    assert figures["top1"] == pytest.approx(
        sum(r["label"] == r["prediction"] for r in table) / 30, abs=1e-6
    )
    agreed = sum(r["prediction"] == r["teacher_prediction"] for r in table) / 30
    assert figures["agreement"] == pytest.approx(agreed, abs=1e-6)
    assert figures["parameter_ratio"] == pytest.approx(
        figures["parameters"] / figures["teacher_parameters"], abs=1e-6
    )
    assert figures["onnx_agreement"] == 1.0
    header = (out / "per_class.csv").read_text().splitlines()
    assert header[0] == "class,accuracy,count,teacher_accuracy"
    assert len(header) == 8


def test_int8_is_smaller_near_and_calibrated_on_the_selection_alone(
    done: _Stage,
) -> None:
    figures, root = done.found, done.root
    assert figures["int8_bytes"] == (root / "out/int8/student_int8.onnx").stat().st_size
    assert figures["onnx_bytes"] == (root / "out/student.onnx").stat().st_size
    assert figures["int8_bytes"] < figures["onnx_bytes"] / 2
    assert figures["teacher_bytes"] == 4 * figures["teacher_parameters"]
    assert figures["int8_agreement"] > 0.8
    graphs = [
        export.session(root / f"out/{n}", 1) for n in ("student.onnx", "int8/student_int8.onnx")
    ]
    pixels = testset.read(root / "images.parquet", root / "labels.parquet", 32, 7)
    exact, near = (export.run(g, as_input(pixels.some(pixels.ids)).numpy()) for g in graphs)
    assert 0 < np.abs(exact - near).max() < 0.1 * np.abs(exact).max()
    right = (near.argmax(1) == pixels.labels).mean()
    assert figures["int8_top1"] == pytest.approx(right, abs=1e-6)
    assert graphs[1].get_modelmeta().custom_metadata_map["image_size"] == "32"
    assert "student, int8" in "".join(done.said)
    shown = int8.calibration_images(
        root / "data/fetch/pool", root / "data/select/selection.parquet", 100, 32
    )
    assert len(shown) == 32
    pool = root / "data/fetch/pool"
    expected = load_images(pool, [f"{i:032x}" for i in range(4, 36)], 32, workers=1)[1]
    assert np.array_equal(shown, expected)


def test_without_int8_the_pool_is_not_opened(stage: _Stage, tmp_path: Path) -> None:
    stage.params = stage.params.model_copy(update={"int8_images": 0})
    main(stage)
    assert not [key for key in stage.found if key.startswith("int8")]
    assert list((tmp_path / "out/int8").iterdir()) == []
    assert not [name for name in stage.opened if "pool" in name or "selection" in name]


def test_a_device_that_is_not_there_is_one_line(
    stage: _Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stage.params = stage.params.model_copy(update={"device": "cuda"})
    with pytest.raises(UserError, match=r"evaluate\.device = cuda, but torch sees no CUDA device"):
        main(stage)


def test_answers_of_another_device_are_not_what_the_graph_is_compared_with(
    stage: _Stage, tmp_path: Path
) -> None:
    student = load_network(tmp_path / "data/distill/student")
    exports = deployed.write(stage, student)
    test = testset.read(tmp_path / "images.parquet", tmp_path / "labels.parquet", 32, 7)
    rounded = np.zeros((30, 7), np.float32)
    for device, near in (("meta", True), ("cpu", False)):
        found = deployed.parity(stage, test, rounded, student, exports, torch.device(device))
        assert (found.relative < 1e-4) is near


def test_a_class_without_test_images_is_named_first(stage: _Stage, tmp_path: Path) -> None:
    _write_test_set(tmp_path, [i % 6 for i in range(30)])
    stage.params = stage.params.model_copy(update={"int8_images": 0})
    main(stage)
    assert stage.said[0].startswith("no test image shows class 6:")


def test_an_export_that_differs_fails_the_stage_which_publishes_nothing(
    stage: _Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The real harness around the stage, on the files of the fixture."""
    real = export.export

    def differing(net: export.Deployable, size: int, path: Path) -> None:
        other = copy.deepcopy(net)
        other.net.fc.weight.data.add_(1e-2)
        real(other, size, path)

    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr("webdistill.harness.stage.die_with_parent", lambda: None)
    monkeypatch.setattr(export, "export", differing)
    write_manifest(tmp_path / "data/distill/student")
    facts = {**vars(stage.task), "classes": json.dumps(CLASSES)}
    chosen = [f"--set=task.{key}={value}" for key, value in facts.items()]
    with pytest.raises(SystemExit) as ended:
        run("evaluate", main, [f"--params={YAML}", *chosen])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("evaluate: error: ONNX export is not the student: ")
    assert not (tmp_path / "data/evaluate").exists()
    assert not list(tmp_path.rglob("student.onnx"))


def test_a_class_list_that_differs_is_refused(stage: _Stage) -> None:
    stage.task.classes = CLASSES[::-1]
    with pytest.raises(UserError, match=r"task\.classes in params\.yaml and the classes of"):
        main(stage)
