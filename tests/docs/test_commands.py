"""Every command of the documentation is run: here when that is cheap, else by the test that PROOF names."""

from __future__ import annotations

import ast
import functools
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.cli.parser import get_main_parser
from ruamel.yaml import YAML

from tests.docs.pages import PAGES, ROOT, all_commands, commands
from webdistill.__main__ import main
from webdistill.harness.params import load, read_yaml

COMMANDS = all_commands()
HERE = "tests/docs/test_commands.py"
RANKED = "test_the_lines_of_the_page_rank_students_by_what_they_measured"
# Beginning of a command -> the test that runs it, or checks what would take minutes. The first that fits counts.
PROOF = {
    "make repro": ("tests/core/test_packaging.py", "test_make_targets"),
    "make test": (
        "tests/core/test_packaging.py",
        "test_ci_runs_make_test_and_passes_its_exit_code_on",
    ),
    "make env": ("tests/core/test_packaging.py", "test_make_env_does_nothing_when_up_to_date"),
    "make check": ("tests/core/test_packaging.py", "test_make_targets"),
    "python3 -m venv": (
        "tests/core/test_packaging.py",
        "test_make_env_does_nothing_when_up_to_date",
    ),
    ". .venv/bin/activate": (
        "tests/core/test_packaging.py",
        "test_make_env_does_nothing_when_up_to_date",
    ),
    "pip install -c constraints.txt": (
        "tests/core/test_packaging.py",
        "test_pins_are_the_closure_of_what_is_installed",
    ),
    "pip install efficientnet": (
        "tests/pipelines/test_real_task.py",
        "test_what_is_missing_is_one_line",
    ),
    "python -m pipelines.real_task.prepare": (
        "tests/pipelines/test_real_task.py",
        "test_no_picture_of_the_real_data_is_in_two_parts",
    ),
    "python -m pipelines.real_task.teacher": (
        "tests/pipelines/test_real_task.py",
        "test_only_the_teachers_last_layer_is_trained",
    ),
    "python -m pipelines.real_task.folders": (
        "tests/pipelines/test_real_task.py",
        "test_folders_hold_what_a_user_has",
    ),
    "dvc --cd pipelines status": (
        "tests/pipelines/test_compare.py",
        "test_a_cell_runs_once_and_is_tabled",
    ),
    "dvc --cd pipelines repro": (HERE, "test_stages_named_exist"),
    "ray start --head": ("tests/engine/test_ray.py", "test_bytes_equal_those_of_the_local_engine"),
    "WEBDISTILL_ENGINE=ray python -m webdistill doctor --engine": (
        "tests/engine/test_ray.py",
        "test_doctor_has_a_line_for_everything_and_the_fix",
    ),
    "WEBDISTILL_ENGINE=ray dvc repro": (
        "tests/engine/test_ray.py",
        "test_bytes_equal_those_of_the_local_engine",
    ),
    "dvc repro": ("tests/pipeline/test_repro.py", "test_every_stage_ran_and_left_its_outputs"),
    "dvc exp run --queue": ("tests/commands/test_ranking.py", RANKED),
    "dvc exp run --run-all": ("tests/commands/test_ranking.py", RANKED),
    "dvc exp run": (HERE, "test_dvc_commands_of_the_readme_on_the_real_graph"),
    "dvc exp show": (HERE, "test_dvc_commands_of_the_readme_on_the_real_graph"),
    "dvc metrics show": (HERE, "test_dvc_commands_of_the_readme_on_the_real_graph"),
    "dvc plots show": (HERE, "test_dvc_commands_of_the_readme_on_the_real_graph"),
    "dvc dag": (HERE, "test_dvc_commands_of_the_readme_on_the_real_graph"),
    "mlflow ui": (
        "tests/harness/test_tracking.py",
        "test_dead_server_keeps_the_spool_then_a_live_one_gets_it_once",
    ),
    "cat ": (HERE, "test_files_shown_are_outputs"),
    "python -m webdistill results --keep": (
        "tests/core/test_experiments.py",
        "test_a_run_is_kept_whole_and_read_back",
    ),
    "python -m webdistill results --experiments": ("tests/commands/test_ranking.py", RANKED),
    "python -m webdistill results": (HERE, "test_results_of_the_committed_figures"),
    "python -m webdistill plan": (
        "tests/commands/plan/test_plan.py",
        "test_the_table_has_every_row_and_seconds_of_a_real_trial",
    ),
    "python -m webdistill pool-page": (
        "tests/commands/init/test_own_teacher.py",
        "test_the_page",
    ),
    "python -m webdistill predict": (
        "tests/commands/init/test_own_teacher.py",
        "test_the_page",
    ),
    "python -m webdistill check-teacher": (
        "tests/commands/check_teacher/test_check_teacher.py",
        "test_real_images_and_a_real_teacher",
    ),
    "python -m webdistill why": (
        "tests/commands/provenance/test_real_stages.py",
        "test_the_life_of_every_candidate_agrees_with_the_stages_files",
    ),
    "python -m webdistill lost": (
        "tests/commands/provenance/test_real_stages.py",
        "test_every_candidate_is_accounted_for",
    ),
    "python -m webdistill prove-absent": (
        "tests/commands/provenance/test_real_stages.py",
        "test_a_takedown_is_proven_once_filter_and_what_follows_have_run_again",
    ),
    "python -m stages.search --dry-run": (
        "tests/stages/test_search.py",
        "test_the_program_takes_dry_run_beside_the_other_options",
    ),
    "python -m pipelines.shared.table": (
        "tests/pipelines/test_compare.py",
        "test_a_cell_runs_once_and_is_tabled",
    ),
    "python -m pipelines.out_of_domain.table": (
        "tests/pipelines/test_out_of_domain.py",
        "test_files_are_the_same_each_time",
    ),
    "python -m pipelines.office_caltech.table": (
        "tests/pipelines/test_office_caltech.py",
        "test_the_table_counts_all_test_images_and_pairs_folds",
    ),
    "python -m pipelines.ablate.weights": (HERE, "test_programs_explain_themselves"),
    "python -m pipelines.full_size.arrays": (HERE, "test_programs_explain_themselves"),
    "python -m pipelines.full_size.train": (
        "tests/pipelines/test_full_size.py",
        "test_calls_cut_short_end_as_one_call_does",
    ),
    "python -m pipelines.quickstart_data.source": (HERE, "test_programs_explain_themselves"),
    "python -m pipelines.pools.correlate": (HERE, "test_programs_explain_themselves"),
    "python -m pipelines.pools.look": (HERE, "test_programs_explain_themselves"),
    "python -m pipelines.pools.train": (HERE, "test_programs_explain_themselves"),
    "python -m pipelines.shared.cell": (
        "tests/pipelines/test_compare.py",
        "test_a_cell_runs_once_and_is_tabled",
    ),
    "python -m webdistill init": ("tests/commands/init/test_own_teacher.py", "test_the_page"),
    "python -m webdistill fit": (
        "tests/commands/fit/test_fit.py",
        "test_signals_say_what_was_planted",
    ),
    "python -m webdistill repro -j": (
        "tests/team/test_repro.py",
        "test_cells_run_side_by_side_and_the_lock_is_that_of_a_serial_run",
    ),
    "python -m webdistill track": (
        "tests/tracking/test_pipeline.py",
        "test_experiments_of_dvc_here_queued_and_from_the_run_cache",
    ),
    "python -m webdistill.tracking.flush": (
        "tests/harness/test_tracking.py",
        "test_dead_server_keeps_the_spool_then_a_live_one_gets_it_once",
    ),
    "python -m webdistill.commands.reference": (
        "tests/docs/test_parameters.py",
        "test_the_program_prints_the_page",
    ),
    "docs/own_teacher.md": ("tests/commands/init/test_own_teacher.py", "test_the_page"),
    "docs/team.md": ("tests/team/test_page.py", "test_the_commands_of_the_page_in_its_order"),
}


