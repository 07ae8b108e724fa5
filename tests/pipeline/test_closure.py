"""Promise R6: what a stage imports, and which facts of `task` it reads, is listed in dvc.yaml."""

from __future__ import annotations

import re

import pytest

from tests.closure import ROOT, closure, of_stage, outside
from webdistill.core.params import STAGES, Task, read_yaml

PIPELINE = read_yaml(ROOT / "dvc.yaml")["stages"]
THREAD_FREE = {
    "search",
    "fetch",
    "filter",
    "select",
    "prototypes",
}  # outputs do not depend on task.threads

# Files that name the test labels and are no stage's: `init` and the preparations of data write them; ...
LABELS_WRITTEN = {
    "webdistill/core/params.py",  # the parameter's type
    "webdistill/init/choices.py",
    "webdistill/init/material.py",
    "pipelines/compare/prepare.py",
    "pipelines/out_of_domain/prepare.py",
    "pipelines/pools/prepare.py",
    "pipelines/quickstart_data/test_set.py",
}
# ... these read the labels of a data set that is no stage's input, or compare finished students.
LABELS_OF_OTHERS = {
    "pipelines/compare/reference.py",
    "pipelines/pools/train.py",
    "pipelines/quickstart_data/candidates.py",
    "pipelines/quickstart_data/source.py",
    "pipelines/quickstart_data/teacher.py",
    "pipelines/quickstart_data/web.py",
}


def test_every_stage_has_a_folder_and_the_other_way_round() -> None:
    folders = {p.parent.name for p in (ROOT / "stages").glob("*/__main__.py")}
    assert folders == set(PIPELINE) == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_import_closure_is_inside_the_deps(stage: str) -> None:
    missing = outside(of_stage(stage), PIPELINE[stage]["deps"])
    assert not missing, f"add to deps of '{stage}' in dvc.yaml: {missing}"


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage: str) -> None:
    others = {p for p in closure(of_stage(stage)) if "stages" in p.parts and stage not in p.parts}
    assert others <= {ROOT / "stages" / "__init__.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_task_facts_read_by_a_stage_are_in_its_params(stage: str) -> None:
    listed = PIPELINE[stage].get("params", [])
    assert stage in listed
    if "task" in listed:
        return
    read = {
        key
        for path in (ROOT / "stages" / stage).rglob("*.py")
        for key in re.findall(r"\btask\.(\w+)", path.read_text())
    } & set(Task.model_fields)
    missing = read - {p.removeprefix("task.") for p in listed}
    assert missing <= ({"threads"} if stage in THREAD_FREE else set())


def test_only_evaluate_reads_the_test_labels() -> None:
    """Nothing else names the file or its parameter, but for what writes it or belongs to no run of the pipeline."""
    named = {
        path.relative_to(ROOT).as_posix()
        for folder in ("stages", "webdistill", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"test_labels|labels\.parquet|test/labels", path.read_text())
    }
    assert named - {*LABELS_WRITTEN, *LABELS_OF_OTHERS} == {"stages/evaluate/__main__.py"}
    for stage, spec in PIPELINE.items():
        if stage != "evaluate":
            assert "${task.test_labels}" not in spec["deps"]
