"""The evaluate stage: measures against naive loops, export against torch, files against the contract."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
from PIL import Image

from stages.evaluate import deployed, export, int8, measures, results, testset
from stages.evaluate.__main__ import main
from stages.evaluate.forward import answering, as_input, logits
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


def _logits(seed: int = 0, count: int = 60, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, classes)).astype(np.float32) * 3
    values[::9] = np.round(values[::9])  # ties
    return values, random.integers(0, classes, count)


def _softmax(row: np.ndarray) -> list[float]:
    exponents = [math.exp(float(v) - float(max(row))) for v in row]
    return [e / sum(exponents) for e in exponents]


def test_top_k_is_the_naive_loop() -> None:
    values, labels = _logits()
    for k in (1, 5):
        hits = 0
        for row, label in zip(values, labels, strict=True):
            order = sorted(range(len(row)), key=lambda c: (-row[c], c))
            hits += label in order[:k]
        assert measures.top_k(values, labels, k) == hits / len(labels)
    assert measures.top_k(values, labels, 1) == (values.argmax(1) == labels).mean()


def test_nll_and_brier_are_the_naive_loop() -> None:
    values, labels = _logits(1)
    nll, brier = 0.0, 0.0
    for row, label in zip(values, labels, strict=True):
        p = _softmax(row)
        nll -= math.log(p[label]) / len(labels)
        brier += sum((q - (c == label)) ** 2 for c, q in enumerate(p)) / len(labels)
    logs = measures.log_softmax(values)
    assert measures.negative_log_likelihood(logs, labels) == pytest.approx(nll, abs=1e-12)
    assert measures.brier(np.exp(logs), labels) == pytest.approx(brier, abs=1e-12)


def test_calibration_is_the_naive_loop() -> None:
    values, labels = _logits(2, count=300)
    probabilities = np.exp(measures.log_softmax(values))
    error = 0.0
    for b in range(15):
        inside = [i for i, p in enumerate(probabilities) if b / 15 < max(p) <= (b + 1) / 15]
        if inside:
            accuracy = sum(int(probabilities[i].argmax()) == labels[i] for i in inside) / len(
                inside
            )
            confidence = sum(max(probabilities[i]) for i in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    found = measures.calibration(probabilities, labels, 15)
    assert found.error == pytest.approx(error, abs=1e-12)
    assert found.count.sum() == 300


def test_calibration_of_a_certain_and_right_classifier_is_zero() -> None:
    probabilities = np.eye(4)[[0, 1, 2, 3, 3]]
    assert measures.calibration(probabilities, np.array([0, 1, 2, 3, 3]), 15).error == 0.0


def test_class_accuracy_survives_a_class_without_images() -> None:
    accuracy, count = measures.class_accuracy(np.array([0, 0, 2]), np.array([0, 2, 2]), 4)
    assert accuracy.tolist() == [1.0, 0.0, 0.5, 0.0]
    assert count.tolist() == [1, 0, 2, 0]


def test_export_is_the_student_at_any_batch_size_and_has_equal_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = export.Deployable(build("resnet8", 7), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)).eval()
    paths = [tmp_path / "a.onnx", tmp_path / "other" / "b.onnx"]
    paths[1].parent.mkdir()
    for path in paths:
        export.export(net, 32, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    batches = [images[:7], images[7:]]
    expected = logits(batches, {"net": answering(net, torch.device("cpu"))})["net"]
    by_hand = (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.25])
    with torch.inference_mode():
        plain = net.net(torch.from_numpy(by_hand.transpose(0, 3, 1, 2)).float())
    assert np.abs(plain.numpy() - expected).max() < 1e-4
    graph = export.session(paths[0], 1)
    for size in (1, 7, 20):
        found = export.run(graph, as_input(images[:size]).numpy())
        assert found.shape == (size, 7)
        assert np.abs(found - expected[:size]).max() <= 1e-4
    result = export.parity(graph, images, expected)
    assert (result.images, result.agreement) == (20, 1.0)
    export.check(result, hardly_trained=False)


def test_a_file_says_what_its_outputs_mean_and_how_to_make_its_input(tmp_path: Path) -> None:
    net = export.Deployable(build("resnet8", 7), (0.5,) * 3, (0.2,) * 3).eval()
    export.export(net, 32, tmp_path / "a.onnx")
    export.describe(tmp_path / "a.onnx", CLASSES, 32)
    facts = export.session(tmp_path / "a.onnx", 1).get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert facts["image_size"] == "32"
    assert "shorter side to 32 px, bicubic" in facts["preprocessing"]


def test_the_gate_is_relative_to_the_size_of_the_logits() -> None:
    values = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
    for factor in (1e-3, 1.0, 1e5):
        near = (values * np.float32(factor)).astype(np.float32)
        export.check(export.compare(near * np.float32(1 + 5e-5), near), hardly_trained=False)
        with pytest.raises(UserError, match="ONNX export is not the student: expected"):
            export.check(export.compare(near * np.float32(1 + 5e-4), near), hardly_trained=False)
    broken = values.copy()
    broken[3, 2] = np.nan
    with pytest.raises(UserError, match="ONNX export is not the student"):
        export.check(export.compare(broken, values), hardly_trained=False)


def test_a_hardly_trained_student_is_the_first_cause_that_is_named() -> None:
    values, _ = _logits()
    off = values * np.float32(1.01)
    flat = np.ones_like(values)
    first = "ONNX export is not the student: the likely cause is a student that has hardly learnt"
    with pytest.raises(UserError, match=first):
        export.check(export.compare(off, values), hardly_trained=True)
    with pytest.raises(UserError, match=first):
        export.check(export.compare(flat * 1.01, flat), hardly_trained=False)
    # Other classes where no logit moves further than allowed: nothing is wrong with the export.
    random = np.random.default_rng(0).normal(size=flat.shape)
    equal = export.compare(flat + 1e-6 * random.astype(np.float32), flat)
    assert equal.agreement < 0.5
    export.check(equal, hardly_trained=True)


@pytest.mark.parametrize(
    ("share", "images", "classes", "expected"),
    [(0.12, 100, 10, True), (0.2, 100, 10, False), (0.12, 10_000, 10, False), (0.0, 50, 2, True)],
)
def test_at_chance(share: float, images: int, classes: int, expected: bool) -> None:
    assert measures.at_chance(share, images, classes) is expected


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


def test_non_finite_logits_are_refused() -> None:
    values, labels = _logits()
    broken = values.copy()
    broken[3, 2] = np.nan
    with pytest.raises(
        UserError, match="student gives non-finite logits for 1 test images, first 3"
    ):
        results.Outcome([str(i) for i in range(60)], labels, broken, values)


def test_confusion_has_one_row_per_image(tmp_path: Path) -> None:
    values, labels = _logits(3)
    outcome = results.Outcome([str(i) for i in range(60)], labels, values, values[:, ::-1])
    results.write_confusion(outcome, CLASSES, tmp_path / "confusion.csv")
    with (tmp_path / "confusion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert [r["actual"] for r in rows] == [CLASSES[i] for i in labels]
    assert [r["predicted"] for r in rows] == [CLASSES[i] for i in values.argmax(1)]


@pytest.mark.parametrize(("classes", "known"), [(3, []), (5, [3]), (7, [3, 5])])
def test_top3_and_top5_are_there_when_there_are_more_classes(
    classes: int, known: list[int]
) -> None:
    values, labels = _logits(4, classes=classes)
    outcome = results.Outcome([str(i) for i in range(60)], labels, values, values)
    figures = results.figures(outcome, 15)
    assert {key for key in figures if key.startswith("top")} == {f"top{k}" for k in (1, *known)}
    for k in known:
        hits = 0
        for row, label in zip(values, labels, strict=True):
            hits += label in sorted(range(classes), key=lambda c: (-row[c], c))[:k]
        assert figures[f"top{k}"] == pytest.approx(hits / len(labels), abs=1e-6)
    assert figures["agreement"] == 1.0


class _Stage:
    """Stands in for the harness: inputs from one folder, outputs to another."""

    def __init__(self, root: Path, task: object, params: Evaluate) -> None:
        self.task, self.params, self._root = task, params, root
        self.found: dict[str, float] = {}
        self.tracked: dict[str, float] = {}
        self.said: list[str] = []
        self.work = root / "work"
        self.opened: list[str] = []

    def input(self, name: str) -> Path:
        self.opened.append(name)
        return self._root / name

    def networks(self, *architectures: str) -> list[str]:
        self.built_from = architectures
        return []

    def output(self, name: str):  # type: ignore[no-untyped-def]
        import contextlib

        folder = self._root / "out"
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

    def progress(self, items, **_):  # type: ignore[no-untyped-def]
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


@pytest.fixture
def stage(tmp_path: Path) -> _Stage:
    from types import SimpleNamespace

    from webdistill.models.checkpoint import save_network

    card = {"classes": list(CLASSES), "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    torch.manual_seed(1)
    for folder, architecture in (("data/distill/student", "resnet8"), ("teacher", "resnet14")):
        net = build(architecture, 7)
        save_network(tmp_path / folder, net, {**card, "architecture": architecture})
    _write_test_set(tmp_path, [i % 7 for i in range(30)])
    _write_selection(tmp_path / "data")
    (tmp_path / "work").mkdir()
    task = SimpleNamespace(
        threads=1,
        classes=CLASSES,
        teacher="teacher",
        test_images="images.parquet",
        test_labels="labels.parquet",
    )
    return _Stage(tmp_path, task, EVALUATE)


def test_the_stage_writes_what_it_promises_and_the_same_bytes_twice(
    stage: _Stage, tmp_path: Path
) -> None:
    names = (
        "student.onnx",
        "int8/student_int8.onnx",
        "predictions.parquet",
        "confusion.csv",
        "per_class.csv",
        "calibration.csv",
    )
    main(stage)  # type: ignore[arg-type]
    first, figures = {n: (tmp_path / "out" / n).read_bytes() for n in names}, dict(stage.found)
    main(stage)  # type: ignore[arg-type]
    assert first == {n: (tmp_path / "out" / n).read_bytes() for n in names}
    assert figures == stage.found
    json.dumps(figures, allow_nan=False)
    assert not [k for k in figures if "latency" in k or "second" in k]
    kinds = ("teacher", "torch", "onnx", "int8")
    times = {f"latency_{kind}_b{batch}_ms" for kind in kinds for batch in (1, 64)}
    assert times | {"latency_threads", "onnx_max_difference"} == set(stage.tracked)
    kept = json.loads((tmp_path / "work" / deployed.SPEED).read_text())
    assert kept["threads"] == 1
    assert kept["student"] == sha256_file(tmp_path / "out/student.onnx")
    assert times <= set(kept)

    table = read_table(tmp_path / "out/predictions.parquet").to_pylist()
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
    header = (tmp_path / "out/per_class.csv").read_text().splitlines()
    assert header[0] == "class,accuracy,count,teacher_accuracy"
    assert len(header) == 8


def test_int8_is_smaller_near_and_calibrated_on_the_selection_alone(
    stage: _Stage, tmp_path: Path
) -> None:
    main(stage)  # type: ignore[arg-type]
    figures = stage.found
    assert figures["int8_bytes"] == (tmp_path / "out/int8/student_int8.onnx").stat().st_size
    assert figures["onnx_bytes"] == (tmp_path / "out/student.onnx").stat().st_size
    assert figures["int8_bytes"] < figures["onnx_bytes"] / 2
    assert figures["teacher_bytes"] == 4 * figures["teacher_parameters"]
    assert figures["int8_agreement"] > 0.8
    graphs = [
        export.session(tmp_path / f"out/{n}", 1) for n in ("student.onnx", "int8/student_int8.onnx")
    ]
    pixels = testset.read(tmp_path / "images.parquet", tmp_path / "labels.parquet", 32, 7)
    exact, near = (export.run(g, as_input(pixels.some(pixels.ids)).numpy()) for g in graphs)
    assert 0 < np.abs(exact - near).max() < 0.1 * np.abs(exact).max()
    right = (near.argmax(1) == pixels.labels).mean()
    assert figures["int8_top1"] == pytest.approx(right, abs=1e-6)
    assert graphs[1].get_modelmeta().custom_metadata_map["image_size"] == "32"
    assert "student, int8" in "".join(stage.said)
    shown = int8.calibration_images(
        tmp_path / "data/fetch/pool", tmp_path / "data/select/selection.parquet", 100, 32
    )
    assert len(shown) == 32
    pool = tmp_path / "data/fetch/pool"
    expected = load_images(pool, [f"{i:032x}" for i in range(4, 36)], 32, workers=1)[1]
    assert np.array_equal(shown, expected)


def padded() -> torch.nn.Module:
    """A network whose padding follows the size of its maps, as that of timm's `tf_` networks does."""
    from timm.layers import Conv2dSame

    torch.manual_seed(0)
    layers = [Conv2dSame(a, 8, 3, stride=2, bias=True) for a in (3, 8, 8)]
    parts = [part for layer in layers for part in (layer, torch.nn.ReLU())]
    ends = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4))
    return torch.nn.Sequential(*parts, *ends)


