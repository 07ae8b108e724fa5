"""The matrix pipelines say what they run, and a cell runs for real."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from pipelines.compare.prepare import candidates, prepare
from pipelines.shared import cell
from tests.closure import from_root
from webdistill.core.errors import UserError
from webdistill.harness.params import load, read_yaml
from webdistill.models.checkpoint import load_network

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "data" / "quickstart"
SELF_CONTAINED = [
    "compare", "ablate", "scarce", "real_task", "deconfound", "generators", "out_of_domain", "office_caltech",
]  # fmt: skip
MATRICES = [*SELF_CONTAINED, "selection"]
METHODS = (  # with options of their own
    "simkd", "kd3", "dfnd", "mosaic", "odsd", "augkd", "dafl", "fast", "cmi", "deepinv",
)  # fmt: skip


def read(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """-> params.yaml and the stages of dvc.yaml"""
    folder = ROOT / "pipelines" / name
    return read_yaml(folder / "params.yaml"), read_yaml(folder / "dvc.yaml")["stages"]


def first_setting(settings: dict[str, Any]) -> str | None:
    return settings.get("settings", [None])[0]


def overrides(command: list[str]) -> list[str]:
    return [value for flag, value in itertools.pairwise(command) if flag == "--set"]


@pytest.mark.parametrize("name", MATRICES)
def test_arms_and_seeds_are_those_of_the_matrix(name: str) -> None:
    settings, stages = read(name)
    matrices = [stages[each]["matrix"] for each in ("cell", "web_cell") if each in stages]
    assert list(settings["arms"]) == [arm for matrix in matrices for arm in matrix["arm"]]
    for matrix in matrices:
        assert settings["seeds"] == matrix["seed"]
        assert ("settings" in settings) == (matrix.get("domain") == "${settings}")
    baseline = settings["baseline"]
    named = {*baseline, *baseline.values()} if isinstance(baseline, dict) else {baseline}
    assert named <= set(settings["arms"])


@pytest.mark.parametrize("name", MATRICES)
def test_every_arm_is_a_valid_set_of_parameters(name: str) -> None:
    settings, _ = read(name)
    resolved = {}
    for arm in settings["arms"]:
        for command in cell.commands(ROOT / "pipelines" / name, arm, 7, first_setting(settings)):
            found = load(ROOT / "params.yaml", overrides(command))
        assert found.task.seed == 7
        resolved[arm] = json.dumps(found.raw, sort_keys=True)
    assert len(set(resolved.values())) == len(resolved), "two arms are the same"


def test_every_ablation_changes_one_thing() -> None:
    settings, _ = read("ablate")
    common = dict(cell.flat(settings["common"]))
    for arm, change in settings["arms"].items():
        flat = dict(cell.flat(change))
        assert all(common[key] != value for key, value in flat.items()), arm
        assert len({key.rpartition(".")[0] for key in flat}) == (arm != "full"), arm


@pytest.mark.parametrize("name", SELF_CONTAINED)
def test_no_parameter_of_a_cell_comes_from_the_main_pipeline(name: str) -> None:
    """The cells do not depend on the main params.yaml, so nothing of it may reach them."""
    settings, stages = read(name)
    assert all(isinstance(each, str) for each in stages["cell"]["params"])  # of its own params.yaml
    main = read_yaml(ROOT / "params.yaml")
    sections = {key: main[key] for key in ("task", *settings["stages"])}
    for arm in settings["arms"]:
        own = cell.changes(settings, arm, 0)
        others = tuple(f"distill.{m}." for m in METHODS if m != own["distill.method"])
        if own["distill.deconfound.dictionary"] == "none":
            others = (*others, "distill.deconfound.")
        empty = {
            key for key, value in cell.flat(sections) if value == {}
        }  # methods without options
        wanted = {k for k in dict(cell.flat(sections)) if not k.startswith(others)}
        missing = wanted - set(own) - empty
        assert not missing, arm


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("compare", "pool"),
        ("deconfound", "pool"),
        ("out_of_domain", "pool"),
        ("out_of_domain", "web_pool"),
        ("office_caltech", "pool"),
    ],
)
def test_no_parameter_of_the_pool_comes_from_the_main_pipeline(name: str, pool: str) -> None:
    settings, _ = read(name)
    main = read_yaml(ROOT / "params.yaml")
    stages = settings[pool]["stages"]
    wanted = dict(cell.flat({key: main[key] for key in ("task", *stages)}))
    given = {
        text.partition("=")[0]
        for command in cell.pool_commands(ROOT / "pipelines" / name, first_setting(settings), pool)
        for text in overrides(command)
    }
    assert set(wanted) - given == {"task.seed"}  # nothing of the pool is random


@pytest.mark.parametrize("name", MATRICES)
def test_cells_depend_on_all_code_that_their_stages_depend_on(name: str) -> None:
    settings, stages = read(name)
    main = read_yaml(ROOT / "dvc.yaml")["stages"]
    pairs = [(stages["cell"], settings["stages"])]
    pools = [each for each in ("pool", "web_pool") if each in settings]
    pairs += [(stages[pool], settings[pool]["stages"]) for pool in pools]
    if "web_cell" in stages:
        pairs.append((stages["web_cell"], settings["stages"]))
    for stage, run in pairs:
        code = {d for s in run for d in main[s]["deps"] if d.startswith(("stages/", "webdistill/"))}
        covered = [Path(from_root(name, dep)) for dep in stage["deps"]]
        assert not [c for c in code if not any(Path(c).is_relative_to(d) for d in covered)]


def test_commands_of_a_cell(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        "stages: [select, distill]\ndata: some/pool\ncommon: {distill: {lr: 1e-3, epochs: 9}}\n"
        "arms:\n  plain: {}\n  other: {select.rule: random, distill: {epochs: 4}}\n"
        "  short: {stages: [distill], data: another}\n"
    )
    first, second = cell.commands(tmp_path, "other", 2)
    folder = str(tmp_path / "cells" / "other-2")
    assert first[1:7] == ["-m", "stages.select", "--cell", folder, "--from", "some/pool"]
    assert first[3:] == second[3:]
    assert overrides(first) == [
        "distill.lr=0.001", "distill.epochs=4", "task.seed=2", 'select.rule="random"',
    ]  # fmt: skip
    (only,) = cell.commands(tmp_path, "short", 0)
    assert only[2] == "stages.distill"
    assert only[6] == "another"
    assert overrides(only) == ["distill.lr=0.001", "distill.epochs=9", "task.seed=0"]
    with pytest.raises(UserError, match="no arm 'nothing'; params.yaml has plain, other, short"):
        cell.commands(tmp_path, "nothing", 0)
    with pytest.raises(UserError, match="has no 'pool'; name an arm and a seed"):
        cell.pool_commands(tmp_path)


def test_without_a_folder_of_data_a_cell_uses_the_main_pipelines(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("stages: [select]\narms:\n  plain: {}\n")
    (command,) = cell.commands(tmp_path, "plain", 0)
    assert "--from" not in command
    assert overrides(command) == ["task.seed=0"]


def run(root: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command in a project, this interpreter's programs first on the PATH."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "WEBDISTILL_TRACKING": "off",
    }
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with work/ made from 40 images and 1,000 test images of the development data, and the settings used."""
    settings, _ = read("compare")
    source = ROOT / settings["prepare"]["source"]
    if not source.is_dir():
        pytest.skip(f"the development data {settings['prepare']['source']} are not here")
    root = tmp_path_factory.mktemp("prepared")
    for name in ("tinyimagenet64", "teachers"):
        (root / "source" / name).mkdir(parents=True)
        for file in (source / name).iterdir():
            (root / "source" / name / file.name).symlink_to(file.resolve())
    (root / "source" / "cifar10").mkdir()
    few = pq.read_table(source / "cifar10" / "test.parquet").slice(0, 1000)
    pq.write_table(few, root / "source" / "cifar10" / "test.parquet")
    settings["prepare"].update(images=40, source=str(root / "source"))
    prepare(settings, ROOT, root / "pipelines" / "compare" / "work")
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    return root, settings


