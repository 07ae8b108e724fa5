"""Promise S4 through DVC: remotes give the same bytes back, and a flipped byte is refused by name before any work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from webdistill.core.errors import UserError
from webdistill.core.files import MANIFEST
from webdistill.harness import recorded
from webdistill.harness.params import load, read_yaml
from webdistill.harness.stage import Stage

if TYPE_CHECKING:
    from tests.small_project import Project


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
    project.run("dvc", "push", "-q")
    return project


def colleague(team: Project, tmp_path: Path) -> Project:
    from tests.small_project import Project

    team.run("git", "clone", "-q", str(team.root), str(tmp_path / "clone"))
    return Project(tmp_path / "clone")


def verifying(project: Project, wish: str) -> None:
    """What `dvc remote modify --local team verify` writes."""
    config = f"['remote \"team\"']\n    verify = {wish}\n"
    (project.root / ".dvc" / "config.local").write_text(config)


@pytest.mark.slow
def test_a_colleague_pulls_and_has_nothing_to_do(team: Project, tmp_path: Path) -> None:
    clone = colleague(team, tmp_path)
    clone.run("dvc", "pull", "-q")
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
        verifying(clone, "true")
        done = clone.run("dvc", "pull", check=False)
        assert done.returncode != 0
        assert "data/filter/kept.parquet" in done.stderr
        assert not (clone.root / "data/filter/kept.parquet").exists()

        verifying(clone, "false")
        clone.run("dvc", "pull", "-q")
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
    """DVC checks it out and calls it up to date. The last byte: no page checksum of Parquet covers it."""
    project = small_project.copy(tmp_path / "project")
    out = "data/filter/kept.parquet"
    flip(stored(project.root / ".dvc" / "cache", md5(project, out)), where=0.99)
    (project.root / out).unlink()
    project.run("dvc", "checkout", "-q")
    assert "up to date" in project.run("dvc", "status").stdout
    done = project.run("dvc", "repro", "-f", "-s", "select", check=False)
    assert done.returncode != 0
    refused = [line for line in done.stderr.splitlines() if line.startswith("select:")]
    assert len(refused) == 1
    assert refused[0].startswith(f"select: error: {out} is not what stage 'filter' made")


@pytest.mark.slow
def test_the_page_mends_it_to_a_clean_status(team: Project, tmp_path: Path) -> None:
    """docs/team.md, 'Damaged files'. Before a stage runs DVC removes its outputs, metrics included."""
    from tests.team.test_page import blocks, do

    clone = colleague(team, tmp_path)
    clone.run("dvc", "pull", "-q")
    out = "data/filter/kept.parquet"
    flip(stored(clone.root / ".dvc" / "cache", md5(clone, out)))
    (clone.root / out).unlink()
    clone.run("dvc", "checkout", "-q")
    refused = clone.run("dvc", "repro", "-f", "-s", "select", check=False)
    assert f"{out} is not what stage 'filter' made" in refused.stderr
    assert not (clone.root / "data/select/metrics.json").exists()
    do(clone, blocks()["Damaged files"][0])
    assert "Data and pipelines are up to date" in clone.run("dvc", "status").stdout
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_one_bit_of_any_output_of_any_stage_is_noticed(
    small_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = small_project.copy(tmp_path / "project")
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("DVC_STAGE", "another")
    stage = Stage("report", load(Path("params.yaml")), None)
    outs = [
        Path(str(out["path"]))
        for spec in read_yaml(Path("dvc.lock"))["stages"].values()
        for out in spec["outs"]
    ]
    assert len(outs) > 25
    for out in outs:
        stage.input(str(out))
        inside = [path for path in sorted(out.rglob("*")) if path.is_file()]
        for path in inside or [out]:
            whole = path.read_bytes()
            recorded._afresh.cache_clear()
            flip(path)
            with pytest.raises(UserError, match=str(path if path.name != MANIFEST else out)):
                stage.input(str(out))
            path.write_bytes(whole)
            recorded._afresh.cache_clear()


def test_a_folder_has_the_digest_that_dvc_gave_it(
    small_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in a folder that is one output as a whole, as the pools of pipelines/ are, is checked as well."""
    project = small_project.copy(tmp_path / "project")
    monkeypatch.setenv("DVC_STAGE", "pipelines/compare/dvc.yaml:cell@kd-0")
    inside = Path("data/distill/student/config.json")
    recorded.check_recorded(project.root, inside)
    recorded._afresh.cache_clear()
    flip(project.root / inside)
    with pytest.raises(UserError, match="data/distill/student is not what stage 'distill' made"):
        recorded.check_recorded(project.root, inside)
    monkeypatch.setenv("DVC_STAGE", "distill")  # its own output
    recorded.check_recorded(project.root, inside)
    monkeypatch.delenv("DVC_STAGE")  # by hand
    recorded.check_recorded(project.root, inside)
