"""Promise R6 for the further pipelines: what a stage imports, and what a cell reads, is listed in their dvc.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.closure import ROOT, covered, module_file, of_stage, outside
from webdistill.core.params import read_yaml

MAIN = read_yaml(ROOT / "dvc.yaml")["stages"]
PIPELINES = {
    path.parent.name: read_yaml(path)["stages"]
    for path in sorted((ROOT / "pipelines").glob("*/dvc.yaml"))
}
STAGES = [(pipeline, stage) for pipeline, stages in PIPELINES.items() for stage in stages]


def runs(cmd: str) -> list[str]:
    """The stages of the main pipeline that a command of pipelines.cell runs."""
    words = cmd.split()
    settings = read_yaml(ROOT / words[words.index("pipelines.cell") + 1] / "params.yaml")
    if "${item.arm}" in words:
        return list(settings["stages"])
    pool = words[words.index("--pool") + 1] if "--pool" in words else "pool"
    return list(settings[pool]["stages"])


def starts(cmd: str) -> set[Path]:
    """The files with which a command begins: its module, and what that starts in its turn."""
    modules = re.findall(r"python -m (\S+)", cmd)
    files = {file for name in modules if (file := module_file(name))}
    assert len(files) == len(modules) > 0, f"no module of this project: {cmd}"
    if "pipelines.cell" in modules:
        files |= {file for stage in runs(cmd) for file in of_stage(stage)}
    return files


@pytest.mark.parametrize(("pipeline", "stage"), STAGES)
def test_import_closure_is_inside_the_deps(pipeline: str, stage: str) -> None:
    spec = PIPELINES[pipeline][stage]
    assert spec["wdir"] == "../..", "dependencies are read as paths from the root"
    missing = outside(starts(spec["cmd"]), spec["deps"])
    assert not missing, f"add to deps of '{stage}' in pipelines/{pipeline}/dvc.yaml: {missing}"


def reads(settings: dict[str, Any], arm: str, stages: list[str]) -> set[str]:
    """Inputs of a cell, as deps name them: what its stages read in the main pipeline and do not make themselves."""
    data = settings["arms"][arm].get("data", settings.get("data", "data"))
    facts = settings.get("common", {}).get("task", {})
    found = set()
    for dep in (dep for stage in stages for dep in MAIN[stage]["deps"]):
        _, _, fact = dep.strip("${}").rpartition("task.")
        if dep.startswith("${"):
            found.add(facts.get(fact, dep))
        elif dep.startswith("data/") and dep.split("/")[1] not in ("quickstart", *stages):
            found.add(data + dep.removeprefix("data"))
    return {name.replace("{setting}", "${item.domain}") for name in found}


CELLS = [(p, stage) for p, stage in STAGES if "${item.arm}" in PIPELINES[p][stage]["cmd"]]


@pytest.mark.parametrize(("pipeline", "stage"), CELLS)
def test_a_cell_depends_on_what_its_stages_read(pipeline: str, stage: str) -> None:
    settings = read_yaml(ROOT / "pipelines" / pipeline / "params.yaml")
    spec = PIPELINES[pipeline][stage]
    stages = runs(spec["cmd"])
    for arm in spec["matrix"]["arm"]:
        names = reads(settings, arm, stages)
        assert len(names) > 3
        missing = sorted(name for name in names if not covered(name, spec["deps"]))
        assert not missing, f"{pipeline}, {stage}, {arm}: add to its deps: {missing}"
