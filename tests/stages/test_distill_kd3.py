"""KD3 and SimKD against closed forms and naive loops (methods: arXiv 2307.11469, 2203.14001)."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from stages.distill.methods import Pool
from stages.distill.methods.dfnd import noisy_label_loss
from stages.distill.methods.kd3 import (
    Kd3,
    disagreement_weight,
    draw_mixture,
    mix_distribution,
    nt_xent,
)
from stages.distill.methods.simkd import feature_loss
from stages.distill.selection import cutoffs, mixed_confidence, mixing_weight
from tests.stages.feature_methods import (
    NO_LABELS,
    batch,
    make_run,
    networks,
)
from webdistill.core.errors import UserError
from webdistill.models.cost import parameters
from webdistill.models.projected import Projected, inner_width
from webdistill.models.zoo import build


# -- dynamic selection -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("epoch", "value"),
    [(1, 0.9924), (20, 0.977), (60, 0.8525), (100, 0.493), (119, 0.2684), (120, 0), (239, 0)],
)
def test_mixing_weight_has_the_published_values(epoch: int, value: float) -> None:
    assert mixing_weight(epoch, 240, "drop") == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("epochs", [2, 5, 10, 60])
def test_mixing_weight_goes_by_the_fraction_of_the_run(epochs: int) -> None:
    """A short run has the published curve, sampled at its own epochs; the first choice is the teacher's."""
    for tail in ("drop", "continuous"):
        found = [mixing_weight(epoch, epochs, tail) for epoch in range(epochs)]
        assert found == pytest.approx(
            [mixing_weight(epoch * 240 // epochs, 240, tail) for epoch in range(epochs)]
        )
        assert found[0] == pytest.approx(0.9929, abs=5e-4)
    if epochs == 10:
        assert found[:5] == pytest.approx([0.993, 0.972, 0.910, 0.772, 0.539], abs=1e-3)


def test_the_continuous_tail_agrees_up_to_half_and_reaches_zero_without_a_jump() -> None:
    for epoch in range(120):
        assert mixing_weight(epoch, 240, "continuous") == mixing_weight(epoch, 240, "drop")
    tail = [mixing_weight(epoch, 240, "continuous") for epoch in range(119, 240)]
    assert max(a - b for a, b in pairwise(tail)) < 0.02
    assert tail[40] == pytest.approx(0, abs=1e-3)
    assert tail[-1] == 0


def test_cutoffs_follow_the_formula() -> None:
    pseudo_class = torch.tensor([0] * 10 + [1] * 5 + [2])
    limits = cutoffs(pseudo_class, 4).tolist()
    assert limits == pytest.approx([0.95, 0.95 * 0.5 / 1.5, 0.95 * 0.1 / 1.9, 0.0])
    assert limits[1] == pytest.approx(0.3167, abs=1e-4)


def test_confidence_is_that_of_the_mixed_logits() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(5, 3), torch.randn(5, 3)
    confidence, pseudo_class = mixed_confidence(teacher, student, 0.3)
    for i in range(5):
        z = [
            0.3 * t + 0.7 * s for t, s in zip(teacher[i].tolist(), student[i].tolist(), strict=True)
        ]
        p = [math.exp(v) / sum(math.exp(u) for u in z) for v in z]
        assert float(confidence[i]) == pytest.approx(max(p), abs=1e-6)
        assert int(pseudo_class[i]) == p.index(max(p))


def test_kd3_keeps_what_passes_the_cutoff_of_its_class() -> None:
    method, _, _ = networks()
    sure = torch.tensor([[9.0, 0, 0]] * 4 + [[1.0, 0, 0]] * 2 + [[0, 0.4, 0]] * 2)
    pool = Pool(lambda: (sure, sure), lambda: torch.zeros(8, 3), lambda _: 1.0, NO_LABELS[:8])
    choice = method.select(pool, 0, 240)
    assert choice is not None
    # class 0: six images, cutoff .95, only the sure ones; class 1: b = 1/3, cutoff .19, below 1/K: all
    assert choice.keep.tolist() == [True] * 4 + [False] * 2 + [True] * 2


def test_reselect_every_and_the_switch() -> None:
    def made(**changes: Any) -> list[bool]:
        method, _, _ = networks(**changes)
        logits = torch.randn(8, 3)
        pool = Pool(lambda: (logits, logits), lambda: logits, lambda _: 1.0, NO_LABELS[:8])
        return [method.select(pool, epoch, 10) is not None for epoch in range(6)]

    assert made(**{"kd3.reselect_every": 1}) == [True] * 6
    assert made(**{"kd3.reselect_every": 5}) == [True, False, False, False, False, True]
    assert made(**{"kd3.selection": False}) == [False] * 6


def test_the_tail_decides_whether_the_teacher_has_a_say_after_half_the_epochs() -> None:
    sure = torch.eye(3).repeat(4, 1) * 500

    def kept(tail: str) -> int:
        method, _, _ = networks(**{"kd3.alpha_tail": tail})
        pool = Pool(lambda: (sure, sure), lambda: torch.zeros(12, 3), lambda _: 1.0, NO_LABELS[:12])
        choice = method.select(pool, 6, 12)
        assert choice is not None
        return int(choice.keep.sum())

    assert kept("drop") == 0  # a student without opinion, asked alone
    assert kept("continuous") == 12


def test_a_choice_of_nothing_keeps_the_images_of_before_and_is_counted() -> None:
    run = make_run(epochs=12, **{"kd3.reselect_every": 1})
    list(run.epoch(0))
    kept = run.kept.tolist()
    torch.nn.init.zeros_(run.teacher.fc.weight)
    flat = torch.zeros(40, 3)
    run.pool = Pool(lambda: (flat, flat), lambda: flat, lambda _: 1.0, NO_LABELS)
    list(run.epoch(1))
    assert run.kept.tolist() == kept
    assert run.history.empty == 1
    assert len(run.history.rows) == 1


def test_a_first_choice_of_nothing_stops_with_one_line() -> None:
    run, flat = make_run(), torch.zeros(40, 3)
    run.pool = Pool(lambda: (flat, flat), lambda: flat, lambda _: 1.0, NO_LABELS)
    with pytest.raises(UserError, match="distill.method = kd3 kept none of 40 images"):
        list(run.epoch(0))


# -- weighted features, shared classifier ------------------------------------------------------------------
@pytest.mark.parametrize("side", [4, 2])
def test_feature_loss_equals_the_naive_loop(side: int) -> None:
    torch.manual_seed(2)
    student, teacher = torch.randn(3, 5, side, side), torch.randn(3, 5, 4, 4)
    weight = torch.rand(3)
    total, count, ratio = 0.0, 0, 4 // side
    for i in range(3):
        for c in range(5):
            for y in range(side):
                for x in range(side):
                    window = teacher[i, c, y * ratio : (y + 1) * ratio, x * ratio : (x + 1) * ratio]
                    difference = float(student[i, c, y, x]) - float(window.double().mean())
                    total += float(weight[i]) * difference**2
                    count += 1
    assert float(feature_loss(student, teacher, weight)) == pytest.approx(total / count, abs=1e-6)


def test_weight_is_the_sigmoid_of_the_distance_and_has_no_gradient() -> None:
    student = torch.tensor([[3.0, 0.0], [0.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 4.0], [0.0, 1.0]])
    weight = disagreement_weight(student, teacher, "disagreement")
    assert weight.tolist() == pytest.approx([1 / (1 + math.exp(-5)), 0.5])
    assert not weight.requires_grad
    mirrored = disagreement_weight(student, teacher, "agreement")
    assert (weight + mirrored).tolist() == pytest.approx([1.5, 1.5])
    assert disagreement_weight(student, teacher, "none").tolist() == [1.0, 1.0]
    # distances 5 and 0: one deviation above and below their mean
    relative = [2 / (1 + math.exp(-1)), 2 / (1 + math.exp(1))]
    standardised = disagreement_weight(student, teacher, "standardised")
    assert standardised.tolist() == pytest.approx(relative)
    assert disagreement_weight(student, student, "standardised").tolist() == [1.0, 1.0]


@pytest.mark.parametrize("shared", [True, False])
def test_each_weighting_gives_another_loss(shared: bool) -> None:
    """Of images whose logits are near the teacher's: far from them the sigmoid is 1."""

    def loss(weighting: str) -> float:
        method, teacher, _ = networks(
            **{"kd3.weighting": weighting, "kd3.shared_classifier": shared}
        )
        plain = batch(teacher)
        with torch.no_grad():
            near = method.eval().student()(plain.images) + torch.rand(6, 3) * 2
            losses, _ = method.losses(replace(plain, teacher_logits=near))
        return float(losses["features" if shared else "kd"])

    assert loss("agreement") < loss("none")
    assert loss("disagreement") < loss("none")
    assert len({loss(each) for each in ("agreement", "disagreement", "standardised", "none")}) == 4


def test_gradient_reaches_projector_backbone_and_heads_but_no_teacher() -> None:
    method, teacher, _ = networks()
    losses, _ = method.train().losses(batch(teacher))
    torch.stack(list(losses.values())).sum().backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert {
        "net.projector.0.weight",
        "net.projector.6.weight",
        "net.backbone.conv1.weight",
    } <= reached
    assert {"head.weight", "teacher_head.weight"} <= reached
    assert not {"net.fc.weight", "net.fc.bias"} & reached
    assert all(p.grad is None for p in teacher.parameters())


def test_the_student_ends_in_the_teachers_classifier_and_holds_nothing_else_of_it() -> None:
    method, teacher, _ = networks()
    student = method.student()
    assert isinstance(student, Projected)
    torch.testing.assert_close(student.fc.weight, teacher.fc.weight)
    assert student.fc.weight.data_ptr() != teacher.fc.weight.data_ptr()
    plain = build("resnet8", 3)
    convs = 64 * 32 + 32 * 32 * 9 + 32 * 64  # 1x1, 3x3, 1x1 for 64 -> 64 channels
    norms = 2 * (32 + 32 + 64)
    assert parameters(student) == parameters(plain) + convs + norms


def test_projector_of_the_paper_has_851968_convolution_weights() -> None:
    from webdistill.models.projected import projector

    convolutions = [
        m
        for m in projector(512, 512, inner_width(512, 512, 11_000_000))
        if isinstance(m, torch.nn.Conv2d)
    ]
    assert sum(m.weight.numel() for m in convolutions) == 851_968
    assert all(m.bias is None for m in convolutions)


def test_a_student_that_matches_the_teachers_maps_has_no_feature_loss() -> None:
    _, teacher, _ = networks()
    found = batch(teacher)
    assert found.teacher_maps is not None
    assert float(feature_loss(found.teacher_maps, found.teacher_maps, torch.ones(6))) == 0


# -- MixDistribution ---------------------------------------------------------------------------------------
def test_output_statistics_are_the_mixed_ones() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64) * 3 + 1
    share, partner = torch.tensor([0.0, 0.25, 0.5, 1.0]).double(), torch.tensor([1, 2, 3, 0])
    out = mix_distribution(images, share, partner)
    for i in range(4):
        for c in range(3):
            own, other = images[i, c], images[partner[i], c]
            wanted = share[i] * own.mean() + (1 - share[i]) * other.mean()
            assert float(out[i, c].mean()) == pytest.approx(float(wanted), abs=1e-9)
            spread = share[i] * own.std(correction=0) + (1 - share[i]) * other.std(correction=0)
            assert float(out[i, c].std(correction=0)) == pytest.approx(float(spread), abs=1e-5)


def test_share_one_is_the_identity() -> None:
    images = torch.randn(4, 3, 8, 8)
    out = mix_distribution(images, torch.ones(4), torch.tensor([1, 2, 3, 0]))
    torch.testing.assert_close(out, images)


def test_a_flat_image_stays_finite() -> None:
    images = torch.cat([torch.zeros(1, 3, 8, 8), torch.randn(1, 3, 8, 8)])
    assert mix_distribution(images, torch.tensor([0.5, 0.5]), torch.tensor([1, 0])).isfinite().all()


def test_running_statistics_are_those_of_the_images_alone() -> None:
    found = {}
    for switch in (True, False):
        method, teacher, _ = networks(**{"kd3.mixdistribution": switch})
        method.train().losses(batch(teacher))
        found[switch] = method.student().get_buffer("backbone.bn1.running_mean").clone()
    assert torch.equal(found[True], found[False])


def test_shares_follow_beta_and_partners_are_a_permutation() -> None:
    share, partner = draw_mixture(np.random.default_rng(0), 20_000, torch.device("cpu"))
    assert sorted(partner.tolist()) == list(range(20_000))
    assert float(share.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(share.var()) == pytest.approx(0.25 / 1.2, abs=0.01)  # ab / ((a + b)^2 (a + b + 1))


@pytest.mark.parametrize("count", [2, 5])
def test_nt_xent_of_equal_pairs_with_orthogonal_negatives(count: int) -> None:
    views = torch.eye(count)
    wanted = -math.log(math.exp(1 / 0.3) / (math.exp(1 / 0.3) + 2 * count - 2))
    assert float(nt_xent(views, views, 0.3)) == pytest.approx(wanted, abs=1e-6)


def test_nt_xent_equals_the_naive_loop() -> None:
    torch.manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(4, 6), dim=1) for _ in range(2))
    views = torch.cat([first, second]).double()
    total = 0.0
    for i in range(8):
        scores = [float(views[i] @ views[j]) / 0.5 for j in range(8) if j != i]
        positive = float(views[i] @ views[(i + 4) % 8]) / 0.5
        total -= positive - math.log(sum(math.exp(s) for s in scores))
    assert float(nt_xent(first, second, 0.5)) == pytest.approx(total / 8, abs=1e-6)


