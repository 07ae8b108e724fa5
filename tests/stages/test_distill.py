"""The training loop: loss, schedule, resume, and what must not change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.distill.loop import Run, rate_factor
from stages.distill.methods import build as build_method
from stages.distill.methods.kd import kl_divergence
from stages.distill.params import Distill
from webdistill.core.errors import UserError
from webdistill.images.views import Views
from webdistill.models.zoo import build

SETTINGS = {
    "method": "kd", "student": "resnet8", "epochs": 4, "batch_size": 8, "lr": 0.05, "warmup_epochs": 1.0,
    "weight_decay": 1e-3, "temperature": 4.0, "min_scale": 0.5, "mixup": 0.2, "views": 2,
    "precision": "float32", "device": "cpu",
}  # fmt: skip


def make(**changes: Any) -> Run:
    settings = Distill(**(SETTINGS | changes))
    torch.manual_seed(0)
    pool = torch.randint(0, 256, (21, 16, 16, 3), dtype=torch.uint8)
    teacher = build("resnet8", 3).eval().requires_grad_(False)
    with torch.no_grad():
        teacher.fc.weight.mul_(4)
    views = Views(
        pool,
        (0.5, 0.5, 0.5),
        (0.25, 0.25, 0.25),
        seed=1,
        min_scale=settings.min_scale,
        mixup=settings.mixup,
    )
    return Run(
        settings=settings,
        seed=1,
        views=views,
        teacher=teacher,
        method=build_method(settings, build(settings.student, 3)),
        weight=torch.ones(21),
        ids=[f"image{i}" for i in range(21)],
    )


def train(run: Run, start: int, stop: int) -> None:
    for number in range(start, stop):
        assert sum(run.epoch(number)) == 16


def state(run: Run) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.method.trained().state_dict().items()}


def test_kl_divergence_equals_the_naive_loop() -> None:
    torch.manual_seed(1)
    student, teacher = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    weight = torch.rand(5).double()
    total = 0.0
    for i in range(5):
        p = [math.exp(t / 3) for t in teacher[i].tolist()]
        q = [math.exp(s / 3) for s in student[i].tolist()]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += float(weight[i]) * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(kl_divergence(student, teacher, 3.0, weight)) == pytest.approx(
        9 * total / 5, abs=1e-12
    )


def test_kl_divergence_of_equal_answers_is_zero_and_has_no_gradient() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = kl_divergence(logits, logits.detach(), 4.0, torch.ones(3))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6


def test_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    assert rate_factor(0, 100, 10) == pytest.approx(0.1)
    assert rate_factor(9, 100, 10) == 1.0
    assert rate_factor(10, 100, 10) == 1.0
    assert rate_factor(55, 100, 10) == pytest.approx(0.5)
    assert rate_factor(100, 100, 10) == pytest.approx(0)
    assert rate_factor(0, 100, 0) == 1.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, killed_after: int, precision: str
) -> None:
    whole = make(precision=precision)
    train(whole, 0, 4)
    first = make(precision=precision)
    train(first, 0, killed_after)
    first.save(tmp_path / "state.pt")
    second = make(precision=precision)
    for parameter in second.method.trained().parameters():
        torch.nn.init.zeros_(parameter)
    done = second.restore(tmp_path / "state.pt")
    assert done == killed_after
    train(second, done, 4)
    assert second.rows == whole.rows
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(second)[name]), name


def test_the_teacher_is_byte_equal_after_training_and_the_student_is_not() -> None:
    run = make()
    before = {k: v.clone() for k, v in run.teacher.state_dict().items()}
    student = state(run)
    train(run, 0, 2)
    for name, tensor in run.teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert any(not torch.equal(v, student[k]) for k, v in state(run).items())


def test_the_loss_falls() -> None:
    run = make(epochs=30, mixup=0.0)
    train(run, 0, 30)
    assert run.rows[-1]["loss"] < 0.5 * run.rows[0]["loss"]


def test_the_bank_holds_the_teachers_answers_to_these_very_views() -> None:
    run = make(epochs=2)
    train(run, 0, 2)
    answered = ~run.bank[1].isnan().any(1)
    assert int(answered.sum()) == 16
    with torch.no_grad():
        wanted = run.teacher(run.views(1, torch.arange(21)))
    torch.testing.assert_close(run.bank[1][answered], wanted[answered], atol=1e-5, rtol=1e-5)


def test_a_cycle_of_views_changes_nothing_until_it_repeats() -> None:
    cycled, fresh = make(views=4), make(views=0)
    train(cycled, 0, 4)
    train(fresh, 0, 4)
    assert cycled.rows == fresh.rows
    assert not fresh.bank


def test_a_loss_that_is_not_finite_stops_at_once_and_names_images() -> None:
    run = make()
    with torch.no_grad():
        run.teacher.fc.bias.fill_(math.nan)
    with pytest.raises(UserError, match=r"not finite.*image\d"):
        train(run, 0, 1)


def test_a_batch_larger_than_the_selection_is_refused() -> None:
    with pytest.raises(UserError, match="distill.batch_size = 22"):
        make(batch_size=22)


def test_selection_weights_reach_the_loss() -> None:
    heavy, plain = make(), make()
    heavy.weight = torch.linspace(0, 2, 21)
    train(heavy, 0, 1)
    train(plain, 0, 1)
    assert heavy.rows[0]["loss"] != plain.rows[0]["loss"]
