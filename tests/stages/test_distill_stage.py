"""The stage `distill` as a whole: what reaches the student through `main`, and what a kill costs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stages.distill.loop import Run
from tests.stages import test_distill_phases as phases
from webdistill.core.files import read_table, write_table

finished = phases.finished
project = phases.project
KD: dict[str, Any] = {"method": "kd", "epochs": 4}
EQUAL, UNEQUAL = [1.0] * phases.COUNT, [0.5, 1.5] * (phases.COUNT // 2)
# `python -m stages.distill` with a state after every epoch, killed when half of the third is on the disk.
KILLED = """
import io
import os
import signal
from pathlib import Path

import torch

from stages.distill import training
from stages.distill.__main__ import main
from webdistill.harness.stage import run

training.SAVE_EVERY = 0.0
save, begun = torch.save, []

def torn(state, path):
    begun.append(path)
    if len(begun) < 3:
        return save(state, path)
    save(state, whole := io.BytesIO())
    Path(path).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = torn
run("distill", main)
"""


def seed(patch: pytest.MonkeyPatch, value: int) -> None:
    patch.setitem(phases.SETTINGS, "task.seed", value)


def weigh(weights: list[float]) -> None:
    path = Path("data/select/selection.parquet")
    table = read_table(path)
    place = table.column_names.index("weight")
    write_table(table.set_column(place, "weight", [weights]), path)


# -- what reaches the student ----------------------------------------------------------------------------------
@pytest.mark.usefixtures("project")
def test_the_seed_decides_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    seed(monkeypatch, 0)
    student = phases.run_stage(**KD)
    assert phases.run_stage(**KD) == student
    seed(monkeypatch, 1)
    assert phases.run_stage(**KD) != student


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("left", ["nothing", "weights", "views", "order"])
def test_the_seed_decides_first_weights_views_and_order(
    monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """All but one is made that of the other seed: the one alone changes the training, nothing else does."""
    runs: list[Run] = []
    for value in (0, 1):
        seed(monkeypatch, value)
        runs.append(phases.prepared(phases.stage_of(**KD)).run)
    one, other = runs
    if left != "weights":
        other.method.load_state_dict(one.method.state_dict())
    if left != "views":
        other.views.seed = one.views.seed
    if left != "order":
        other.seed = one.seed
    for run in runs:
        list(run.epoch(0))
    assert (one.rows == other.rows) == (left == "nothing")


@pytest.mark.usefixtures("project")
def test_mixup_changes_the_student() -> None:
    students = {phases.run_stage(**KD, mixup=share) for share in (0.0, 0.5, 1.0)}
    assert len(students) == 3


@pytest.mark.usefixtures("project")
def test_weights_of_the_selection_change_the_student_by_their_shares_alone() -> None:
    found = []
    for weights in (EQUAL, UNEQUAL, [4 * each for each in UNEQUAL]):
        weigh(weights)
        found.append(phases.run_stage(**KD))
    assert found[0] != found[1] == found[2]


# -- what a kill costs -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def torn(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run was killed while it wrote its third state."""
    shutil.copytree(finished, place := tmp_path_factory.mktemp("torn") / "project")
    named = phases.SETTINGS | {f"distill.{key}": value for key, value in KD.items()}
    chosen = [f"--set={key}={json.dumps(value)}" for key, value in named.items()]
    root = phases.YAML.parent
    done = subprocess.run(
        [sys.executable, "-c", KILLED, f"--params={phases.YAML}", *chosen],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(root), "WEBDISTILL_TRACKING": "off"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return place


@pytest.fixture
def killed(torn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it, which is the current folder."""
    shutil.copytree(torn, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")


@pytest.mark.usefixtures("killed")
def test_a_killed_run_goes_on_from_its_last_whole_state(capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = Path(".work/distill").glob("resume-*")
    assert len(list(folder.iterdir())) == 2, "the second state whole, and half of the third"
    continued = phases.run_stage(**KD)
    assert "distill: continues after epoch 2 of 4\n" in capsys.readouterr().err
    assert not folder.exists()
    assert phases.run_stage(**KD) == continued
    assert "continues" not in capsys.readouterr().err


@pytest.mark.usefixtures("killed")
@pytest.mark.parametrize("changed", ["lr", "seed", "selection"])
def test_a_killed_run_with_other_facts_does_not_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    changes = KD | ({"lr": 0.03} if changed == "lr" else {})
    if changed == "seed":
        seed(monkeypatch, 1)
    if changed == "selection":
        weigh(UNEQUAL)
    student = phases.run_stage(**changes)
    assert "continues" not in capsys.readouterr().err
    assert phases.run_stage(**changes) == student


# -- what a phase's checkpoint is shared by ---------------------------------------------------------------------
# Names of the checkpoints: of the code as it is, and after one comment more in each of the files given.
NAMES = """
import json, sys
from pathlib import Path

from stages.distill import phases
from stages.distill.training import prepare
from webdistill.harness.params import load
from webdistill.harness.stage import Stage

root = Path(sys.argv[1])
assert Path(phases.__file__).is_relative_to(root)
stage = Stage("distill", load(root / "params.yaml", json.loads(sys.argv[2])), None)
names = ("data/select/selection.parquet", "data/fetch/pool", "teacher")
run = prepare(stage, *(stage.input(name) for name in names)).run
found = []
for file in ("", *sys.argv[3:]):
    if file:
        with (root / file).open("a") as text:
            text.write("# a comment\\n")
    found.append(sorted(path.name for path in phases.places(stage, run).values()))
print(json.dumps(found))
"""


def test_code_that_decides_bytes_decides_a_checkpoints_name_and_other_code_does_not(
    project: Path, tmp_path: Path
) -> None:
    root, repository = tmp_path / "code", phases.YAML.parent
    for folder in ("stages", "webdistill"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / folder, root / folder, ignore=leave)
    shutil.copy(phases.YAML, root)
    files = [
        "webdistill/harness/progress.py", "webdistill/commands/__init__.py", "stages/report/page.py",
        "stages/distill/loop.py", "webdistill/images/views.py", "webdistill/models/families/resnet.py",
    ]  # fmt: skip
    chosen = json.dumps([f"{key}={json.dumps(value)}" for key, value in phases.SETTINGS.items()])
    done = subprocess.run(
        [sys.executable, "-c", NAMES, str(root), chosen, *files],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(root), "WEBDISTILL_TRACKING": "off"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [len(each) for each in found] == [2] * 7
    changed = [one != other for one, other in pairwise(found)]
    assert changed == [False] * 3 + [True] * 3


@pytest.mark.usefixtures("project")
def test_options_of_other_methods_change_no_checkpoints_name() -> None:
    plain = phases.places_of()
    others = {"kd3.contrast_weight": 2.0, "dfnd.keep": 0.1, "mosaic.local": 3.0, "odsd.keep": 0.2}
    assert phases.places_of(**others) == plain
    assert phases.places_of(**{"augkd.latent": 7}) != plain
