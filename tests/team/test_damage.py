"""Promise S4 through DVC: remotes give the same bytes back, and a flipped byte is refused by name before any work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from webdistill.core import recorded
from webdistill.core.errors import UserError
from webdistill.core.params import read_yaml

if TYPE_CHECKING:
    from tests.small_project import Project

# An output of each kind -> a stage that reads it.
READERS = {
    "data/filter/kept.parquet": "select",
    "data/prototypes/prototypes.safetensors": "distill",
    "data/distill/curve.csv": "report",
    "data/evaluate/metrics.json": "report",
}


def md5(project: Project, out: str) -> str:
    spec = read_yaml(project.root / "dvc.lock")["stages"][Path(out).parts[1]]
    return next(str(entry["md5"]) for entry in spec["outs"] if entry["path"] == out)


def flip(path: Path, where: float = 0.5) -> None:
    """Change one bit and nothing else: size, mode and time stay."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def stored(folder: Path, digest: str) -> Path:
    return folder / "files" / "md5" / digest[:2] / digest[2:]


@pytest.fixture(scope="module")
def team(small_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with a folder as its remote, pushed."""
    project = small_project.copy(tmp_path_factory.mktemp("team") / "project")
    remote = project.root.parent / "remote"
    remote.mkdir()
    project.run("dvc", "remote", "add", "-q", "-d", "team", str(remote))
    project.run("git", "commit", "-q", "-a", "-m", "Remote")
    project.run("dvc", "push", "-q", "dvc.yaml")
    return project


def colleague(team: Project, tmp_path: Path) -> Project:
    from tests.small_project import Project

    team.run("git", "clone", "-q", str(team.root), str(tmp_path / "clone"))
    return Project(tmp_path / "clone")


def test_a_colleague_pulls_and_has_nothing_to_do(team: Project, tmp_path: Path) -> None:
    clone = colleague(team, tmp_path)
    clone.run("dvc", "pull", "-q", "dvc.yaml")
    assert "Running stage" not in clone.run("dvc", "repro").stdout
    for name in ("report.html", "card.md"):
        path = Path("data/report") / name
        assert (clone.root / path).read_bytes() == (team.root / path).read_bytes()
    assert "nothing to do" in clone.run("python", "-m", "webdistill", "repro").stdout


def test_a_damaged_object_of_the_remote_is_refused_by_name(team: Project, tmp_path: Path) -> None:
    """By DVC itself where the remote says `verify = true`, as docs/team.md does, else by the stage that reads it."""
    path = stored(team.root.parent / "remote", md5(team, "data/filter/kept.parquet"))
    whole = path.read_bytes()
    clone = colleague(team, tmp_path)
    try:
        flip(path, where=0.99)
        clone.run("dvc", "remote", "modify", "-q", "team", "verify", "true")
        done = clone.run("dvc", "pull", "dvc.yaml", check=False)
        assert done.returncode != 0
        assert "data/filter/kept.parquet" in done.stderr
        assert not (clone.root / "data/filter/kept.parquet").exists()

        clone.run("dvc", "remote", "modify", "-q", "team", "verify", "false")
        clone.run("dvc", "pull", "-q", "dvc.yaml")
        done = clone.run("dvc", "repro", "-f", "-s", "select", check=False)
        assert done.returncode != 0
        assert (
            "select: error: data/filter/kept.parquet is not what stage 'filter' made" in done.stderr
        )
    finally:
        path.chmod(0o644)
        path.write_bytes(whole)


def test_a_damaged_object_of_the_cache_is_refused_by_name(
    small_project: Project, tmp_path: Path
) -> None:
    """DVC checks it out, calls it up to date, and restores it from the run cache."""
    project = small_project.copy(tmp_path / "project")
    for out in READERS:
        if out.startswith("data/evaluate"):  # lies in git
            flip(project.root / out, where=0.9)
        else:
            flip(stored(project.root / ".dvc" / "cache", md5(project, out)))
            (project.root / out).unlink()
    project.run("dvc", "checkout", "-q")
    for out, stage in READERS.items():
        done = project.run(
            "env", f"DVC_STAGE={stage}", "python", "-m", f"stages.{stage}", check=False
        )
        assert done.returncode == 2, out
        refused = done.stderr.splitlines()[-1]
        assert refused.startswith(f"{stage}: error: "), refused
        assert " is not what stage '" in refused
        assert out in refused or stage == "report"  # which reads several
        shutil.copy(small_project.root / out, project.root / out)


def test_a_folder_has_the_digest_that_dvc_gave_it(
    small_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in a folder that is one output as a whole, as the pools of pipelines/ are, is checked as well."""
    project = small_project.copy(tmp_path / "project")
    monkeypatch.setenv("DVC_STAGE", "pipelines/compare/dvc.yaml:cell@kd-0")
    inside = Path("data/distill/student/config.json")
    recorded.check_recorded(project.root, inside)
    recorded._md5.cache_clear()
    flip(project.root / inside)
    with pytest.raises(UserError, match="data/distill/student is not what stage 'distill' made"):
        recorded.check_recorded(project.root, inside)
    monkeypatch.setenv("DVC_STAGE", "distill")  # its own output
    recorded.check_recorded(project.root, inside)
    monkeypatch.delenv("DVC_STAGE")  # by hand
    recorded.check_recorded(project.root, inside)