def test_the_prepared_list_goes_through_search_and_fetch(
    prepared: tuple[Path, dict[str, Any]],
) -> None:
    root, settings = prepared
    commands = cell.pool_commands(ROOT / "pipelines" / "compare")[:2]
    for command in commands:
        place = command.index("--cell") + 1
        run(root, *command[:place], "pool", *command[place + 1 :])
    found = pq.read_table(root / "pool" / "search" / "candidates.parquet")
    captions = found["caption"].to_pylist()
    words = pq.read_table(root / settings["pool"]["search"]["local"])["caption"].to_pylist()
    assert captions == words
    assert len(captions) == 40
    assert set(found["source"].to_pylist()) == {"embedded"}
    assert set(found["opt_out"].to_pylist()) == {""}
    for caption, query in zip(captions, found["query"].to_pylist(), strict=True):
        assert query == "" or query in caption.lower()
    ledger = pq.read_table(root / "pool" / "fetch" / "ledger.parquet")
    assert set(ledger["status"].to_pylist()) == {"ok"}


def test_the_prepared_teacher_and_test_set_fit_together(
    prepared: tuple[Path, dict[str, Any]],
) -> None:
    import torch

    from stages.evaluate.testset import read as read_test

    root, _ = prepared
    folder = root / "pipelines" / "compare" / "work"
    teacher = load_network(folder / "teacher")
    test = read_test(folder / "test" / "images.parquet", folder / "test" / "labels.parquet", 32, 10)
    given = pq.read_table(root / "source" / "cifar10" / "test.parquet")
    assert len(set(test.ids)) == 1000
    assert test.labels.tolist() == given["label"].to_pylist()
    mean = torch.tensor(teacher.card.mean).view(3, 1, 1)
    std = torch.tensor(teacher.card.std).view(3, 1, 1)
    pixels = torch.from_numpy(test.some(test.ids)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        right = teacher.net((pixels - mean) / std).argmax(1).numpy() == test.labels
    assert right.mean() > 0.88  # teachers.json: 91.73 % on all 10,000


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    settings, _ = read("compare")
    settings["prepare"]["source"] = "nowhere/data"
    with pytest.raises(UserError, match="development data nowhere/data does not exist; name it as"):
        prepare(settings, tmp_path, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    (tmp_path / "tinyimagenet64").mkdir()
    rows = pa.table({"image": [b"a", b"b"], "words": ["x", "y"]})
    pq.write_table(rows, tmp_path / "tinyimagenet64" / "train-00.parquet")
    pq.write_table(rows, tmp_path / "tinyimagenet64" / "train-01.parquet")
    assert candidates(tmp_path, 3)["caption"].to_pylist() == ["x", "y", "x"]
    with pytest.raises(UserError, match=r"prepare\.images = 5, but .*tinyimagenet64 holds 4"):
        candidates(tmp_path, 5)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison in an empty project, on 200 candidates of the quickstart: what `prepare` makes is put there."""
    root = tmp_path_factory.mktemp("project")
    for folder in ("stages", "webdistill", "pipelines"):
        away = shutil.ignore_patterns(
            "__pycache__", "work", "cells", "pool", "*.lock", ".gitignore", "cache", "tmp"
        )
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=away)
    for name in ("params.yaml", "takedown.txt", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(QUICKSTART / "clip", root / "data/quickstart/clip")
    work = root / "pipelines/compare/work"
    shutil.copytree(QUICKSTART / "teacher", work / "teacher")
    (work / "test").mkdir()
    cuts = {"web.parquet": (work / "list.parquet", 200)}
    cuts |= {
        f"test/{n}.parquet": (work / "test" / f"{n}.parquet", 50) for n in ("images", "labels")
    }
    for name, (target, rows) in cuts.items():
        pq.write_table(pq.read_table(QUICKSTART / name).slice(0, rows), target)
    yaml = YAML()
    stages = yaml.load((root / "pipelines/compare/dvc.yaml").read_text())
    del stages["stages"]["prepare"]
    yaml.dump(stages, root / "pipelines/compare/dvc.yaml")
    settings = yaml.load((root / "pipelines/compare/params.yaml").read_text())
    small = {"epochs": 2, "steps_per_epoch": 3, "batch_size": 16, "views": 1}
    settings["common"]["distill"].update(small)
    settings["common"]["select"]["allow_empty_classes"] = True
    settings["common"]["evaluate"]["parity_images"] = 8
    yaml.dump(settings, root / "pipelines/compare/params.yaml")
    (root / "pipelines/.dvc/config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n"
    )
    return root


@pytest.mark.slow
def test_a_cell_runs_once_and_is_tabled(project: Path) -> None:
    target = "compare/dvc.yaml:cell@kd-0"
    run(project, "dvc", "--cd", "pipelines", "repro", target)
    folder = project / "pipelines/compare/cells/kd-0"
    trained = json.loads((folder / "distill/metrics.json").read_text())
    assert trained["steps"] == 6
    kept = pq.read_table(project / "pipelines/compare/pool/filter/kept.parquet").num_rows
    assert trained["images"] == kept - round(0.1 * kept) > 100
    measured = json.loads((folder / "evaluate/metrics.json").read_text())
    assert measured["test_images"] == 50
    assert not (project / "data/select").exists()

    before = (folder / "evaluate/metrics.json").stat().st_mtime_ns
    main = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(main.replace("epochs: 54", "epochs: 55"))
    (project / "webdistill/core/__pycache__").mkdir(exist_ok=True)
    (project / "webdistill/core/__pycache__/late.pyc").write_bytes(b"another")
    again = run(project, "dvc", "--cd", "pipelines", "repro", target)
    assert f"Stage '{target}' didn't change, skipping" in again.stdout
    assert "up to date" in run(project, "dvc", "--cd", "pipelines", "status", target).stdout
    again = run(project, sys.executable, "-m", "webdistill", "repro", f"pipelines/{target}")
    assert again.stdout.startswith("nothing to do")
    assert (folder / "evaluate/metrics.json").stat().st_mtime_ns == before

    run(project, sys.executable, "-m", "pipelines.shared.table", "pipelines/compare")
    text = (project / "pipelines/compare/comparison.md").read_text()
    assert f"| kd | 1 | {trained['images']} | 6 | {100 * measured['top1']:.2f} |" in text
    assert "not yet run: kd-1, kd-2, kd_muon-0" in text
    assert (project / "pipelines/compare/comparison.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_stage_that_fails_ends_the_cell_with_its_exit_code(project: Path) -> None:
    params = project / "pipelines/compare/params.yaml"
    before = params.read_text()
    params.write_text(before.replace("student: resnet8", "student: resnet9000"))
    done = run(
        project,
        sys.executable,
        "-m",
        "pipelines.shared.cell",
        "pipelines/compare",
        "kd",
        "1",
        check=False,
    )
    params.write_text(before)
    assert done.returncode == 2
    assert done.stderr.startswith("select: error: ")
    assert done.stderr.count("\n") == 1
    assert not (project / "pipelines/compare/cells/kd-1").exists()
