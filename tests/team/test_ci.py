""".ci/run fetches a browser where it can, and goes on where it cannot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = [
    "bash",
    "dirname",
    "echo",
    "env",
    "grep",
    "make",
    "mktemp",
    "rm",
    "sh",
    "tail",
    "tee",
    "timeout",
]
MAKEFILE = "test:\n\t@echo '== 3 passed =='\ntest-slow:\n\t@echo '== 2 passed =='\n"
INSTALLS = 'case "$1" in install) : > "${0%/*}/chromium"; chmod +x "${0%/*}/chromium";; esac'


def machine(folder: Path, apt: str | None, user: int = 0) -> dict[str, str]:
    """A bare machine: the script, a test command that passes, and on the PATH no browser. -> its environment"""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    (folder / "Makefile").write_text(MAKEFILE)
    programs = folder / "bin"
    programs.mkdir()
    for name in [*NEEDED, "chmod"]:
        found = shutil.which(name)
        assert found is not None, name
        (programs / name).symlink_to(found)
    scripts = {"id": f"echo {user}"}
    if apt is not None:
        scripts["apt-get"] = f'echo "$@" >> {folder}/asked\n{apt}'
    for name, text in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    return {"PATH": str(programs), "CI": "true"}


def run(folder: Path, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [folder / ".ci" / "run"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-2:] == ["== 3 passed ==", "== 2 passed =="]
    return lines


def test_a_browser_is_installed_quietly(tmp_path: Path) -> None:
    assert run(tmp_path, machine(tmp_path, INSTALLS))[0] == f"browser: {tmp_path}/bin/chromium"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["update", "install -y --no-install-recommends chromium"]
    run(tmp_path, {"PATH": str(tmp_path / "bin"), "CI": "true"})
    assert (tmp_path / "asked").read_text().splitlines() == asked  # it is there now


@pytest.mark.parametrize("apt", ["exit 100", None])
def test_without_one_the_tests_run_all_the_same(tmp_path: Path, apt: str | None) -> None:
    assert run(tmp_path, machine(tmp_path, apt))[0] == "browser: none"


@pytest.mark.parametrize(
    ("change", "user"), [({"CI": ""}, 0), ({"BROWSER_TRIED": "1"}, 0), ({}, 1000)]
)
def test_nothing_is_installed_but_by_ci_as_root_and_once(
    tmp_path: Path, change: dict[str, str], user: int
) -> None:
    assert run(tmp_path, machine(tmp_path, INSTALLS, user) | change)[0] == "browser: none"
    assert not (tmp_path / "asked").exists()


def test_the_slow_ones_run_after_a_failure_and_count(tmp_path: Path) -> None:
    environment = machine(tmp_path, None)
    (tmp_path / "Makefile").write_text("test:\n\t@exit 3\ntest-slow:\n\t@echo '== 2 passed =='\n")
    command = [tmp_path / ".ci" / "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    first = "make test: pytest printed no closing line"
    assert done.stdout.splitlines()[-2:] == [first, "== 2 passed =="]
