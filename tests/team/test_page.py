"""Every command of docs/team.md, as it stands there: the whole repository with its studies, the real graph and
parameters, stages replaced by stand_in.py, an S3 server and two clones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from ruamel.yaml import YAML

from tests.small_project import ROOT, Project, set_params
from webdistill.harness.params import read_yaml

PAGE = ROOT / "docs" / "team.md"
KEYS = {
    "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
}  # fmt: skip


def blocks() -> dict[str, list[str]]:
    """Heading -> its shell blocks."""
    sections = re.split(r"^## \d+\. ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return {
        text.split("\n")[0]: re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
        for text in sections
    }


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """An S3 server with the page's bucket. -> the environment by which DVC finds it"""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket="team-bucket")
        client.close()
    yield {**KEYS, "AWS_ENDPOINT_URL": address}
    server.stop()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, s3: dict[str, str]) -> Project:
    """The whole repository after a first run, pushed to a repository that all clone from."""
    root = tmp_path_factory.mktemp("page") / "project"
    root.mkdir()
    project = Project(root, s3)
    whole_repository(root)
    stand_in_pipeline(root)
    project.run("git", "init", "-q")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "Start")
    project.run("dvc", "repro", "-q")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "First run")
    project.run("git", "init", "-q", "--bare", "../origin")
    project.run("git", "remote", "add", "origin", "../origin")
    return project


