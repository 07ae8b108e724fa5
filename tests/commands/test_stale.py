"""python -m webdistill.commands.stale, and what `results` says of a run that was not finished"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_project import Project, set_params
from webdistill.commands.behind import behind
from webdistill.commands.results import results
from webdistill.commands.stale import RENEW, stale
from webdistill.core.errors import UserError


def test_it_names_stages_and_what_changed_and_not_what_is_absent(
    small_project: Project, tmp_path: Path
) -> None:
    project = small_project.copy(tmp_path / "project")
    clone = tmp_path / "clone"
    project.run("git", "clone", "-q", str(project.root), str(clone))  # without DVC's outputs
    assert stale(clone) == ["dvc.lock belongs to this code and these parameters"]
    loop = clone / "stages/distill/loop.py"
    loop.write_text(loop.read_text() + "# a comment\n")
    set_params(clone, ["filter.min_score=0.5"])
    assert stale(clone) == [
        "dvc.lock is stale: filter: params.yaml: filter",
        "dvc.lock is stale: distill: stages/distill: modified",
        "dvc.lock is stale: report: params.yaml: filter",
        RENEW,
    ]


def test_results_say_that_they_are_older_than_parameters_code_or_inputs(
    small_project: Project, tmp_path: Path
) -> None:
    root = small_project.copy(tmp_path / "project").root
    assert "older " not in results(root)
    set_params(root, ["filter.min_score=0.5"])  # and what runs then is killed
    assert behind(root) == ["filter", "report"]
    assert results(root).startswith("older    these figures are not of the present parameters,")
    assert "`dvc repro` would run filter, report and what follows\n" in results(root)
    set_params(root, ["filter.min_score=-1.0", "filter.per_class=7", "distill.lr=0.1"])
    assert behind(root) == ["filter", "distill", "report"]
    set_params(root, ["filter.per_class=null", "distill.lr=null"])
    assert behind(root) == []
    code, takedown = root / "stages/distill/loop.py", root / "takedown.txt"
    code.write_text(code.read_text() + "# a comment\n")
    takedown.write_text(takedown.read_text() + "host:example.org\n")
    assert sorted(behind(root)) == ["distill", "filter"]


def test_a_run_that_ended_halfway_is_seen_in_the_lock_alone(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    (tmp_path / "params.yaml").write_text("a: {rate: 1e-4, off: null, on: true, names: [x]}\n")
    stages = """schema: '2.0'
stages:
  a:
    cmd: a
    params:
      params.yaml: {a: {rate: 0.0001, off: null, on: true, names: [x]}}
    outs: [{path: data/a, hash: md5, md5: MADE, size: 3}]
  b:
    cmd: b
    deps: [{path: data/a, hash: md5, md5: 1abc, size: 3}]
"""
    lock.write_text(stages.replace("MADE", "1abc"))
    assert behind(tmp_path) == []
    lock.write_text(stages.replace("MADE", "2abc"))  # a ran, b did not
    assert behind(tmp_path) == ["b"]
    lock.write_text("a: b: c\n")
    with pytest.raises(UserError, match="dvc.lock is no YAML"):
        behind(tmp_path)
