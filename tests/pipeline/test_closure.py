"""Promise R6: what a stage imports, and which facts of `task` it reads, is listed in dvc.yaml."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from stages.distill.method_params import METHODS
from stages.distill.params import BYTELESS, Distill
from tests.closure import ROOT, closure, of_stage, outside
from webdistill.harness.params import STAGES, Task, load, read_yaml

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
    "webdistill/harness/params.py",  # the parameter's type
    "webdistill/commands/init/choices.py",
    "webdistill/commands/init/material.py",
    "pipelines/compare/prepare.py",
    "pipelines/deconfound/prepare.py",
    "pipelines/out_of_domain/prepare.py",
    "pipelines/pools/prepare.py",
    "pipelines/real_task/folders.py",  # copies them
    "pipelines/real_task/prepare.py",
    "pipelines/scarce/prepare.py",
    "pipelines/quickstart_data/test_set.py",
}
# ... these read the labels of a data set that is no stage's input, or compare finished students.
LABELS_OF_OTHERS = {
    "pipelines/full_size/arrays.py",
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
    assert stage in listed or stage == "distill"
    if "task" in listed:
        return
    read = {
        key
        for path in (ROOT / "stages" / stage).rglob("*.py")
        for key in re.findall(r"\btask\.(\w+)", path.read_text())
    } & set(Task.model_fields)
    missing = read - {p.removeprefix("task.") for p in listed}
    assert missing <= ({"threads"} if stage in THREAD_FREE else set())


def test_distill_depends_on_every_key_but_the_options_of_other_methods() -> None:
    """And on none that decides no byte. DVC cannot leave a key out, so they are listed one by one."""
    methods, listed = set(get_args(METHODS)), PIPELINE["distill"]["params"]
    own = [name.removeprefix("distill.") for name in listed if name.startswith("distill.")]
    deciding = set(Distill.model_fields) - methods - BYTELESS
    assert sorted(own) == sorted(deciding | {"${distill.method}"})
    for method in methods:
        settings = load(ROOT / "params.yaml", [f"distill.method={method}"]).sections["distill"]
        assert isinstance(settings, Distill)
        left_out = set(Distill.model_fields) - set(settings.decisive())
        assert left_out == methods - {method} | BYTELESS


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