def proof(command: str, page: str) -> tuple[str, str] | None:
    """The test that runs a command: found by the command's beginning, or by the page if a test runs all of it."""
    return next(
        (named for start, named in PROOF.items() if command.startswith(start) or page == start),
        None,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_test_runs_the_command(command: str) -> None:
    page = COMMANDS[command]
    named = proof(command, page)
    assert named, (
        f"{page}: no test runs `{command}`; write one, and name it in PROOF of {HERE}: under the command's "
        "beginning, or under the page when one test runs all of its commands"
    )
    assert named[1] in functions(named[0])


@functools.cache
def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_no_proof_is_of_a_command_that_is_gone() -> None:
    known = "".join(page.read_text() for page in PAGES)  # some stand in the text
    known += "".join(COMMANDS.values())
    assert not [start for start in PROOF if start.strip() not in known]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("dvc ")])
def test_dvc_understands_the_command(command: str) -> None:
    parser().parse_args(shlex.split(command)[1:])


parser = functools.cache(get_main_parser)


def test_overrides_are_valid_parameters() -> None:
    given = [c for c in COMMANDS if c.startswith("dvc exp run")]
    assert given
    for command in given:
        queued = "--queue" in command  # a grid: commas separate the values of a key
        choices = [
            [f"{key}={value}" for value in (values.split(",") if queued else [values])]
            for key, values in re.findall(r"-S ([^\s=]+)=(\S+)", command)
        ]
        for overrides in itertools.product(*choices):
            load(ROOT / "params.yaml", overrides)


