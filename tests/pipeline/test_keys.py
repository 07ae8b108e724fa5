"""What costs a computation and what does not: `dvc status` of a finished project after a change, through DVC itself."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.small_project import Project, set_params
from webdistill.core.files import sha256_file
from webdistill.harness.closure import WATCHING
from webdistill.harness.params import read_yaml

ROOMS = ["webdistill/harness", "webdistill/engine", "webdistill/tracking", "webdistill/commands"]
COMMENT = "\n# a comment\n"


@pytest.fixture
def project(small_project: Project, tmp_path: Path) -> Project:
    return small_project.copy(tmp_path / "project")


def comment(project: Project, *places: str) -> None:
    """Add a comment to a file, or to every file below a folder."""
    for place in places:
        found = project.root / place
        files = [found] if found.is_file() else sorted(found.rglob("*.py"))
        assert files
        for file in files:
            file.write_text(file.read_text() + COMMENT)


def test_what_decides_no_byte_changes_no_key(project: Project) -> None:
    """The rooms that start, watch and record; a family not in use; other methods' options; where images are kept."""
    assert set(ROOMS) == set(WATCHING)
    comment(project, *ROOMS, "webdistill/models/families/vgg.py")
    comment(project, "webdistill/models/families/timm_nets.py")
    params = read_yaml(project.root / "params.yaml")
    assert params["distill"]["method"] not in ("kd3", "mosaic")
    params["distill"]["kd3"]["contrast_weight"] = 0.5
    params["distill"]["mosaic"]["latent"] = 7
    params["distill"]["images"] = "encoded"
    write_distill(project, params["distill"])
    assert "up to date" in project.run("dvc", "status").stdout
    assert not project.run("git", "status", "--porcelain", "dvc.lock").stdout


def write_distill(project: Project, section: dict[str, Any]) -> None:
    from ruamel.yaml import YAML

    yaml, path = YAML(), project.root / "params.yaml"
    values = yaml.load(path.read_text())
    values["distill"] = section
    with path.open("w") as file:
        yaml.dump(values, file)


KEYS = {  # a file of code -> stages that must run again when it changes
    "stages/distill/loop.py": {"distill"},
    "webdistill/images/views.py": {"distill"},
    "webdistill/models/families/wide.py": {"score", "distill", "evaluate"},
    "webdistill/images/copies.py": {"filter"},
    "webdistill/takedown.py": {"filter"},
    "webdistill/models/clip.py": {"embed"},
}


def test_what_decides_bytes_changes_the_keys_that_it_must(project: Project) -> None:
    """All files at once, since DVC names the dependencies that have changed."""
    comment(project, *KEYS)
    status: dict[str, Any] = json.loads(project.run("dvc", "status", "--json").stdout)
    changed = {
        stage: {
            dep
            for each in changes
            if isinstance(each, dict)
            for dep in each.get("changed deps", ())
        }
        for stage, changes in status.items()
    }
    assert {stage for stage, deps in changed.items() if deps} == set().union(*KEYS.values())
    for place, expected in KEYS.items():
        found = {
            stage
            for stage, deps in changed.items()
            if any(Path(place).is_relative_to(dep) for dep in deps)
        }
        assert found == expected, place


def test_other_prototypes_train_no_student_that_asks_for_none(project: Project) -> None:
    student = sha256_file(project.root / "data/distill/student/manifest.json")
    set_params(project.root, ["prototypes.count=5"])
    said = project.run("dvc", "repro").stdout
    assert set(re.findall(r"Running stage '(\w+)'", said)) == {"prototypes", "report"}
    assert sha256_file(project.root / "data/distill/student/manifest.json") == student


@pytest.mark.slow
def test_outputs_do_not_depend_on_what_has_no_key(project: Project) -> None:
    """The exemption is justified: every stage run again beside changed rooms makes the same bytes."""
    before = (project.root / "dvc.lock").read_text()
    comment(project, *ROOMS, "webdistill/models/families/vgg.py")
    project.run("dvc", "repro", "--force", "--no-run-cache")
    assert (project.root / "dvc.lock").read_text() == before


@pytest.mark.slow
def test_a_killed_training_goes_on_after_a_comment_in_a_command(project: Project) -> None:
    """Killed half-way; then what only starts and watches is edited. Other options of other methods change nothing."""
    set_params(project.root, ["distill.epochs=30", "distill.steps_per_epoch=10"])
    training = project.root / "stages/distill/training.py"
    often = training.read_text().replace("SAVE_EVERY = 15.0", "SAVE_EVERY = 0.0")
    assert often != training.read_text()
    training.write_text(often)
    command = ["dvc", "repro", "distill"]
    running = subprocess.Popen(
        command, cwd=project.root, env=project.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    work = project.root / ".work" / "distill"
    deadline = time.monotonic() + 120
    while not list(work.glob("resume-*/state.pt")):
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    wait_for_the_end_of(work)
    comment(project, *ROOMS, "webdistill/models/families/vgg.py")
    said = project.run(*command)
    assert re.search(r"continues after epoch \d+ of 30", said.stderr), said.stderr


def wait_for_the_end_of(work: Path) -> None:
    """The stage gives its lock back when it ends."""
    import fcntl

    with (work / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
