"""A teacher that exists as a file of another kind, with the network that docs/own_teacher.md shows."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from stages.distill.cost import expected
from stages.evaluate.deployed import figures
from stages.evaluate.export import Deployable, export
from tests.stages import test_distill_phases as phases
from webdistill.core.files import read_json, sha256_file
from webdistill.models.checkpoint import load_network, load_weights
from webdistill.models.zoo import build

finished = phases.finished
project = phases.project
PAGE = Path(__file__).parents[2] / "docs/own_teacher.md"


def forget_nets() -> dict[str, ModuleType]:
    """Modules of a folder `nets`, which other tests have as well. -> what is no longer imported"""
    names = [name for name in sys.modules if name.split(".")[0] == "nets"]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def original(project: Path) -> Iterator[Deployable]:
    """The project's teacher, in whose place there is now an ONNX file of it that normalises by itself."""
    card, teacher = read_json(Path("teacher/config.json")), load_network(Path("teacher")).net
    whole = Deployable(teacher, card["mean"], card["std"]).eval()
    export(whole, phases.SIZE, Path("teacher/model.onnx"))
    (code,) = re.findall(r"```python\n(.*?OnnxFile.*?)```", PAGE.read_text(), re.DOTALL)
    (project / "nets").mkdir()
    Path("nets/onnx_file.py").write_text(code)
    torch.save({}, "teacher/weights.pt")
    Path("teacher/weights.safetensors").unlink()
    changed = {
        "architecture": "nets.onnx_file:make",
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
        "sha256": sha256_file(Path("teacher/weights.pt")),
    }
    Path("teacher/config.json").write_text(json.dumps(card | changed))
    others = forget_nets()
    yield whole
    forget_nets()
    sys.modules.update(others)


def test_it_teaches(original: Deployable) -> None:
    images = torch.rand(3, 3, phases.SIZE, phases.SIZE)
    teacher = load_network(Path("teacher")).net
    torch.testing.assert_close(teacher(images), original(images))
    before = phases.STUDENT.read_bytes()
    assert phases.run_stage(method="kd", student_weights=None) != before
    found = read_json(Path("data/distill/metrics.json"))
    assert found["teacher_parameters"] == 0
    assert found["holdout_kl"] < 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch would have us take torch.export
def test_a_torchscript_file_answers_as_well(original: Deployable) -> None:
    net = original.net
    Path("nets/script.py").write_text(
        'import torch\n\ndef make(num_classes):\n    return torch.jit.load("teacher/model.pt")\n'
    )
    images = torch.rand(3, 3, phases.SIZE, phases.SIZE)
    torch.jit.save(torch.jit.trace(net, images), "teacher/model.pt")
    torch.save(torch.jit.load("teacher/model.pt").state_dict(), "weights.pt")
    made = build("nets.script:make", 3, phases.SIZE)
    load_weights(made, Path("weights.pt"), "nets.script:make")
    torch.testing.assert_close(made.eval()(images), net(images))


@pytest.mark.usefixtures("original")
def test_its_size_is_unknown_and_it_has_no_maps() -> None:
    network, student = load_network(Path("teacher")), load_network(phases.STUDENT.parent)
    exports: Any = SimpleNamespace(paths={"onnx": phases.STUDENT})
    known = {"parameters", "multiply_adds", "onnx_bytes"}
    nothing: Any = None
    assert figures(nothing, {}, student, network, exports).keys() == known
    assert figures(nothing, {}, student, student, exports).keys() > known
    teacher = network.net
    plain = expected(phases.stage_of(method="kd").params, teacher, phases.SIZE)
    assert plain.sentence.endswith(
        "the teacher's size is not known, for its network has no weights"
    )
    assert plain.warning is None
    imitated = expected(phases.stage_of(method="simkd").params, teacher, phases.SIZE)
    assert imitated.warning is not None
    assert (
        "so simkd imitates its logits as if they were maps; set distill.method to kd"
        in imitated.warning
    )
