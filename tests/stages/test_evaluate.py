"""The evaluate stage: measures against naive loops, export against torch, files against the contract."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from stages.evaluate import export, measures, results, testset
from stages.evaluate.__main__ import main
from stages.evaluate.forward import as_input, logits
from stages.evaluate.params import Evaluate
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, write_manifest, write_table
from webdistill.core.stage import run
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
    expected = logits(net, images, lambda items, **_: iter(items), "net")
    by_hand = (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.25])
    with torch.inference_mode():
        plain = net.net(torch.from_numpy(by_hand.transpose(0, 3, 1, 2)).float())
    assert np.abs(plain.numpy() - expected).max() < 1e-4
    graph = export.session(paths[0], 1)
    for size in (1, 7, 20):
        found = export.run(graph, as_input(images[:size]).numpy())
        assert found.shape == (size, 7)
        assert np.abs(found - expected[:size]).max() <= 1e-4
    result = export.parity(graph, as_input(images).numpy(), expected)
    assert (result.images, result.agreement) == (20, 1.0)
    export.check(result)


@pytest.mark.parametrize(
    "result",
    [
        export.Parity(100, 2e-4, 1.0),
        export.Parity(100, 0.0, 0.99),
        export.Parity(100, float("nan"), 1.0),
    ],
)
def test_an_export_that_differs_is_refused(result: export.Parity) -> None:
    with pytest.raises(UserError, match="ONNX export is not the student"):
        export.check(result)


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
    assert found.images.shape == (3, 32, 32, 3)
    assert testset.read(images, labels, 16, 7).images.shape == (3, 16, 16, 3)


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
        self.opened: list[str] = []

    def input(self, name: str) -> Path:
        self.opened.append(name)
        return self._root / name

    def output(self, name: str):  # type: ignore[no-untyped-def]
        import contextlib

        folder = self._root / "out"
        folder.mkdir(exist_ok=True)
        return contextlib.nullcontext(folder / name)

    def picture(self, name: str, data: bytes) -> None:
        assert name == "mistakes.png"
        assert data.startswith(b"\x89PNG")

    def artifact(self, path: Path) -> None:
        assert path.name in ("student.onnx", "config.json")
        assert path.is_file()

    def metrics(self, values: dict[str, float]) -> None:
        self.found.update(values)

    def track_metrics(self, values: dict[str, float]) -> None:
        self.tracked.update(values)

    def progress(self, items, **_):  # type: ignore[no-untyped-def]
        return iter(items)

    def log(self, message: str) -> None:
        assert message


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
    task = SimpleNamespace(
        threads=1,
        classes=CLASSES,
        teacher="teacher",
        test_images="images.parquet",
        test_labels="labels.parquet",
    )
    return _Stage(tmp_path, task, Evaluate(calibration_bins=15, parity_images=20))


def test_the_stage_writes_what_it_promises_and_the_same_bytes_twice(
    stage: _Stage, tmp_path: Path
) -> None:
    names = (
        "student.onnx",
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
    assert {"latency_torch_b1_ms", "latency_onnx_b64_ms"} <= set(stage.tracked)

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
    monkeypatch.setattr("webdistill.core.stage.die_with_parent", lambda: None)
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