def whole_repository(root: Path) -> None:
    """What git has of this repository, and what it would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, root / name
        if source.is_symlink() or source.is_file():  # not one that was removed just now
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target, follow_symlinks=False)
    for study in ("ablate", "compare", "deconfound", "selection"):  # as after their `dvc repro`
        shutil.copy(root / f"records/2026-11-20-{study}/dvc.lock", root / "pipelines" / study)


def stand_in_pipeline(root: Path) -> None:
    """dvc.yaml with its stages, parameters and outputs, and of the dependencies those between stages."""
    yaml = YAML()
    spec = yaml.load((ROOT / "dvc.yaml").read_text())
    made = {str(out) for stage in spec["stages"].values() for out in stage["outs"]}
    made |= {next(iter(one)) for stage in spec["stages"].values() for one in stage["metrics"]}
    for name, stage in spec["stages"].items():
        stage["cmd"] = f"python stand_in.py {name}"
        stage["deps"] = [
            dep for dep in stage["deps"] if dep in made or dep.startswith("data/prototypes/${")
        ]
    columns: dict[str, list[str]] = {}
    for plot in spec["plots"]:
        for settings in plot.values():
            for path, fields in settings["y"].items():
                names = [fields] if isinstance(fields, str) else list(fields)
                columns.setdefault(path, []).extend([*names, settings["x"]])
    with (root / "dvc.yaml").open("w") as file:
        yaml.dump(spec, file)
    unique = {path: sorted(set(names)) for path, names in columns.items()}
    (root / "columns.json").write_text(json.dumps(unique))
    shutil.copy(Path(__file__).with_name("stand_in.py"), root / "stand_in.py")


def do(project: Project, block: str, **environment: str) -> str:
    """Run a block of the page. -> what it printed, which is nothing about the studies"""
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", block],
        cwd=project.root, env=project.environment | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    said = done.stdout + done.stderr
    assert "pipelines/" not in said, f"{block}\n{said}"
    return said


def lock(project: Project) -> object:
    return read_yaml(project.root / "dvc.lock")


def test_the_page_has_ten_sections_with_commands() -> None:
    assert len(blocks()) == 10
    assert all(blocks().values())


@pytest.mark.slow
def test_the_commands_of_the_page_in_its_order(page: Project) -> None:
    """One life of a team, so one test: each section starts from what the one before has left."""
    said = blocks()
    once, after_a_run = said["Share"]
    do(page, once)
    assert "files pushed" in do(page, after_a_run)
    assert not re.search("secret", (page.root / ".dvc" / "config").read_text())

    page.run("git", "clone", "-q", "../origin", "../clone")
    clone = Project(page.root.parent / "clone", page.extra)
    told = do(clone, said["Take over"][0])
    assert "Running stage" not in told
    assert "up to date" in told
    report = Path("data/report/report.html")
    assert (clone.root / report).read_bytes() == (page.root / report).read_bytes()

    told = do(page, said["Experiment"][0])
    assert {f"Running stage '{s}'" in told for s in ("distill", "evaluate", "report")} == {True}
    assert "Running stage 'select'" not in told

    send, fetch = said["Experiment"][1:]
    assert "Pushed experiment short" in " ".join(do(page, send).split())
    do(clone, fetch)
    assert read_yaml(clone.root / "params.yaml")["distill"]["epochs"] == 20
    assert "up to date" in do(clone, "dvc status")

    told = do(page, said["Compare"][0])
    check_tables(told)

    do(page, said["Adopt one"][0])
    assert read_yaml(page.root / "params.yaml")["distill"]["epochs"] == 20
    assert page.run("git", "status", "--porcelain").stdout == ""

    do_conflict(page, said["Two changes at once"][0])
    told = do(page, said["Side by side"][0])
    assert "nothing to do" in told

    do(page, said["Clean up"][0])
    assert "up to date" in do(page, "dvc status")
    do(page, "dvc push; dvc gc --workspace --force")
    assert "up to date" in do(page, "dvc status")

    damage(page)
    do(page, said["Damaged files"][0])
    assert page.run("git", "status", "--porcelain").stdout == ""
    told = do(page, said["Check what belongs together"][0])
    assert "Data and pipelines are up to date" in told
    assert "Cache and remote 'team' are in sync" in told


def check_tables(told: str) -> None:
    """They show everything that was changed, and no more."""
    table = [line for line in told.splitlines() if "short" in line or "warm" in line]
    header = next(line for line in told.splitlines() if "Experiment" in line)
    names = ["Experiment", "top1", "distill.epochs", "distill.temperature"]
    assert [name.strip() for name in header.strip("|").split("|")] == names
    assert any("20" in line for line in table)
    assert re.search(r"distill\.epochs +54 +20 +-34", told)  # exp diff
    assert re.search(r"data/evaluate/metrics\.json +top1 +0\.\d+ +0\.\d+ +-?0\.\d+", told)
    assert "index.html" in told


def do_conflict(page: Project, block: str) -> None:
    """Two branches with another parameter each, both run and committed: dvc.lock and metrics conflict, and resolve."""
    for branch, change in (("longer", "distill.lr=0.05"), ("main", "filter.min_score=0.05")):
        if branch != "main":
            page.run("git", "checkout", "-q", "-b", branch)
        set_params(page.root, [change])
        page.run("dvc", "repro", "-q")
        page.run("git", "commit", "-q", "-a", "-m", change)
        if branch != "main":
            page.run("git", "checkout", "-q", "main")
            page.run("dvc", "checkout", "-q")
    told = do(page, block)
    assert "CONFLICT (content): Merge conflict in dvc.lock" in told
    assert "CONFLICT (content): Merge conflict in data/evaluate/metrics.json" in told
    merged = read_yaml(page.root / "params.yaml")
    assert (merged["distill"]["lr"], merged["filter"]["min_score"]) == (0.05, 0.05)
    assert page.run("git", "status", "--porcelain").stdout == ""
    assert len(page.run("git", "log", "-1", "--format=%P").stdout.split()) == 2
    for stage in ("fetch", "embed", "filter", "select"):  # this side's, or the cache's
        assert f"Running stage '{stage}'" not in told
    assert "Running stage 'distill'" in told  # new: both changes
    ours = lock(page)
    for path in (page.root / "data").glob("*/*"):
        if path.parent.name != "quickstart":
            path.unlink()
    (page.root / "dvc.lock").unlink()
    page.run("dvc", "repro", "-q", "--no-run-cache")
    assert lock(page) == ours
    page.run("git", "checkout", "-q", ".")


def damage(page: Project) -> None:
    """One bit of a cached object, its time as before, checked out."""
    from tests.team.test_damage import flip, md5, stored

    out = "data/filter/kept.parquet"
    flip(stored(page.root / ".dvc" / "cache", md5(page, out)))
    (page.root / out).unlink()
    page.run("dvc", "checkout", "-q")
    assert "up to date" in page.run("dvc", "status").stdout  # says DVC
