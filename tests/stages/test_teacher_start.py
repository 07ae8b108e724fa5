"""`distill.student_weights: teacher` and `auto`: a student that is a part of its teacher starts from that part."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from stages.distill.start import starts_fresh, thinned
from tests.stages import test_distill_phases as phases
from tests.stages.test_student_weights import check_equal, student_of
from webdistill.core.errors import UserError
from webdistill.core.files import read_json
from webdistill.models.checkpoint import weights
from webdistill.models.projected import Projected
from webdistill.models.zoo import build

finished, project = phases.finished, phases.project
pytestmark = pytest.mark.usefixtures("project")


def test_the_strongest_channels_of_the_teacher_are_the_same_in_every_layer() -> None:
    own = weights(build("wrn-16-1", 3, 64))
    torch.manual_seed(7)
    theirs = {
        name: each + torch.rand(len(each)).view(-1, *[1] * (each.ndim - 1))
        for name, each in weights(build("wrn-40-3", 3, 64)).items()
    }
    strongest: dict[int, list[int]] = {}
    for of, count in ((48, 16), (96, 32), (192, 64)):
        strength = [0.0] * of
        for name, part in own.items():
            for axis in (0, 1) if part.ndim > 1 else ():
                if theirs[name].shape[axis] == of:
                    whole = theirs[name].double()
                    for channel in range(of):
                        norm = whole.select(axis, channel).norm() / whole.norm()
                        strength[channel] += float(norm**2)
        strongest[of] = sorted(sorted(range(of), key=lambda channel: -strength[channel])[:count])
        assert strongest[of] != list(range(count))
    found = thinned(own, theirs)
    assert found.keys() == own.keys()
    for name, part in found.items():
        wanted = theirs[name]
        for axis, of in enumerate(wanted.shape):
            if part.shape[axis] < of:
                wanted = wanted.index_select(axis, torch.tensor(strongest[of]))
        assert torch.equal(part, wanted), name


def test_what_has_other_kernels_or_more_channels_is_no_part() -> None:
    theirs = {"a": torch.zeros(4, 4, 3, 3), "b": torch.zeros(4), "c": torch.zeros(2, 2)}
    own = {
        "a": torch.zeros(2, 2, 1, 1),
        "b": torch.zeros(5),
        "c": torch.zeros(2),
        "d": torch.zeros(1),
    }
    assert thinned(own, theirs) == {}


def test_a_layer_of_zeros_and_a_width_of_vectors_alone_are_no_obstacle() -> None:
    theirs = {
        "a": torch.zeros(4, 3),
        "b": torch.arange(6.0),
        "c": torch.tensor([[0.0], [1], [9], [2]]),
    }
    found = thinned({"a": torch.ones(2, 3), "b": torch.ones(2), "c": torch.ones(2, 1)}, theirs)
    assert torch.equal(found["a"], torch.zeros(2, 3))
    assert found["b"].tolist() == [0, 1]
    assert found["c"].flatten().tolist() == [9, 2]


@pytest.mark.parametrize(
    ("method", "named", "given"),
    [
        ("simkd", "auto", True),
        ("kd3", "auto", True),
        ("kd", "auto", False),
        ("kd", "teacher", True),
    ],
)
def test_auto_takes_the_teachers_channels_where_the_student_has_its_classifier_anyway(
    method: str, named: str, given: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = phases.stage_of(method=method, student_weights=named)
    prepared = phases.prepared(stage)
    student = prepared.run.method.student()
    own = student.backbone if isinstance(student, Projected) else student
    theirs = weights(prepared.run.teacher)
    same = [torch.equal(each, theirs[name]) for name, each in weights(own).items()]
    assert all(same) == given
    said = f"{stage.params.student} starts from the strongest channels of its teacher"
    assert (said in capsys.readouterr().err) == given
    assert (prepared.start is not None) == given
    fresh = starts_fresh(stage.params, prepared.run.teacher, stage.task.image_size)
    assert fresh == (not given)


def test_a_student_that_is_no_part_of_its_teacher_starts_fresh_or_says_why_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = {"method": "simkd", "student": "resnet14"}
    begun, fresh = (student_of(**other, student_weights=named) for named in ("auto", None))
    stage = phases.stage_of(**other, student_weights="auto")
    assert starts_fresh(stage.params, build("resnet8", 3, 32), 32)
    check_equal(begun, weights(fresh), ())
    assert (
        "resnet14 starts fresh: it is no part of its teacher resnet8 in " in capsys.readouterr().err
    )
    with pytest.raises(
        UserError, match=r"student_weights = teacher, but resnet14 is no part"
    ) as error:
        student_of(**other, student_weights="teacher")
    assert "\n" not in str(error.value)


def test_the_card_names_the_teacher() -> None:
    phases.run_stage(method="simkd", student_weights="auto")
    card = read_json(Path("data/distill/student/config.json"))
    assert re.search(r"started from its teacher resnet8 [0-9a-f]{16}, ", card["trained_on"])
