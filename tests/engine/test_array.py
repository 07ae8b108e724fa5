"""Ranks of an array job: two processes share the shards out, and the next `dvc repro` finds all of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.engine.conftest import STAGES, outputs, shards
from tests.small_project import Project
from webdistill.__main__ import main
from webdistill.core.errors import UserError
from webdistill.engine import choice
from webdistill.harness.params import read_yaml


def start(project: Project, stage: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["python", "-m", f"stages.{stage}"], cwd=project.root, stderr=subprocess.PIPE, text=True,
        env={**project.environment, "WEBDISTILL_ENGINE": "array", **environment},
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = process.communicate()[1]
    return process.returncode, said


@pytest.mark.slow
def test_two_ranks_then_dvc_repro_finds_everything(nine: Project, tmp_path: Path) -> None:
    project = nine.copy(tmp_path / "project")
    lock = read_yaml(project.root / "dvc.lock")
    project.forget()
    project.run("dvc", "repro", "fetch")
    count = len(shards(project.root))
    for stage in STAGES:
        if stage == "filter":
            project.run("dvc", "repro", "embed", "score")
        slurm = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"}
        ranks = [
            start(project, stage, WEBDISTILL_RANK="0", WEBDISTILL_RANKS="2"),
            start(project, stage, SLURM_ARRAY_TASK_ID="4", **slurm),
        ]
        for number, rank in enumerate(ranks):
            code, said = ended(rank)
            assert code == 0, said
            assert f"rank {number} of 2 has finished its {5 - number} of {count} shards" in said
        assert not (project.root / "data" / stage).exists()
    done = project.run("dvc", "repro", "score", "filter")
    assert f"filter: an earlier run finished {count} of {count} shards" in done.stderr
    assert outputs(project.root) == outputs(nine.root)
    assert read_yaml(project.root / "dvc.lock") == lock


@pytest.mark.slow
def test_what_ranks_have_made_is_not_made_again(nine: Project, tmp_path: Path) -> None:
    """A rank that is missing costs its own shards only: the next run computes these."""
    project = nine.copy(tmp_path / "project")
    (project.root / "data/score/metrics.json").unlink()
    code, said = ended(start(project, "score", WEBDISTILL_RANK="1", WEBDISTILL_RANKS="2"))
    assert code == 0, said
    done = project.run("python", "-m", "stages.score")
    assert "score: an earlier run finished 4 of 9 shards" in done.stderr
    assert outputs(project.root) == outputs(nine.root)
    assert not (project.root / ".work/score/array.json").exists()


@pytest.mark.slow
def test_a_rank_on_another_kind_of_machine_refuses(nine: Project, tmp_path: Path) -> None:
    project = nine.copy(tmp_path / "project")
    assert ended(start(project, "score", WEBDISTILL_RANK="0", WEBDISTILL_RANKS="2"))[0] == 0
    first = project.root / ".work/score/array.json"
    facts = json.loads(first.read_text())
    assert {"torch", "arithmetic", "pillow"} <= facts.keys()
    first.write_text(json.dumps({**facts, "torch": "1.0"}))
    code, said = ended(start(project, "score", WEBDISTILL_RANK="1", WEBDISTILL_RANKS="2"))
    assert code == 2
    (line,) = said.splitlines()
    assert f"torch is {facts['torch']} instead of 1.0; install it there" in line
    done = project.run("python", "-m", "stages.score")
    assert "an array job computed other bytes than this machine does: torch is" in done.stderr


@pytest.mark.parametrize(
    ("environment", "stage", "message"),
    [
        (
            {"WEBDISTILL_ENGINE": "spark"},
            "score",
            "'spark' is no engine; known are local, ray, array",
        ),
        ({"WEBDISTILL_ENGINE": "array"}, "score", "set WEBDISTILL_RANK"),
        ({"WEBDISTILL_ENGINE": "array", "WEBDISTILL_RANK": "0"}, "score", "set WEBDISTILL_RANK"),
        ({"WEBDISTILL_RANK": "2", "WEBDISTILL_RANKS": "2"}, "score", "set WEBDISTILL_RANK"),
        ({"WEBDISTILL_RANK": "-1", "WEBDISTILL_RANKS": "2"}, "score", "'-1' is no number"),
        ({"WEBDISTILL_RANK": "0", "WEBDISTILL_RANKS": "2"}, "select", "has nothing to share out"),
        (
            {"WEBDISTILL_RANK": "0", "WEBDISTILL_RANKS": "2", "DVC_STAGE": "score"},
            "score",
            "start `python -m stages.score` in the array job",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], stage: str, message: str
) -> None:
    for name, value in {"WEBDISTILL_ENGINE": "array", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        choice.check(stage)


def test_slurms_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sbatch --array=10-30:5`"""
    for name, value in (("ID", "20"), ("MIN", "10"), ("STEP", "5"), ("COUNT", "5")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert choice.rank() == (2, 5)


def test_the_stages_with_shards_are_those_that_use_the_engine() -> None:
    root = Path(__file__).parents[2]
    using = {
        path.relative_to(root / "stages").parts[0]
        for path in (root / "stages").rglob("*.py")
        if "running.run(" in path.read_text()
    }
    assert using == set(choice.MAPPED) == set(STAGES)


def test_doctor_takes_the_engine_from_flag_or_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.delenv("WEBDISTILL_ENGINE", raising=False)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.startswith("engine local;")
    monkeypatch.setenv("WEBDISTILL_ENGINE", "rayy")
    assert main(["doctor", "--engine"]) == 2
    assert "WEBDISTILL_ENGINE = 'rayy' is no engine" in capsys.readouterr().err
    assert main(["doctor", "--engine", "local"]) == 0
    assert capsys.readouterr().out.startswith("engine local;")
