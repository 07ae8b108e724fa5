"""`track` in a project that cannot be tracked: one line that names the reason."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from webdistill.commands.track import record
from webdistill.core.errors import UserError

ROOT = Path(__file__).parents[2]
TWO = "stages: {search: {cmd: echo 1 > a, outs: [a]}, fetch: {cmd: echo 2 > b, deps: [a], outs: [b]}}"  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of two stages the first has run."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").write_text(TWO)
    for words in (["init", "--no-scm", "-q"], ["repro", "-q", "search"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_a_stage_that_has_never_run_is_not_called_modified(project: Path) -> None:
    with pytest.raises(UserError, match=r"^stage 'fetch' has not run; run `dvc repro` first"):
        record(project)


def test_a_broken_dvc_yaml_is_named_on_one_line(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.yaml' is invalid.*line 1, column 10$") as caught:
        record(project)
    assert "\n" not in str(caught.value)
