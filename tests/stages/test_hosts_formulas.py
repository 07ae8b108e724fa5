"""Formulas of DAFL, Fast, CMI and DeepInversion against naive loops, and where their images are kept."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from stages.distill.methods.cmi import contrast_loss
from stages.distill.methods.dafl import Dafl, activation_loss
from stages.distill.methods.deepinv import disagreement, variation
from stages.distill.methods.fast import Fast, MetaAdam
from stages.distill.methods.statistics import Memory, statistics_gap
from stages.distill.methods.synthesis import RANGE, Best, Store, decided_adversary, moved
from tests.stages.pool_free import (
    SIZE,
    make,
    synthesis,
)


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


# -- formulas --------------------------------------------------------------------------------------------------
def test_the_adversary_counts_images_on_which_both_decide_alike_and_is_not_zero() -> None:
    """Released: the teacher was passed as the student, so the term was zero for all images."""
    teacher = torch.tensor(
        [[3.0, 0.0, 1.0], [0.0, 2.0, 1.0], [1.0, 0.5, 0.0], [0.0, 0.1, 4.0]]
    ).double()
    student = torch.tensor(
        [[1.0, 0.0, 0.5], [2.0, 1.0, 1.0], [2.0, 0.0, 0.0], [0.0, 3.0, 1.0]]
    ).double()
    pairs = list(zip(teacher.tolist(), student.tolist(), strict=True))
    told = [divergence(softmax(t), softmax(s)) for t, s in pairs]
    wanted = -(told[0] + told[2]) / 4  # the first and the third image
    found = decided_adversary(student, teacher)
    assert float(found) == pytest.approx(wanted, abs=1e-9)
    assert wanted < -0.01
    assert float(decided_adversary(teacher, teacher)) == pytest.approx(0, abs=1e-9)


def test_disagreement_is_one_minus_the_jensen_shannon_divergence() -> None:
    torch.manual_seed(0)
    student, teacher = 4 * torch.randn(5, 4).double(), 4 * torch.randn(5, 4).double()
    total = 0.0
    for t, s in zip(teacher.tolist(), student.tolist(), strict=True):
        p, q = softmax([each / 3 for each in t]), softmax([each / 3 for each in s])
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        total += (divergence(p, middle) + divergence(q, middle)) / 2 / 5
    assert float(disagreement(student, teacher)) == pytest.approx(1 - total, abs=1e-9)


def test_variation_equals_the_naive_loops() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4, 5).double()
    total = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        squares = 0.0
        for image in images.tolist():
            for channel in image:
                for y in range(4 - down):
                    for x in range(max(0, -right), 5 - max(0, right)):
                        squares += (channel[y][x] - channel[y + down][x + right]) ** 2
        total += math.sqrt(squares)
    assert float(variation(images)) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("stored", [0, 5])
def test_contrast_equals_the_naive_loops(stored: int) -> None:
    torch.manual_seed(0)
    pieces, wholes, bank = torch.randn(4, 6), torch.randn(4, 6), torch.randn(stored, 6)

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a.double() @ b.double() / a.double().norm() / b.double().norm())

    total = 0.0
    for i, piece in enumerate(pieces):
        others = [math.exp(cosine(piece, each) / 0.1) for each in (*wholes, *bank)]
        total -= math.log(others[i] / sum(others)) / 4
    assert float(contrast_loss(pieces, wholes, bank, 0.1)) == pytest.approx(total, rel=1e-5)


def test_activation_is_minus_the_mean_size_of_features() -> None:
    assert float(activation_loss(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))) == -1.5


def test_the_memory_blends_nine_tenths_of_earlier_rounds_into_every_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).eval()
    first, second, third = (torch.randn(6, 2, 4, 4) * scale + scale for scale in (1.0, 2.0, 3.0))
    memory = Memory(net)
    blended: list[tuple[Tensor, Tensor]] = []
    for images in (first, second, third):
        with torch.no_grad(), statistics_gap(net, memory) as gaps:
            net(images)
        wanted, seen = [], []
        for place, x in enumerate((images, net[1](net[0](images)))):
            flat = x.transpose(0, 1).flatten(1).double()
            mean, variance = flat.mean(1), flat.var(1, unbiased=False)
            if blended:
                before = blended[place]
                mean, variance = 0.9 * before[0] + 0.1 * mean, 0.9 * before[1] + 0.1 * variance
            norm: Any = net[2 * place]
            gap = (mean - norm.running_mean).norm() + (variance - norm.running_var).norm()
            wanted.append(float(gap.detach()))
            seen.append((mean.detach(), variance.detach()))
        assert [float(gap) for gap in gaps] == pytest.approx(wanted, rel=1e-4)
        blended = seen
        memory.keep()


def test_wishes_are_the_weighted_sum_of_their_parts() -> None:
    method, teacher = synthesis("fast")
    images, targets = torch.randn(7, 3, SIZE, SIZE), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    student = method.net.eval()
    plain, features = method.wishes(images, targets, adversary=False)
    full, _ = method.wishes(images, targets, adversary=True)
    answer = teacher(images)
    with statistics_gap(teacher) as gaps:
        teacher(images)
    wanted = 0.4 * F.cross_entropy(answer, targets) + 10 * sum(gaps)
    torch.testing.assert_close(plain, wanted)
    torch.testing.assert_close(features, teacher.features(images).mean((2, 3)))
    with torch.no_grad():
        term = 1.1 * decided_adversary(student(images), answer)
    torch.testing.assert_close(full - plain, term, atol=1e-4, rtol=1e-3)
    assert float(term) < 0


def test_dafl_is_one_step_of_both_from_the_same_images() -> None:
    run = make("dafl", **{"dafl.one_hot": 0.7, "dafl.activation": 0.3, "dafl.balance": 2.0})
    method = run.method.train()
    assert isinstance(method, Dafl)
    student, generator = copy.deepcopy(method.net), copy.deepcopy(method.generator)
    batch = next(run.feed.batches(run.kept, 1, np.random.default_rng(5), 0))
    losses, _ = method.losses(batch)
    torch.stack(list(losses.values())).sum().backward()
    noise = np.random.default_rng(5).standard_normal((8, 6), dtype=np.float32)
    images = generator(torch.from_numpy(noise))
    features = run.teacher.features(images).mean((2, 3))
    answer = run.teacher.fc(features)
    mean = torch.softmax(answer, 1).mean(0)
    (
        0.7 * F.cross_entropy(answer, answer.argmax(1))
        - 0.3 * features.abs().mean()
        + 2.0 * (mean * mean.log()).sum()
    ).backward()
    told = student(images.detach())
    soft = [F.log_softmax(each / 20, 1) for each in (answer.detach(), told)]
    (400 * F.kl_div(soft[1], soft[0], reduction="batchmean", log_target=True)).backward()
    for mine, theirs in ((method.net, student), (method.generator, generator)):
        for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            assert p.grad is not None
            assert q.grad is not None
            torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_fasts_meta_step_is_adams_with_the_sum_of_the_inner_gradients() -> None:
    method, _ = synthesis("fast")
    assert isinstance(method, Fast)
    start = {n: p.clone() for n, p in method.generator.named_parameters()}
    rng = np.random.default_rng(3)
    images = method.eval().round(rng, adversary=False)
    again, _ = synthesis("fast")
    rng = np.random.default_rng(3)
    targets = again.targets(rng)
    z = torch.from_numpy(rng.standard_normal((10, 6), dtype=np.float32)).requires_grad_()
    weights = {n: p.clone().requires_grad_() for n, p in start.items()}
    inner = torch.optim.Adam(
        [{"params": list(weights.values()), "lr": 5e-3}, {"params": [z], "lr": 1e-2}],
        betas=(0.5, 0.999),
    )
    total = {n: torch.zeros_like(p) for n, p in start.items()}
    shown = []
    for _ in range(3):
        made = functional_call(method.generator, weights, (z,))
        loss, _ = again.eval().wishes(moved(made, rng), targets, adversary=False)
        inner.zero_grad()
        loss.backward()
        shown.append((float(loss.detach()), made.detach()))
        for name, each in weights.items():
            total[name] += each.grad
        inner.step()
    outer = [nn.Parameter(p.clone()) for p in start.values()]
    adam = torch.optim.Adam(outer, lr=3 * 5e-3, betas=(0.5, 0.999))
    for each, gradient in zip(outer, total.values(), strict=True):
        each.grad = gradient
    adam.step()
    found = [p for _, p in method.generator.named_parameters()]
    for mine, theirs in zip(found, outer, strict=True):
        torch.testing.assert_close(mine, theirs.detach(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(images, min(shown, key=lambda each: each[0])[1])


def test_meta_adam_is_torchs_over_several_steps() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2).requires_grad_(False)
    theirs = [nn.Parameter(p.clone()) for p in net.parameters()]
    adam, mine = torch.optim.Adam(theirs, lr=0.1, betas=(0.5, 0.999)), MetaAdam(net, 0.1)
    for _ in range(4):
        gradients = [torch.randn_like(p) for p in theirs]
        for each, gradient in zip(theirs, gradients, strict=True):
            each.grad = gradient
        adam.step()
        mine.step(gradients)
    for p, q in zip(net.parameters(), theirs, strict=True):
        torch.testing.assert_close(p, q.detach())


# -- the room --------------------------------------------------------------------------------------------------
def test_the_store_is_one_uint8_tensor_that_forgets_the_oldest() -> None:
    store = Store(5, 4)
    place = store.pixels.data_ptr()
    images = torch.linspace(-RANGE, RANGE, 8).view(8, 1, 1, 1).expand(8, 3, 4, 4)
    store.add(images[:3])
    assert len(store) == 3
    torch.testing.assert_close(
        store.newest(9)[:, 0, 0, 0], images[:3, 0, 0, 0], atol=RANGE / 255, rtol=0
    )
    store.add(images[3:7])
    store.add(images[7:])
    assert len(store) == 5
    assert store.pixels.dtype == torch.uint8
    assert store.pixels.data_ptr() == place
    assert store.newest(5)[:, 0, 0, 0].tolist() == pytest.approx(
        images[3:, 0, 0, 0].tolist(), abs=RANGE / 255
    )
    drawn = store.take(400, np.random.default_rng(0))[:, 0, 0, 0]
    assert len(drawn.unique()) == 5
    store.add(torch.full((7, 3, 4, 4), 99.0))
    assert store.take(9, np.random.default_rng(0)).unique().tolist() == pytest.approx([RANGE])


def test_the_best_images_of_a_round_are_those_of_the_smallest_loss() -> None:
    best = Best()
    for loss in (3.0, 1.0, 2.0):
        best.show(torch.full((1, 2), loss), torch.tensor(loss))
    assert best.images.tolist() == [[1.0, 1.0]]


def test_moved_images_are_mirrored_or_moved_by_whole_pixels_or_cut() -> None:
    images = torch.arange(64.0).view(1, 1, 8, 8).expand(200, 3, 8, 8)
    found = moved(images, np.random.default_rng(0))
    wanted = {
        tuple(
            np.roll(np.pad(np.arange(64).reshape(8, 8), 1, "symmetric"), (-y, -x), (0, 1))[
                1:9, 1:9
            ].ravel()[::1]
        )
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    }
    wanted |= {tuple(np.array(each).reshape(8, 8)[:, ::-1].ravel()) for each in wanted}
    seen = {tuple(each[0].round().int().flatten().tolist()) for each in found}
    assert len(seen) == 18
    assert {tuple(int(v) for v in each) for each in wanted} == seen
    pieces = moved(images, np.random.default_rng(0), 0.25)
    assert float((pieces.amax((1, 2, 3)) - pieces.amin((1, 2, 3))).min()) < 40