def test_stages_named_exist() -> None:
    """`STUDY/dvc.yaml:stage@item`, with the items that the matrix has."""
    checked = 0
    for command in COMMANDS:
        for name, stage, item in re.findall(
            r"(?:pipelines/|pipelines repro (?:-s )?)(\S+dvc\.yaml)(?::(\w+))?(?:@(\S+))?", command
        ):
            path = f"pipelines/{name}"
            spec = read_yaml(ROOT / path)["stages"]
            checked += 1
            if stage:
                assert stage in spec, command
            if item:
                params = read_yaml((ROOT / path).with_name("params.yaml"))
                lists = [
                    params[values[2:-1]] if isinstance(values, str) else values
                    for values in spec[stage]["matrix"].values()
                ]
                items = {"-".join(map(str, choice)) for choice in itertools.product(*lists)}
                assert item in items, command
    assert checked > 10


def test_files_shown_are_outputs() -> None:
    for command in COMMANDS:
        if command.startswith("cat "):
            path = Path(command.removeprefix("cat "))
            spec = read_yaml(ROOT / path.parent / "dvc.yaml")["stages"]
            outs = [out for stage in spec.values() for out in stage.get("outs", [])]
            assert any(Path(str(out)).name == path.name for out in outs), command


def test_results_of_the_committed_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report, figures = Path("data/report/report.html"), Path("data/evaluate/metrics.json")
    for path in (report, figures):
        (tmp_path / path.parent).mkdir(parents=True)
    (tmp_path / report).touch()  # which comes with a run, not with git
    shutil.copy(ROOT / figures, tmp_path / figures)
    monkeypatch.chdir(tmp_path)
    assert main(["results"]) == 0
    assert "on the test images" in capsys.readouterr().out
    monkeypatch.chdir(ROOT)
    assert main(["check"]) == 0


HELP = """
import runpy, sys
programs, sys.argv = sys.argv[1:], ["program", "--help"]
for name in programs:
    try:
        runpy.run_module(f"pipelines.{name}", run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, name
"""


