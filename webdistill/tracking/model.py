"""The student in MLflow's model registry: a version per student, known by its hash.

Only the main pipeline registers: the many students of a comparison are measurements, not candidates.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webdistill.harness.records import StageRun
from webdistill.tracking.store import Store, experiment_name

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

    from webdistill.tracking.links import Source

STUDENT = "data/distill/student"
FILES = {"student": "student.onnx", "card": "config.json"}  # artifacts of the record of evaluate
REQUIRED = ("mlflow", "numpy", "onnxruntime", "pandas", "pillow")  # what served.py imports


def belongs_to(record: StageRun) -> bool:
    """Whether the record brings a student to register."""
    names = {path.name for path in record.artifacts if path.is_file()}
    return (
        record.stage == "evaluate"
        and record.status == "FINISHED"
        and "cell" not in record.tags
        and STUDENT in record.inputs
        and names >= set(FILES.values())
    )


def other_artifacts(record: StageRun) -> list[Path]:
    """The record's files that do not go into the model."""
    own = set(FILES.values()) if belongs_to(record) else set()
    return [path for path in record.artifacts if path.is_file() and path.name not in own]


def register(store: Store, run: Run, record: StageRun, sources: Sequence[Source]) -> None:
    """A version for the record's student, unless it has one already. Safe to repeat at any point."""
    client, name = store.client, f"{experiment_name()}-student"
    student = record.inputs[STUDENT]
    every = client.search_model_versions(f"name = '{name}' and tags.student = '{student}'")
    found = [each for each in every if _is_here(store, each)]
    mine = next((each for each in found if each.run_id == run.info.run_id), None)
    if found and mine is None:
        return
    if mine is None:
        _ensure(store, name)
        logged = _logged(store, run, record, student)
        mine = client.create_model_version(
            name,
            f"models:/{logged.model_id}",
            run.info.run_id,
            tags=_tags(record, sources),
            model_id=logged.model_id,
            description=record.name,
        )
        told = json.dumps([{"name": name, "version": mine.version}])
        client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": told})
    client.set_registered_model_alias(name, _method(record), mine.version)


def _is_here(store: Store, version: ModelVersion) -> bool:
    """Not of an experiment that came with a copied database, whose files are elsewhere."""
    if not store.others or version.run_id is None:
        return True
    return bool(store.client.get_run(version.run_id).info.experiment_id == store.experiment)


def _method(record: StageRun) -> str:
    return str(record.parent_params["distill.method"])


def _ensure(store: Store, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(
            name, description="Students made by webdistill: raw images in, class names out."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tags(record: StageRun, sources: Sequence[Source]) -> dict[str, str]:
    """What the student was made of, as DVC's hashes, and how it did."""
    made = {path: digest for source in sources for path, digest in source.outputs.items()}
    facts = {
        "student": record.inputs[STUDENT],
        "teacher": record.inputs.get(str(record.parent_params["task.teacher"])),
        "pool": made.get("data/fetch/pool"),
        "selection": made.get("data/select/selection.parquet"),
        "method": _method(record),
        "top1": record.metrics.get("top1"),
    }
    return {key: str(value) for key, value in facts.items() if value is not None}


def _logged(store: Store, run: Run, record: StageRun, student: str) -> LoggedModel:
    """The model in the store, below its run; one that an earlier attempt left half-way is thrown away."""
    from mlflow.entities import LoggedModelOutput

    client = store.client
    for earlier in client.search_logged_models(
        [store.experiment], f"source_run_id = '{run.info.run_id}'"
    ):
        if earlier.status == "READY":
            return earlier
        client.delete_logged_model(earlier.model_id)
    model = client.create_logged_model(
        store.experiment, name="student", source_run_id=run.info.run_id, tags={"student": student}
    )
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    with tempfile.TemporaryDirectory(prefix="webdistill-model-") as folder:
        place = Path(folder) / "model"
        _save(place, {path.name: path for path in record.artifacts}, run.info.run_id, model)
        client.log_model_artifacts(model.model_id, str(place))
    return client.finalize_logged_model(model.model_id, "READY")


def _save(place: Path, files: Mapping[str, Path], run: str, model: LoggedModel) -> None:
    """MLflow's folder of the model; MLflow tries it with the example before it is sent."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model

    card = json.loads(files[FILES["card"]].read_text(encoding="utf-8"))
    mlflow.pyfunc.save_model(
        place,
        python_model=str(Path(__file__).with_name("served.py")),
        artifacts={key: str(files[name]) for key, name in FILES.items()},
        signature=_signature(),
        input_example=pd.DataFrame({"image": [_example(card["image_size"])]}),
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIRED],
        mlflow_model=Model(run_id=run, model_id=model.model_id),
    )


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import DataType
    from mlflow.types.schema import AnyType, ColSpec, Map, Schema

    anything: Any = AnyType  # bytes or an array; MLflow has no type for "one of these"
    return ModelSignature(
        Schema([ColSpec(anything(), "image")]),
        Schema(
            [
                ColSpec(DataType.string, "class"),
                ColSpec(DataType.double, "probability"),
                ColSpec(Map(DataType.double), "probabilities"),
            ]
        ),
    )


def _example(size: int) -> bytes:
    """A grey picture, as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (size, size), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()
