"""What a fresh clone relies on: metadata, pins, make targets, the CI command, hooks."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import webdistill

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIN = re.compile(r"^([a-z0-9-]+)==([0-9][0-9a-z.]*)$")
TARGETS = ["help", "env", "repro", "test", "test-slow", "test-all", "check"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [PIN.match(line) for line in lines if line and not line.startswith("#")]
    assert all(found), "every line of constraints.txt is name==version, no URL, no +local version"
    return {match[1]: match[2] for match in found if match}


def requirements() -> dict[str, str]:
    """name -> specifier, of the dependencies and of the extra `dev`."""
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    named = [re.match(r"([\w.-]+)(.*)", each) for each in wanted]
    return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in named if match}


def test_versions_agree() -> None:
    assert PROJECT["project"]["version"] == webdistill.__version__
    assert YAML(typ="safe").load(ROOT / "CITATION.cff")["version"] == webdistill.__version__
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py311"


def test_every_requirement_is_pinned_and_the_pin_satisfies_it() -> None:
    pinned = pins()
    assert list(pinned) == sorted(pinned)
    for name, specifier in requirements().items():
        assert name in pinned
        version = [int(part) for part in pinned[name].split(".")]
        for operator, bound in re.findall(r"(>=|<)([\d.]+)", specifier):
            limit = [int(part) for part in bound.split(".")]
            assert (version >= limit) if operator == ">=" else (version < limit), name


def test_pins_are_the_closure_of_what_is_installed() -> None:
    """Every installed distribution our requirements pull in has a pin."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned, seen = pins(), set()
    todo = [(name, "") for name in requirements()]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            wanted = [Requirement(each) for each in requires(name) or []]
        except PackageNotFoundError:  # another platform's, or an extra tool not installed here
            continue
        assert name in pinned, f"{name} is installed, constraints.txt does not pin it"
        for each in wanted:
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(each.name), part) for part in ("", *each.extras)]


def test_constraints_name_no_host() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|@|--|\+", text)


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets(target: str) -> None:
    """Each is listed by plain `make`, and make can plan it."""
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"make {target}" in shown
    subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=True)


def test_make_env_does_nothing_when_up_to_date(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".stamp").touch()
    make = ["make", "env", "PYTHON=false"]
    assert subprocess.run(make, cwd=tmp_path, capture_output=True).returncode == 0
    later = (tmp_path / ".venv" / ".stamp").stat().st_mtime + 10
    os.utime(tmp_path / "constraints.txt", (later, later))
    tried = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True)
    assert tried.returncode != 0
    assert "Python 3.11 or newer" in tried.stderr


PYTHON = """#!/bin/sh
case "$*" in *version*) echo Python;; *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac
"""


def test_make_repro_says_at_once_what_happens_and_how_long_it_takes(tmp_path: Path) -> None:
    """With a stand-in for Python, so that nothing is installed or run."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    command = ["make", "repro", "PYTHON=./python"]
    # `make test` hands its own level and flags down; a user's shell has none of them.
    shell = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    first, again = (
        subprocess.run(
            command, cwd=tmp_path, env=shell, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert [line.partition(" of ")[0][:16] for line in first.splitlines()[:3]] == [
        f"make repro: {number}/3 " for number in (1, 2, 3)
    ]
    assert "6 to 20 minutes" in first
    assert ("PIP_ARGS='--extra-index-url URL'" in first) != (
        Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
    )
    assert "packages are in .venv" in again
    assert "make env" not in again


@pytest.mark.parametrize(("line", "code"), [("3 passed in 1.00s", 0), ("1 failed, 2 passed", 2)])
def test_ci_runs_make_test_and_passes_its_exit_code_on(
    tmp_path: Path, line: str, code: int
) -> None:
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_bytes((ROOT / ".ci" / "run").read_bytes())
    script.chmod(0o755)
    first = f"test:\n\t@echo '== {line} =='; echo later; exit {code}\n"
    (tmp_path / "Makefile").write_text(f"{first}test-slow:\n\t@echo '== 4 passed =='\n")
    done = subprocess.run([script], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.splitlines()[-2:] == [f"== {line} ==", "== 4 passed =="]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_hooks_are_local() -> None:
    config = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    assert {"ruff", "format", "types", "large-files"} <= set(hooks)
    assert {hook["language"] for hook in hooks.values()} == {"system"}


def test_dvc_sends_nothing_home() -> None:
    config = configparser.ConfigParser()
    config.read_string(re.sub(r"(?m)^\s+", "", (ROOT / ".dvc" / "config").read_text()))
    assert config["core"]["analytics"] == "false"
    assert config["core"]["check_update"] == "false"


def test_git_ignores_what_a_run_leaves() -> None:
    patterns = (ROOT / ".gitignore").read_text().split()
    assert {"/.work/", "/mlflow.db", "/mlruns/", ".venv/", "__pycache__/"} <= set(patterns)


def test_license_text_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("program", ["stages.distill", "webdistill", "pipelines.shared.cell"])
def test_a_python_without_the_libraries_is_told_in_one_line(program: str) -> None:
    command = [sys.executable, "-S", "-m", program]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: .+ lacks .*; run `source \.venv/bin/activate` first\n", done.stderr
    )
