"""Promises T2 and T5: what leaves the stage `distill` is the last epoch's student and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stages.distill.method_params import ROUNDS
from tests.stages import test_distill_phases as phases
from tests.stages.test_distill import METHODS
from webdistill.models.zoo import build

SHORT = {"images": 6, "steps": 2, "warmup": 1}  # of a method that makes its images in rounds
finished = phases.finished
project = phases.project


def tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """All but BatchNorm's counters of batches, which no answer depends on."""
    return {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("method", METHODS)
def test_the_exported_student_is_that_of_the_last_epoch_and_holds_nothing_else(method: str) -> None:
    epochs = 3 if method == "augkd" else 2  # which has three phases
    changes: dict[str, Any] = {"method": method, "epochs": epochs, "views": 1}
    changes |= {"augkd.free_epochs": 1, "augkd.anchor_epochs": 1}
    changes |= {f"{n}.{key}": value for n in ROUNDS for key, value in SHORT.items()}
    again = phases.prepared(phases.stage_of(**changes)).run
    states = []
    for number in range(epochs):
        list(again.epoch(number))
        states.append({k: v.clone() for k, v in tensors(again.method.student()).items()})
    phases.run_stage(**changes)
    files = {path.name for path in Path("data/distill/student").iterdir()}
    assert files == {"weights.safetensors", "config.json", "manifest.json"}
    saved = load_file("data/distill/student/weights.safetensors")
    assert saved.keys() == states[-1].keys()
    assert all(torch.equal(tensor, states[-1][name]) for name, tensor in saved.items())
    assert any(not torch.equal(tensor, states[-2][name]) for name, tensor in saved.items())

    own = tensors(build("resnet8", 3)).keys()
    if method in ("simkd", "kd3"):  # projector, and the teacher's classifier in place of its own
        backbone = {n.removeprefix("backbone.") for n in saved if n.startswith("backbone.")}
        assert backbone <= own
        rest = {name.partition(".")[0] for name in saved} - {"backbone"}
        assert rest == {"projector", "fc"}
    else:
        assert saved.keys() == own

    taken = load_file("teacher/weights.safetensors").values()
    for name, tensor in saved.items():
        by_design = method in ("simkd", "kd3") and name.startswith("fc.")
        same = tensor.numel() > 1 and any(torch.equal(tensor, each) for each in taken)
        assert same == by_design, f"{name} is the teacher's" if same else f"{name} should be"