# -- every switch changes what is learned ------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "simkd"},
        {"method": "dfnd"},
        {"method": "dfnd", "dfnd.keep": 0.3},
        {"method": "dfnd", "dfnd.teacher_accuracy": 0.5},
        {"kd3.selection": False},
        {"kd3.reselect_every": 2},
        {"kd3.shared_classifier": False},
        {"kd3.weighting": "agreement"},
        {"kd3.mixdistribution": False},
        {"kd3.contrast": "student"},
        {"kd3.contrast_weight": 0.5},
        {"kd3.contrast_share": 1.0},
        {"kd3.kl": 0.5},
        {"steps_per_epoch": 3},
        {"decay": "steps"},
        {"kd3.shared_classifier": False, "temperature": 2.0},
        {"kd3.shared_classifier": False, "kd3.contrast": "student"},
    ],
    ids=str,
)
def test_every_option_changes_the_student(changes: dict[str, Any]) -> None:
    base = {k: v for k, v in changes.items() if k in ("method", "kd3.shared_classifier")}
    if base == changes:
        base = {}
    assert not torch.equal(plain(tuple(base.items())), trained(**changes))


@functools.cache
def plain(base: tuple[tuple[str, Any], ...]) -> torch.Tensor:
    return trained(**dict(base))


def trained(**changes: Any) -> torch.Tensor:
    run = make_run(epochs=6, **changes)
    for number in range(6):
        list(run.epoch(number))
    net = run.method.student()
    backbone = net.backbone if isinstance(net, Projected) else net
    return backbone.get_parameter("conv1.weight").detach().clone()


# -- low precision -----------------------------------------------------------------------------------------
def test_losses_that_need_float32_get_it_inside_autocast() -> None:
    torch.manual_seed(0)
    student, labels, weight = torch.randn(8, 5), torch.arange(8) % 5, torch.rand(8)
    matrix = torch.softmax(torch.randn(5, 5), 1)
    pair = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)

    def found(low: bool) -> list[torch.Tensor]:
        own, first = student.clone().requires_grad_(), pair.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            noisy = noisy_label_loss(own, labels, matrix, weight)
            contrast = nt_xent(first, pair.flip(1), 0.3)
        return [noisy, contrast, *torch.autograd.grad(noisy + contrast, [own, first])]

    for low, full in zip(found(True), found(False), strict=True):
        torch.testing.assert_close(low.detach(), full.detach(), rtol=1e-6, atol=1e-7)


def test_kd3_is_what_the_parameters_name() -> None:
    method, _, _ = networks()
    assert isinstance(method, Kd3)
    assert method.needs_maps
    bare, _, _ = networks(**{"kd3.shared_classifier": False, "kd3.contrast": "student"})
    assert not bare.needs_maps
    assert not isinstance(bare.student(), Projected)
