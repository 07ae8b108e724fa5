"""The training loop: loss, schedule, resume, and what must not change."""

from __future__ import annotations

import json
import math
import re
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from stages.distill import answers
from stages.distill.loop import Run
from stages.distill.method_params import POOL_FREE
from stages.distill.methods import Batch
from stages.distill.methods import build as build_method
from stages.distill.methods.kd import kl_divergence
from stages.distill.params import Distill
from stages.distill.rate import rate_factor
from tests.stages.short_runs import check_resume, train
from webdistill.core.errors import UserError
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[2]
METHODS = get_args(Distill.model_fields["method"].annotation)

SETTINGS = {
    "student": "resnet8", "epochs": 4, "batch_size": 8, "lr": 0.05, "warmup_epochs": 1.0,
    "weight_decay": 1e-3, "mixup": 0.2, "views": 2, "precision": "float32", "device": "cpu",
    "augkd.latent": 8, "augkd.free_epochs": 1, "augkd.anchor_epochs": 1, "dafl.latent": 8,
    **{f"{name}.{key}": value for name in ("fast", "cmi", "deepinv") for key, value in
       {"images": 12, "steps": 2, "warmup": 1, "store": 30}.items()},
}  # fmt: skip


def make(size: int = 16, **changes: Any) -> Run:
    if changes.get("method") in ("augkd", "supervised"):  # learn classes, which no mixture has
        changes["mixup"] = 0.0
    if changes.get("method") in POOL_FREE:  # which count their steps otherwise
        changes = {"steps_per_epoch": 2, **changes}
    overrides = [f"distill.{k}={json.dumps(v)}" for k, v in (SETTINGS | changes).items()]
    settings = load(ROOT / "params.yaml", overrides).sections["distill"]
    assert isinstance(settings, Distill)
    torch.manual_seed(0)
    pool = torch.randint(0, 256, (21, size, size, 3), dtype=torch.uint8)
    teacher = build("resnet8", 3).eval().requires_grad_(False)
    with torch.no_grad():
        teacher.fc.weight.mul_(30)
    views = Views(
        pool,
        (0.5, 0.5, 0.5),
        (0.25, 0.25, 0.25),
        seed=1,
        min_scale=settings.min_scale,
        mixup=settings.mixup,
        shift=settings.shift,
    )
    return Run(
        settings=settings,
        seed=1,
        views=views,
        teacher=teacher,
        method=build_method(settings, build(settings.student, 3), teacher, size),
        weight=torch.ones(21),
        ids=[f"image{i}" for i in range(21)],
        classes=("a", "b", "c"),
        labels=torch.arange(21) % 3,
    )


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
    assert rate_factor(0, 100, 10, "cosine") == pytest.approx(0.1)
    assert rate_factor(9, 100, 10, "cosine") == 1.0
    assert rate_factor(10, 100, 10, "cosine") == 1.0
    assert rate_factor(55, 100, 10, "cosine") == pytest.approx(0.5)
    assert rate_factor(100, 100, 10, "cosine") == pytest.approx(0)
    assert rate_factor(0, 100, 0, "cosine") == 1.0


def test_rate_falls_in_three_steps_as_published() -> None:
    falls = [step for step in range(1, 240) if _steps(step) < _steps(step - 1)]
    assert falls == [150, 180, 210]
    assert _steps(239) == pytest.approx(1e-3)


def _steps(step: int) -> float:
    return rate_factor(step, 240, 0, "steps")


