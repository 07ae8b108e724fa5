"""What a student costs is said before it is trained, the same everywhere, and is what the exported files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stages.distill.cost import Cost, expected, measure
from stages.distill.loop import Run
from stages.distill.methods import build as build_method
from stages.distill.params import Distill
from tests.models.test_cost import naively
from tests.stages import test_distill_phases as phases
from webdistill.core.errors import UserError
from webdistill.core.files import read_json
from webdistill.models.checkpoint import load_network
from webdistill.models.zoo import build

finished = phases.finished
project = phases.project
FOLDER = Path("data/distill/student")
STATISTICS = ("running_mean", "running_var")
DICTIONARY = ("prototypes", "prior", "scores", "unit", "centre", "square", "seen", "mean")


def in_file(path: Path, left_out: tuple[str, ...]) -> int:
    """Numbers in a file of weights."""
    return sum(t.numel() for name, t in load_file(path).items() if not name.endswith(left_out))


def settings_of(**changes: Any) -> Distill:
    found = phases.stage_of(**changes).params
    assert isinstance(found, Distill)
    return found


# -- the count -------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "changes",
    [{"method": "kd"}, {"method": "simkd"}, {"method": "kd3"}, {"method": "kd3", "kd3.shared_classifier": False}],
    ids=str,
)  # fmt: skip
def test_the_metrics_are_a_count_by_hand_of_what_was_exported(changes: dict[str, Any]) -> None:
    short = {**changes, "epochs": 1, "steps_per_epoch": 1}
    phases.run_stage(**short)
    figures = read_json(Path("data/distill/metrics.json"))
    teacher = load_network(Path("teacher")).net
    assert figures["student_parameters"] == in_file(FOLDER / "weights.safetensors", STATISTICS)
    assert figures["teacher_parameters"] == in_file(Path("teacher/weights.safetensors"), STATISTICS)
    assert figures["student_multiply_adds"] == naively(load_network(FOLDER).net, phases.SIZE)
    assert figures["teacher_multiply_adds"] == naively(teacher, phases.SIZE)
    told = expected(settings_of(**short), teacher, phases.SIZE)
    assert told.metrics.items() <= figures.items(), "known before there is a single image"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("inference", ["compensated", "raw"])
def test_a_compensation_counts_where_the_student_answers_with_it(inference: str) -> None:
    phases.run_stage(**phases.DRAWN, **{"deconfound.inference": inference})
    added = in_file(FOLDER / "compensation.safetensors", DICTIONARY)
    plain = in_file(FOLDER / "weights.safetensors", STATISTICS)
    found = read_json(Path("data/distill/metrics.json"))["student_parameters"]
    assert added > 0
    assert found == plain + (added if inference == "compensated" else 0)


def test_counting_changes_nothing_that_a_training_begins_with() -> None:
    torch.manual_seed(0)
    teacher = build("resnet8", 3).eval().requires_grad_(False)
    settings = settings_of(method="simkd")
    student = build_method(settings, build(settings.student, 3), teacher, phases.SIZE).student()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    state = torch.get_rng_state()
    found = measure(student, teacher, settings, phases.SIZE)
    assert found.alone is not None, "the network alone was built, with random weights"
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    assert not teacher.training
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


# -- what is said ----------------------------------------------------------------------------------------------
def told(student: str, teacher: str, **changes: Any) -> Cost:
    return expected(settings_of(student=student, **changes), build(teacher, 3).eval(), 32)


def test_one_line_with_shares() -> None:
    student, teacher = build("resnet8", 3), build("resnet20", 3)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (student, teacher)]
    work = [naively(net, 32) for net in (student, teacher)]
    assert told("resnet8", "resnet20", method="kd").sentence == (
        f"resnet8 with kd has {sizes[0]:,} parameters ({sizes[0] / sizes[1]:.1%} of the teacher's {sizes[1]:,}) and "
        f"takes {work[0] / 1e6:.1f} million multiply-adds an image ({work[0] / work[1]:.1%} of {work[1] / 1e6:.1f})"
    )
    joined = told("resnet8", "resnet20", method="simkd").sentence
    assert joined.endswith("), projector and the teacher's classifier included")
    direct = told("resnet8", "resnet20", method="simkd", **{"simkd.projector_width": 0}).sentence
    assert direct.endswith("), the teacher's classifier included")


@pytest.mark.parametrize(
    ("student", "teacher", "method"),
    [("resnet8", "resnet20", "kd"), ("resnet8", "resnet20", "simkd"), ("resnet8", "resnet8", "kd")],
)
def test_a_student_that_is_no_larger_is_no_reason_to_warn(
    student: str, teacher: str, method: str
) -> None:
    assert told(student, teacher, method=method).warning is None


@pytest.mark.parametrize(
    ("student", "teacher", "method", "more"),
    [
        ("resnet20", "resnet8", "kd", "parameters and multiply-adds"),
        ("resnet20", "resnet8", "simkd", "parameters and multiply-adds"),
        ("mobilenetv3-small", "wrn-16-2", "kd", "parameters"),
        ("wrn-16-2", "mobilenetv3-small", "kd", "multiply-adds"),
    ],
)
def test_a_larger_or_slower_student_is_warned_of_with_what_would_help(
    student: str, teacher: str, method: str, more: str
) -> None:
    assert told(student, teacher, method=method).warning == (
        f"the student has more {more} than its teacher; name a smaller network in distill.student"
    )


@pytest.mark.parametrize("method", ["simkd", "kd3"])
def test_where_the_projector_alone_makes_it_larger_a_method_without_one_is_named(
    method: str,
) -> None:
    warning = told("resnet8", "resnet8", method=method).warning
    assert warning is not None
    assert warning.endswith("or set distill.method to kd: resnet8 without a projector has no more")


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"method": "dfnd"}, True),
        ({"method": "dfnd", "optimizer": "muon"}, False),
        ({"method": "dfnd", "student": "resnet8"}, False),
        ({"method": "dfnd", "student_weights": "known.pt"}, False),
        ({"method": "kd"}, False),
        ({"method": "simkd", "optimizer": "sgd"}, True),  # the projector's BatchNorm is no help
    ],
    ids=str,
)
def test_a_student_without_batchnorm_is_warned_of_where_sgd_trains_it_from_noise(
    changes: dict[str, Any], warned: bool
) -> None:
    plain = {"student": "torchvision:squeezenet1_1", "student_weights": None}
    warning = told(teacher="resnet18", **plain | changes).warning
    assert warned == (warning is not None and "set distill.optimizer to muon" in warning)


def test_kd3_without_the_teachers_classifier_has_no_projector() -> None:
    found = told("resnet8", "resnet8", method="kd3", **{"kd3.shared_classifier": False})
    assert found.warning is None
    assert "projector" not in found.sentence


@pytest.mark.parametrize("method", ["fast", "cmi", "deepinv"])
def test_without_statistics_of_the_teacher_they_must_not_be_asked_for(method: str) -> None:
    with pytest.raises(
        UserError, match="BatchNorm statistics, and task.teacher has none; take dafl"
    ):
        told("resnet8", "torchvision:squeezenet1_1", method=method)
    assert told(
        "resnet8", "torchvision:squeezenet1_1", method=method, **{f"{method}.statistics": 0.0}
    )


# -- where it is said ------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("method", "warned"), [("kd", False), ("simkd", True)])
def test_the_stage_says_it_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str, warned: bool
) -> None:
    """The teacher is a ResNet-8, too."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        phases.run_stage(method=method)
    shown = capsys.readouterr().err.splitlines()
    assert [
        line for line in shown if line.startswith(f"distill: student resnet8 with {method} has")
    ]
    warning = "distill: warning: the student has more parameters and multiply-adds than its teacher"
    assert any(line.startswith(warning) for line in shown) == warned
