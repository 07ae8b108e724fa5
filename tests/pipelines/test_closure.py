"""Promise R6 for the further pipelines: what a stage imports, and what a cell reads, is listed in their dvc.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.shared.cell import flat
from tests.closure import ROOT, covered, from_root, module_file, of_stage, outside
from webdistill.harness.closure import imports
from webdistill.harness.params import read_yaml

MAIN = read_yaml(ROOT / "dvc.yaml")["stages"]
PIPELINES = {
    path.parent.name: read_yaml(path)["stages"]
    for path in sorted((ROOT / "pipelines").glob("*/dvc.yaml"))
}
STAGES = [(pipeline, stage) for pipeline, stages in PIPELINES.items() for stage in stages]


def runs(cmd: str) -> list[str]:
    """The stages of the main pipeline that a command of pipelines.shared.cell runs."""
    words = cmd.split()
    settings = read_yaml(ROOT / words[words.index("pipelines.shared.cell") + 1] / "params.yaml")
    if "${item.arm}" in words:
        return list(settings["stages"])
    pool = words[words.index("--pool") + 1] if "--pool" in words else "pool"
    return list(settings[pool]["stages"])


def of_commands(file: Path) -> set[Path]:
    """Programs of the project that a study computes with: for it they decide bytes, and nobody follows them else."""
    found, todo = set[Path](), {file}
    while todo:
        near = {each for path in todo for each in imports(ROOT, path)}
        todo = {each for each in near if each.is_relative_to(ROOT / "webdistill/commands")} - found
        found |= todo
    return found


def starts(cmd: str) -> set[Path]:
    """The files with which a command begins: its module, and what that starts in its turn."""
    modules = re.findall(r"python -m (\S+)", cmd)
    files = {file for name in modules if (file := module_file(name))}
    assert len(files) == len(modules) > 0, f"no module of this project: {cmd}"
    files |= {each for file in files for each in of_commands(file)}
    if "pipelines.shared.cell" in modules:
        files |= {file for stage in runs(cmd) for file in of_stage(stage)}
    return files


def deps(pipeline: str, spec: dict[str, Any]) -> list[str]:
    """A stage's dependencies as paths from the root."""
    return [from_root(pipeline, dep) for dep in spec["deps"]]


@pytest.mark.parametrize(("pipeline", "stage"), STAGES)
def test_a_stage_begins_in_the_root_and_sees_code_inside_its_project(
    pipeline: str, stage: str
) -> None:
    """Outside of it, .dvcignore does not hold, and no shell may stay between DVC and the program."""
    spec = PIPELINES[pipeline][stage]
    assert spec["cmd"].startswith("cd ../.. && exec python -m ")
    assert not [dep for dep in spec["deps"] if dep.startswith(("../../stages", "../../webdistill"))]
    links = [dep for dep in spec["deps"] if dep.startswith("../.code/")]
    assert all((ROOT / "pipelines" / pipeline / dep).exists() for dep in links)


@pytest.mark.parametrize(("pipeline", "stage"), STAGES)
def test_import_closure_is_inside_the_deps(pipeline: str, stage: str) -> None:
    spec = PIPELINES[pipeline][stage]
    missing = outside(starts(spec["cmd"]), deps(pipeline, spec))
    assert not missing, f"add to deps of '{stage}' in pipelines/{pipeline}/dvc.yaml: {missing}"


DICTIONARY = "data/prototypes/${distill.deconfound.dictionary}.safetensors"
assert DICTIONARY in MAIN["distill"]["deps"]


def reads(settings: dict[str, Any], arm: str, stages: list[str]) -> set[str]:
    """Inputs of a cell, as deps name them: what its stages read in the main pipeline and do not make themselves."""
    data = settings["arms"][arm].get("data", settings.get("data", "data"))
    facts = settings.get("common", {}).get("task", {})
    changed = {**dict(flat(settings.get("common", {}))), **dict(flat(settings["arms"][arm]))}
    dictionary = changed.get("distill.deconfound.dictionary", "none")
    found = set()
    for named in (dep for stage in stages for dep in MAIN[stage]["deps"]):
        if named == DICTIONARY and dictionary in ("none", "drawn"):
            continue  # the main pipeline must name a file; nothing is read
        dep = named.replace("${distill.deconfound.dictionary}", dictionary)
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
        missing = sorted(name for name in names if not covered(name, deps(pipeline, spec)))
        assert not missing, f"{pipeline}, {stage}, {arm}: add to its deps: {missing}"