@pytest.mark.parametrize(("killed_after", "precision"), [(1, "float32"), (3, "bfloat16")])
def test_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, killed_after: int, precision: str
) -> None:
    check_resume(lambda: make(precision=precision), tmp_path, killed_after, 4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_resumes_bit_for_bit(tmp_path: Path, method: str) -> None:
    check_resume(lambda: make(method=method, **{"kd3.reselect_every": 3}), tmp_path, 2, 4)


@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_is_byte_equal_after_training_and_the_student_is_not(method: str) -> None:
    run = make(method=method)
    before = {k: v.clone() for k, v in run.teacher.state_dict().items()}
    student = {k: v.clone() for k, v in run.method.student().state_dict().items()}
    train(run, 2)
    assert not run.teacher.training
    for name, tensor in run.teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    after = run.method.student().state_dict()
    assert any(not torch.equal(v, student[k]) for k, v in after.items())


@pytest.mark.parametrize("method", METHODS)
def test_a_student_holds_no_more_of_the_teacher_than_it_should(method: str) -> None:
    run = make(method=method)
    own = [id(p) for p in run.method.parameters()]
    assert not {id(p) for p in run.teacher.parameters()} & set(own)
    names = run.method.student().state_dict()
    assert not [name for name in names if "teacher" in name or "head" in name]


def test_the_loss_falls() -> None:
    run = make(epochs=30, mixup=0.0)
    train(run, 30)
    assert run.rows[-1]["loss"] < 0.5 * run.rows[0]["loss"]


@pytest.mark.parametrize("method", ["kd", "simkd"])
def test_a_view_that_comes_again_is_answered_once(method: str) -> None:
    run = make(method=method, epochs=6)
    asked = count_questions(run)
    train(run, 6)
    assert (
        sum(asked) == 2 * 21 + 8
    )  # two views of the whole pool, and the batch that tells the size
    rows = torch.arange(21)
    known, images = run.feed.answers.kept[1], run.views(1, rows)
    with torch.no_grad():
        wanted = run.teacher.features(images)
    torch.testing.assert_close(known.logits, run.teacher.classify(wanted), atol=1e-4, rtol=1e-4)
    if method == "simkd":
        assert isinstance(known.maps, torch.Tensor)
        assert known.maps.dtype == torch.bfloat16
        torch.testing.assert_close(known.maps.float(), wanted, atol=1e-4, rtol=2**-8)
        given = run.feed.answers(1, rows[5:8], images[5:8])
        assert given.maps is not None
        torch.testing.assert_close(given.maps, wanted[5:8], atol=1e-4, rtol=2**-8)
    else:
        assert known.maps is None


def test_answers_that_do_not_fit_are_given_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = make(method="simkd", mixup=0.0)
    train(kept, 4)
    monkeypatch.setattr(answers, "LIMIT", 1000)
    run = make(method="simkd", mixup=0.0)
    asked = count_questions(run)
    train(run, 4)
    assert sum(asked) == 4 * 16
    assert not run.feed.answers.kept
    assert run.rows[-1]["loss"] == pytest.approx(kept.rows[-1]["loss"], rel=1e-2)


def count_questions(run: Run) -> list[int]:
    asked: list[int] = []
    forward = run.feed.answers.forward

    def counted(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(len(images))
        return forward(images)

    run.feed.answers.forward = counted
    return asked


def test_a_cycle_of_views_changes_nothing_until_it_repeats() -> None:
    cycled, fresh = make(method="kd", views=3), make(method="kd", views=0)
    train(cycled, 4)
    train(fresh, 4)
    for one, other in zip(cycled.rows[:3], fresh.rows[:3], strict=True):
        assert one == pytest.approx(other, rel=1e-3)  # answered in other batches: up to rounding
    assert cycled.rows[3]["loss"] != pytest.approx(fresh.rows[3]["loss"], rel=1e-3)
    assert len(cycled.feed.answers.kept) == 3
    assert not fresh.feed.answers.kept


def test_views_that_do_not_come_again_are_answered_batch_by_batch() -> None:
    run = make(views=4)
    asked = count_questions(run)
    train(run, 4)
    assert sum(asked) == 4 * 16
    assert not run.feed.answers.kept


@pytest.mark.parametrize(("steps", "size"), [(1, 8), (2, 8), (6, 8), (2, 16)])
def test_a_loss_that_is_not_finite_stops_within_a_step_and_names_its_images(
    steps: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(steps_per_epoch=steps, batch_size=size)
    run.weight[5] = math.nan
    asked: list[list[int]] = []
    batch = run.feed.batch

    def noted(view: int, rows: torch.Tensor, *others: Any) -> Batch:
        asked.append(rows.tolist())
        return batch(view, rows, *others)

    monkeypatch.setattr(run.feed, "batch", noted)
    with pytest.raises(UserError, match=r"not finite; lower distill\.lr") as error:
        list(chain.from_iterable(run.epoch(number) for number in range(100)))
    first = next(place for place, rows in enumerate(asked) if 5 in rows)
    assert len(asked[first]) == size
    named = re.findall(r"'image(\d+)'", str(error.value))
    assert [int(row) for row in named] == asked[first][:8]
    assert (
        len(asked) <= first + 2
    )  # the step after it may have begun, for which a GPU need not wait
    assert len(run.rows) == first // steps  # no later epoch counts as finished, so none is saved


def test_a_last_step_that_ruins_the_student_is_told_like_a_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No later loss would show it: the training would end, and a student of no numbers be exported."""
    run = make(steps_per_epoch=1, batch_size=8)
    step = run.descent.step

    def ruinous(loss: torch.Tensor) -> None:
        step(loss)
        next(iter(run.method.student().parameters())).data.fill_(math.nan)

    monkeypatch.setattr(run.descent, "step", ruinous)
    with pytest.raises(UserError, match=r"student is not finite after an epoch; lower distill\.lr"):
        list(run.epoch(0))
    assert not run.rows
    with pytest.raises(UserError, match="student is not finite"):  # of finite weights
        run.watch.whole(run.teacher, {"holdout_kl": math.inf})


def test_an_epoch_has_as_many_steps_as_asked_whatever_is_kept() -> None:
    run = make(method="dfnd", steps_per_epoch=5, **{"dfnd.keep": 0.2})
    assert sum(run.epoch(0)) == 5 * 8
    assert len(run.kept) == 4
    assert run.feed.passes == 10  # 40 images from passes over 4
    assert sum(run.epoch(1)) == 5 * 8


def test_a_pass_shows_every_kept_image_once() -> None:
    run = make(method="kd", batch_size=7)
    batches = list(run.feed.order(run.kept, 3, np.random.default_rng(0)))
    assert sorted(torch.cat([rows for _, rows in batches]).tolist()) == list(range(21))
    assert {view for view, _ in batches} == {0}


def test_a_batch_larger_than_the_selection_is_refused() -> None:
    with pytest.raises(UserError, match="distill.batch_size = 22"):
        make(batch_size=22)


def test_selection_weights_reach_the_loss() -> None:
    heavy, plain = make(), make()
    heavy.weight.copy_(torch.linspace(0, 2, 21))
    train(heavy, 1)
    train(plain, 1)
    assert heavy.rows[0]["loss"] != plain.rows[0]["loss"]
