"""A stage that DVC runs depends on the code of its networks, or stops: DVC would not notice that it changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from webdistill.core.errors import UserError
from webdistill.harness.params import load
from webdistill.harness.stage import Stage

ROOT = Path(__file__).parents[2]
FAMILIES = "webdistill/models/families"
PROGRAM = """
from webdistill.harness.stage import run
run("distill", lambda stage: stage.networks("vgg8"))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "nets.py").write_text("def small(num_classes): ...\n")
    return tmp_path


def test_a_family_that_dvc_yaml_does_not_name_ends_the_stage_in_one_line(project: Path) -> None:
    (project / "network.py").write_text(PROGRAM)
    stage = f"cmd: {sys.executable} network.py\n    deps: [network.py]\n    outs: [data/distill]\n"
    (project / "dvc.yaml").write_text(f"stages:\n  distill:\n    {stage}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WEBDISTILL_TRACKING": "off"}
    dvc = [sys.executable, "-m", "dvc"]
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n")
    done = subprocess.run(
        [*dvc, "repro"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("ERROR: failed to")]
    assert "\n".join(said) == (
        f"distill: error: stage 'distill' reads {FAMILIES}/vgg.py, which is none of its deps in dvc.yaml; "
        "add it there, so that DVC notices when it changes"
    )


def test_all_that_is_lacking_is_told_at_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quickstart's dvc.yaml names residual and wide residual networks alone."""
    stage = Stage("distill", load(Path("params.yaml")), None)
    stage.networks("vgg8")  # by hand a stage may read what it likes
    monkeypatch.setenv("DVC_STAGE", "distill")
    stage = Stage("distill", load(Path("params.yaml")), None)
    assert stage.networks("resnet20", "wrn-16-1") == []
    with pytest.raises(UserError, match=r"timm_nets\.py and .*/wrapped\.py, which are none"):
        stage.networks("timm:convnext_tiny")


def test_a_network_of_the_users_own_is_an_input(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "distill")
    text = Path("dvc.yaml").read_text()
    line = f"      - {FAMILIES}/wide.py\n"
    own = [line, *(line.replace("wide", name) for name in ("usercode", "wrapped"))]
    Path("dvc.yaml").write_text(text.replace(line, "".join(own)))
    stage = Stage("distill", load(Path("params.yaml")), None)
    with pytest.raises(UserError, match=r"reads nets\.py, which is none"):
        stage.networks("nets:small")
    Path("dvc.yaml").write_text(text.replace(line, "".join([*own, "      - nets.py\n"])))
    stage = Stage("distill", load(Path("params.yaml")), None)
    assert stage.networks("nets:small") == ["nets.py"]
    assert "nets.py" in stage.inputs


def test_the_code_of_a_network_is_in_the_key_of_a_half_finished_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = project / "copy"
    for room in ("stages", "webdistill"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, copy / room, ignore=ignored)
    monkeypatch.setattr("webdistill.harness.closure.CODE", copy)

    def digest(*networks: str) -> str:
        stage = Stage("distill", load(Path("params.yaml")), None)
        stage.networks(*networks)
        return stage.code_digest()

    before = digest("wrn-16-1"), digest("vgg8")
    vgg = copy / FAMILIES / "vgg.py"
    vgg.write_text(f"{vgg.read_text()}# a comment\n")
    assert digest("wrn-16-1") == before[0]
    assert digest("vgg8") != before[1]