def test_int8_leaves_the_arithmetic_of_sizes_alone(tmp_path: Path) -> None:
    net = export.Deployable(padded(), [0.5] * 3, [0.5] * 3).eval()
    exact, small = tmp_path / "exact.onnx", tmp_path / "int8.onnx"
    export.export(net, 51, exact)
    graph = onnx.load(exact).graph
    kinds = {node.name: node.op_type for node in graph.node}
    computed = {kinds[name] for name in int8.sizes(graph)}
    assert {"Shape", "Add"} <= computed
    assert not computed & {"Conv", "Relu", "Pad", "Gemm", "GlobalAveragePool"}
    images = np.random.default_rng(0).integers(0, 256, (32, 51, 51, 3), np.uint8)
    int8.quantise(exact, small, images)
    rounded = onnx.load(small).graph
    left = {node.name: node.op_type for node in rounded.node}
    assert "QuantizeLinear" in left.values()
    assert "QuantizeLinear" not in {left[name] for name in int8.sizes(rounded)}
    told, near = (
        export.session(path, 1).run(None, {"images": as_input(images).numpy()})[0]
        for path in (exact, small)
    )
    assert np.abs(near - told).max() < 0.1 * told.std()


def test_without_int8_the_pool_is_not_opened(stage: _Stage, tmp_path: Path) -> None:
    stage.params = stage.params.model_copy(update={"int8_images": 0})
    main(stage)  # type: ignore[arg-type]
    assert not [key for key in stage.found if key.startswith("int8")]
    assert list((tmp_path / "out/int8").iterdir()) == []
    assert not [name for name in stage.opened if "pool" in name or "selection" in name]


