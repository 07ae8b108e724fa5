"""The registered student: a version per student, and answers equal to those of the torch network."""

from __future__ import annotations

import base64
import io
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stages.evaluate.export import Deployable
from stages.evaluate.forward import as_input
from tests.tracking.student import CLASSES, NAME, SIZE, encoded, evaluated, exported
from webdistill.harness import spool
from webdistill.images.gate import decode
from webdistill.images.pool import square
from webdistill.tracking import flush, model, store

with warnings.catch_warnings():  # MLflow 3.17 about its own type hints
    warnings.simplefilter("ignore")
    from webdistill.tracking import served

# MLflow 3.17 beside SQLAlchemy 2.1 and pandas 3.1
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployable, list[Path]]:
    """The network with its normalisation, and the two files of the record of evaluate."""
    return exported(tmp_path_factory.mktemp("student"))


@pytest.fixture
def place(
    tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[store.Store, Path]]:
    """A store of its own, and the spool that goes there."""
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WEBDISTILL_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    for name in (
        "MLFLOW_HTTP_REQUEST_TIMEOUT",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
        "MLFLOW_LOGGING_LEVEL",
    ):
        monkeypatch.setenv(name, {"MLFLOW_LOGGING_LEVEL": "ERROR"}.get(name, "20"))
    shutil.copy(blank, tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield store.connect(tmp_path), tmp_path / ".work" / "spool"
    mlflow.set_tracking_uri(None)


def carry(waiting: Path) -> int:
    return flush.main(["--folder", str(waiting), "--wait", "300"])


def test_predicts_on_raw_images_what_the_network_says(
    place: tuple[store.Store, Path], student: tuple[Deployable, list[Path]]
) -> None:
    import mlflow

    (_, waiting), (net, files) = place, student
    spool.write(evaluated(files), waiting)
    assert carry(waiting) == 0
    loaded = mlflow.pyfunc.load_model(f"models:/{NAME}@latest")
    raw = [encoded("JPEG", (40, 30), 1), encoded("PNG", (16, 16), 2), encoded("WEBP", (9, 31), 3)]
    arrays = [np.asarray(decode(data)) for data in raw]
    pixels = np.stack([np.asarray(square(decode(data), SIZE)) for data in raw])
    with torch.inference_mode():
        expected = net(as_input(pixels)).double().softmax(1).numpy()
    texts = [base64.encodebytes(data).decode() for data in raw]
    for images in (raw, arrays, texts, [array.tolist() for array in arrays]):
        answer = loaded.predict(pd.DataFrame({"image": images}))
        found = np.array([[row[name] for name in CLASSES] for row in answer["probabilities"]])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert answer["class"].tolist() == [CLASSES[k] for k in expected.argmax(1)]
        np.testing.assert_allclose(answer["probability"], expected.max(1), atol=1e-5)
    assert loaded.predict({"image": raw})["class"].tolist() == answer["class"].tolist()
    many = loaded.predict(pd.DataFrame({"image": raw * 50}))  # more than a batch
    np.testing.assert_allclose(many["probability"], np.tile(expected.max(1), 50), atol=1e-5)
    with pytest.raises(ValueError, match="image 1: no JPEG, PNG or WebP"):
        loaded.predict({"image": [raw[0], b"GIF89a"]})

    info = mlflow.models.get_model_info(f"models:/{NAME}@kd")
    assert info.signature.inputs.input_names() == ["image"]
    assert info.signature.outputs.input_names() == ["class", "probability", "probabilities"]
    assert loaded.predict(loaded.input_example).shape == (1, 3)


@pytest.mark.slow
def test_the_examples_of_the_documentation_run(
    place: tuple[store.Store, Path],
    student: tuple[Deployable, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (where, waiting), (_, files) = place, student
    spool.write(evaluated(files), waiting)
    assert carry(waiting) == 0
    page = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text()
    predict, choose = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("dog.jpg").write_bytes(encoded("JPEG", (40, 30), 1))
    scope: dict[str, Any] = {}
    exec(predict, scope)
    assert any(name in capsys.readouterr().out for name in CLASSES)
    assert choose.count("3") == 1
    exec(choose.replace("3", "1"), scope)
    assert int(where.client.get_model_version_by_alias(NAME, "champion").version) == 1


def test_what_is_no_image_is_refused_with_the_reason() -> None:
    for image, reason in (
        (
            np.zeros((4, 4), np.uint8),
            r"expected bytes or uint8 \[height, width, 3\], found uint8 \[4, 4\]",
        ),
        (np.zeros((4, 4, 3), np.float32), "found float32"),
        ([[[300, 0, 0]]], "expected values 0-255, found 0 to 300"),
        ("path/to/dog.jpg", "a text must be base64"),
        (encoded("BMP", (5, 5), 0), "no JPEG, PNG or WebP"),
    ):
        with pytest.raises(ValueError, match=reason):
            served.as_picture(image)


def test_a_photograph_taken_upright_is_turned() -> None:
    picture = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    assert served.as_picture(file.getvalue()).size == (4, 5)


def test_one_version_per_student_however_often_it_is_told(
    place: tuple[store.Store, Path],
    student: tuple[Deployable, list[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (where, waiting), (_, files) = place, student
    client = where.client
    kept = spool.write(evaluated(files), waiting)
    text, artifacts = kept.read_text(), kept.with_suffix(".files")
    shutil.copytree(artifacts, waiting / "copy")

    with monkeypatch.context() as patch:  # the server goes away in the middle, twice
        patch.setattr(type(client), "log_model_artifacts", lambda *_: 1 / 0)
        assert carry(waiting) == 1
    with monkeypatch.context() as patch:
        patch.setattr(type(client), "set_registered_model_alias", lambda *_: 1 / 0)
        assert carry(waiting) == 1
    assert carry(waiting) == 0
    shutil.copytree(waiting / "copy", artifacts)
    kept.write_text(text)
    assert carry(waiting) == 0  # the record again
    spool.write(evaluated(files, parent_key="e" * 32), waiting)
    assert carry(waiting) == 0  # the same student evaluated in another way
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    assert len(client.search_logged_models([where.experiment])) == 1
    assert version.tags == {
        "student": "a" * 32 + ".dir", "teacher": "b" * 32, "method": "kd", "top1": "0.5",
    }  # fmt: skip
    assert client.get_model_version_by_alias(NAME, "kd").version == version.version
    assert not client.list_artifacts(version.run_id)  # the graph is in the model and nowhere else

    spool.write(evaluated(files, student="c", parent_key="f" * 32), waiting)
    assert carry(waiting) == 0
    assert int(client.get_model_version_by_alias(NAME, "kd").version) == 2
    assert int(client.get_model_version_by_alias(NAME, "latest").version) == 2


def test_cells_and_failures_register_nothing(student: tuple[Deployable, list[Path]]) -> None:
    _, files = student
    assert model.belongs_to(evaluated(files))
    for changes in (
        {"tags": {"cell": "x"}},
        {"status": "FAILED"},
        {"stage": "report"},
        {"artifacts": files[:1]},
    ):
        assert not model.belongs_to(evaluated(files, **changes))
    assert model.other_artifacts(evaluated(files, tags={"cell": "x"})) == files
    assert model.other_artifacts(evaluated(files)) == []


@pytest.mark.slow
def test_a_server_keeps_the_model(
    server: str,
    student: tuple[Deployable, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    _, files = student
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "served")
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "ERROR")
    waiting = tmp_path / ".work" / "spool"
    spool.write(evaluated(files), waiting)
    assert carry(waiting) == 0
    mlflow.set_tracking_uri(server)
    try:
        loaded = mlflow.pyfunc.load_model("models:/served-student@kd")
        assert loaded.predict({"image": [encoded("PNG", (20, 20), 0)]})["class"][0] in CLASSES
    finally:
        mlflow.set_tracking_uri(None)
