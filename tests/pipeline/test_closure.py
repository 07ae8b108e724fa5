"""Promise R6: what a stage imports, and which facts of `task` it reads, is listed in dvc.yaml."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from webdistill.core.params import STAGES, Task, read_yaml

ROOT = Path(__file__).parents[2]
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


def module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imports(path: Path) -> set[Path]:
    """Files of this project that a file imports anywhere, functions included."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {
            f
            for n in names
            if n.split(".")[0] in ("stages", "webdistill") and (f := module_file(n))
        }
    return found


def closure(stage: str) -> set[Path]:
    todo = set((ROOT / "stages" / stage).rglob("*.py"))
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo |= imports(path)
    return seen


def covered(path: Path, deps: list[str]) -> bool:
    relative = path.relative_to(ROOT)
    return any(relative == Path(dep) or Path(dep) in relative.parents for dep in deps)


def test_every_stage_has_a_folder_and_the_other_way_round() -> None:
    folders = {p.parent.name for p in (ROOT / "stages").glob("*/__main__.py")}
    assert folders == set(PIPELINE) == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_import_closure_is_inside_the_deps(stage: str) -> None:
    glue = {
        ROOT / "webdistill/__init__.py",
        ROOT / "webdistill/_torchvision.py",
        ROOT / "stages/__init__.py",
    }
    deps = PIPELINE[stage]["deps"]
    outside = {
        p.relative_to(ROOT).as_posix()
        for p in closure(stage) - glue
        if not covered(p, deps)
        and p.read_text().strip().count("\n") > 2  # package docstrings hold no code
    }
    assert not outside, f"add to deps of '{stage}' in dvc.yaml: {sorted(outside)}"


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage: str) -> None:
    others = {p for p in closure(stage) if "stages" in p.parts and stage not in p.parts}
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
