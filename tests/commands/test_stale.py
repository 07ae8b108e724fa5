"""python -m webdistill.commands.stale"""

from __future__ import annotations

from pathlib import Path

from tests.small_project import Project, set_params
from webdistill.commands.stale import RENEW, stale


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