def test_programs_explain_themselves() -> None:
    """Programs whose inputs take minutes: they start, and know the arguments that the page gives them."""
    programs = ["ablate.weights", "pools.correlate", "pools.look", "pools.train"]
    command = [sys.executable, "-c", HELP, *programs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(programs)


# -- DVC's commands on the real graph with the real parameters. In the place of each stage stands a line of shell that
# writes files of the right form, different ones whenever params.yaml differs.
RUN = """
import json, sys
from dvc.cli import main
for words in json.loads(sys.argv[1]):
    print("@@", *words, flush=True)
    print("@=", main(words), flush=True)
"""


def written(stage: dict[str, Any]) -> list[str]:
    """Outputs and metrics of a stage, with or without options."""
    return [
        str(next(iter(one)) if isinstance(one, dict) else one)
        for one in (*stage["outs"], *stage["metrics"])
    ]


def stand_in(stage: dict[str, Any], columns: dict[str, set[str]]) -> str:
    """A command that writes all outputs of a stage."""
    lines = ["n=$(cksum params.yaml | cut -d' ' -f1)"]
    for path in written(stage):
        names = sorted(columns.get(path, ()))
        text = (
            f"{','.join(names)}\\n{','.join(['$n'] * len(names))}" if names else '{\\"value\\": $n}'
        )
        lines.append(f'mkdir -p {Path(path).parent} && printf "{text}\\n" > {path}')
    return " && ".join(lines)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, yaml = tmp_path_factory.mktemp("graph"), YAML()
    spec = yaml.load((ROOT / "dvc.yaml").read_text())
    columns: dict[str, set[str]] = {}
    for plot in spec["plots"]:
        for settings in plot.values():
            for path, fields in settings["y"].items():
                names = [fields] if isinstance(fields, str) else list(fields)
                columns.setdefault(path, set()).update([*names, settings["x"]])
    made = {path for stage in spec["stages"].values() for path in written(stage)}
    for stage in spec["stages"].values():
        stage["deps"] = [dep for dep in stage["deps"] if dep in made]
        stage["cmd"] = stand_in(stage, columns)
    with (root / "dvc.yaml").open("w") as file:
        yaml.dump(spec, file)
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (root / ".gitignore").write_text("/data/\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    dvc(root, ["init", "-q"], ["config", "core.analytics", "false"])
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "commit", "-qm", "graph"], cwd=root, check=True)
    return root


def dvc(root: Path, *lines: list[str]) -> dict[str, str]:
    """Run DVC commands one after the other in one process. -> what each of them said"""
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(lines)], cwd=root, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    said: dict[str, str] = {}
    for part in done.stdout.split("@@ ")[1:]:
        head, _, text = part.partition("\n")
        text, _, code = text.rpartition("@= ")
        assert code.strip() == "0", f"dvc {head}\n{text}\n{done.stderr}"
        said[f"dvc {head}"] = text
    assert len(said) == len(lines), done.stderr
    return said


@pytest.mark.slow
def test_dvc_commands_of_the_readme_on_the_real_graph(graph: Path) -> None:
    given = [c for c in commands(ROOT / "README.md") if c.startswith("dvc ") and c != "dvc repro"]
    changes = [c for c in given if "exp run" in c and "filter" in c]  # several seconds each
    shown = [c for c in given if "exp run" not in c]
    said = dvc(graph, ["repro", "-q"], *(shlex.split(c)[1:] for c in changes + shown))
    ran = {c: set(re.findall(r"Running stage '(\w+)'", text)) for c, text in said.items()}
    assert ran["dvc exp run -S filter.min_score=0.05"] == {
        "filter",
        "select",
        "prototypes",
        "distill",
        "evaluate",
        "report",
    }
    assert "flowchart TD" in said["dvc dag --mermaid"]
    assert "value" in said["dvc metrics show data/evaluate/metrics.json"]
    assert "index.html" in said["dvc plots show"]
    assert said["dvc exp show"].count("[") >= len(changes)