def test_a_device_that_is_not_there_is_one_line(
    stage: _Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stage.params = stage.params.model_copy(update={"device": "cuda"})
    with pytest.raises(UserError, match=r"evaluate\.device = cuda, but torch sees no CUDA device"):
        main(stage)  # type: ignore[arg-type]


def test_answers_of_another_device_are_not_what_the_graph_is_compared_with(
    stage: _Stage, tmp_path: Path
) -> None:
    student = load_network(tmp_path / "data/distill/student")
    exports = deployed.write(stage, student)  # type: ignore[arg-type]
    test = testset.read(tmp_path / "images.parquet", tmp_path / "labels.parquet", 32, 7)
    rounded = np.zeros((30, 7), np.float32)
    for device, near in (("meta", True), ("cpu", False)):
        found = deployed.parity(stage, test, rounded, student, exports, torch.device(device))  # type: ignore[arg-type]
        assert (found.relative < 1e-4) is near


def test_a_class_without_test_images_is_named_first(stage: _Stage, tmp_path: Path) -> None:
    _write_test_set(tmp_path, [i % 6 for i in range(30)])
    main(stage)  # type: ignore[arg-type]
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
        other.net.fc.weight.data.add_(1e-2)  # type: ignore[union-attr,operator]
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
    stage.task.classes = CLASSES[::-1]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"task\.classes in params\.yaml and the classes of"):
        main(stage)  # type: ignore[arg-type]


def test_mistakes_come_surest_first() -> None:
    logits = np.array([[5, 0], [0, 9], [1, 0], [0, 2]], np.float32)
    outcome = results.Outcome(list("abcd"), np.array([1, 0, 0, 0]), logits, logits)
    assert results.mistakes(outcome).tolist() == [1, 0, 3]
