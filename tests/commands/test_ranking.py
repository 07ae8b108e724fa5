"""docs/methods.md, "Finding a rate": its lines for real on a small project, whose labels nobody can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, commands
from tests.small_project import Project, set_params

pytestmark = pytest.mark.slow

GRID = [line for line in commands(ROOT / "docs" / "methods.md") if "exp" in line]
LAST = "python -m webdistill results --experiments"


@pytest.fixture(scope="module")
def project(small_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy that holds half of its images out, without labels; nothing was tried yet."""
    copy = small_project.copy(tmp_path_factory.mktemp("ranking") / "project")
    set_params(
        copy.root, ["distill.holdout=0.5", "distill.batch_size=8", "distill.steps_per_epoch=3"]
    )
    (copy.root / "data/quickstart/test/labels.parquet").unlink()
    copy.run("git", "commit", "-qam", "Half of the images")
    return copy


def shortened(line: str) -> list[str]:
    """Two students of two epochs."""
    for long, short in (("0.0035,0.007,0.014", "0.0035,0.014"), ("epochs=10", "epochs=2")):
        line = line.replace(long, short)
    return line.split()


def experiments(project: Project) -> dict[str, tuple[float, float, float]]:
    """What git has of them: name -> agreement, KL, rate."""
    found = {}
    listed = project.run("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    for line in listed.stdout.splitlines():
        name, commit = line.split()
        if len(Path(name).parts) == 5:  # refs/exps/12/3456.../name
            text = project.run("git", "show", f"{commit}:data/distill/metrics.json").stdout
            figures = json.loads(text)
            values = (figures[key] for key in ("holdout_agreement", "holdout_kl", "lr"))
            found[Path(name).name] = tuple(values)
    return found


def ranked(project: Project) -> list[list[str]]:
    """The table's rows."""
    lines = said(project)
    return [line.split() for line in lines[1 : lines.index("")]]


def said(project: Project) -> list[str]:
    return project.run(*LAST.split()).stdout.splitlines()


def test_without_an_experiment_it_says_how_to_get_one(project: Project) -> None:
    done = project.run(*LAST.split(), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no experiment of this commit has trained a student")
    assert done.stderr.count("\n") == 1


def test_the_lines_of_the_page_rank_students_by_what_they_measured(project: Project) -> None:
    assert len(GRID) == 3
    assert GRID[2] == LAST
    shown = [project.run(*shortened(line)) for line in GRID][-1].stdout
    found = experiments(project)
    assert len(found) == 2
    best, other = sorted(found, key=lambda name: (-found[name][0], found[name][1]))
    lines = shown.splitlines()
    assert lines[0].split() == ["experiment", "agreement", "KL", "distill.lr"]
    for line, name in zip(lines[1:], (best, other), strict=False):
        agreement, kl, lr = found[name]
        assert line.split() == [name, f"{agreement:.1%}", f"{kl:.3f}", f"{lr:g}"]
    rate = found[best][2]
    end = "smallest" if rate == 0.0035 else "largest"
    assert lines[3:] == [
        "",
        "ranked by agreement with the teacher on 10 held-out images, no label read",
        f"the best distill.lr is the {end} that was tried: try beyond it",
        f"the best in full: dvc exp run -S distill.lr={rate:g}",
    ]


@pytest.fixture(scope="module")
def tried_more(project: Project) -> tuple[list[list[str]], str]:
    """The table before, and what DVC said of one student again, one of other images, one that cannot be, one of kd."""
    before = ranked(project)
    again = ["distill.lr=0.014", "distill.epochs=2"]
    other = ["distill.holdout=0.3", "distill.epochs=1"]
    for changes in (again, other, ["distill.batch_size=60000"], ["distill.method=kd"]):
        sets = [word for change in changes for word in ("-S", change)]
        project.run("dvc", "exp", "run", "--queue", "distill", *sets)
    done = project.run(*GRID[1].split(), check=False)
    return before, done.stdout + done.stderr


def test_a_student_that_is_there_is_not_trained_again_and_stands_there_once(
    project: Project, tried_more: tuple[list[list[str]], str]
) -> None:
    before, output = tried_more
    assert output.count("Stage 'distill' is cached - skipping run") == 1
    figures = [row[1:3] for row in ranked(project)]
    assert all(figures.count(row[1:3]) == 1 for row in before)


@pytest.mark.usefixtures("tried_more")
def test_what_cannot_be_compared_is_counted(project: Project) -> None:
    """DVC shows the failed one with the figures of the commit that it began from."""
    text = "\n".join(said(project))
    assert "1 not shown: of other images, another teacher or another holdout" in text
    assert "1 without a figure: see `dvc queue status`" in text


@pytest.mark.usefixtures("tried_more")
def test_another_method_has_a_column_and_its_own_rate(project: Project) -> None:
    """The workspace says simkd for 1 epoch."""
    lines = said(project)
    head, *rows = [line.split() for line in lines[: lines.index("")]]
    assert head[3:] == ["distill.method", "distill.epochs", "distill.lr"]
    assert {tuple(row[3:]) for row in rows} == {
        ("simkd", "2", "0.0035"), ("simkd", "2", "0.014"), ("kd", "1", "0.007"),
    }  # fmt: skip
    text = "\n".join(lines)
    assert "trainings of different lengths" in text
    assert "try beyond it" not in text
    rate, method = rows[0][5], rows[0][3]
    told = "-S distill.method=kd" if method == "kd" else f"-S distill.lr={rate}"
    assert lines[-1] == f"the best in full: dvc exp run {told}"
