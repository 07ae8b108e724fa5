"""Methods that make all their images themselves: DAFL, Fast, CMI, DeepInversion, and what they share."""

from __future__ import annotations

import copy
import functools
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from stages.distill.checkpoint import restore, save
from stages.distill.deconfound import attach
from stages.distill.loop import Run
from stages.distill.method_params import POOL_FREE
from stages.distill.methods import build
from stages.distill.methods.cmi import Cmi, contrast_loss
from stages.distill.methods.dafl import Dafl, activation_loss
from stages.distill.methods.deepinv import disagreement, variation
from stages.distill.methods.fast import Fast, MetaAdam
from stages.distill.methods.kd import kl_divergence
from stages.distill.methods.statistics import Memory, statistics_gap
from stages.distill.methods.synthesis import RANGE, Best, Store, Synthesis, decided_adversary, moved
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.classifier import Classifier
from webdistill.models.zoo import build as network

ROOT = Path(__file__).parents[2]
STORING = ("fast", "cmi", "deepinv")
FIRST = ["fast", *(pytest.param(name, marks=pytest.mark.slow) for name in STORING[1:])]
SIZE, CLASSES = 16, 3
SMALL = {
    "student": "resnet8", "epochs": 4, "steps_per_epoch": 2, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0.0,
    "precision": "float32", "device": "cpu", "dafl.latent": 6, "fast.latent": 6, "cmi.latent": 6,
    **{f"{name}.{key}": value for name in STORING for key, value in
       {"images": 10, "steps": 3, "warmup": 2, "store": 64}.items()},
}  # fmt: skip
DRAWN = {
    "deconfound.dictionary": "drawn", "deconfound.drawn.images": 40, "deconfound.drawn.count": 4,
    "deconfound.drawn.dims": 3, "deconfound.drawn.start": 1, "deconfound.drawn.every": 2,
}  # fmt: skip


def make(method: str, images: int = 0, **changes: Any) -> Run:
    """A run without a pool, or with one of `images` images."""
    values = SMALL | changes | {"method": method}
    overrides = [f"distill.{key}={json.dumps(value)}" for key, value in values.items()]
    settings: Any = load(ROOT / "params.yaml", overrides).sections["distill"]
    teacher = copy.deepcopy(used_teacher())
    torch.manual_seed(1)
    host = build(settings, network(settings.student, CLASSES), teacher, SIZE)
    if settings.deconfound.enabled:
        attach(host, settings.deconfound, None, teacher.fc.in_features)
    pool = torch.randint(0, 256, (images, SIZE, SIZE, 3), dtype=torch.uint8)
    views = Views(pool, (0.5,) * 3, (0.25,) * 3, seed=1, min_scale=1.0, mixup=0.0)
    names = [f"image{i}" for i in range(images)]
    return Run(settings, 1, views, teacher, host, torch.ones(images), names, ("a", "b", "c"))


@functools.cache
def used_teacher() -> Classifier:
    """With running statistics that fit its weights, which takes twenty passes."""
    teacher = network("resnet8", CLASSES)
    torch.manual_seed(0)
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        for _ in range(20):
            teacher(torch.randn(32, 3, SIZE, SIZE))
    return teacher.eval().requires_grad_(False)


def train(run: Run, stop: int) -> Run:
    for number in range(len(run.rows), stop):
        assert sum(run.epoch(number)) == 16
    return run


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in module.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def synthesis(method: str, **changes: Any) -> tuple[Synthesis, Classifier]:
    run = make(method, **changes)
    assert isinstance(run.method, Synthesis)
    return run.method.train(), run.teacher


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


# -- faults of released code -------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", FIRST)
def test_the_adversary_depends_on_the_student_and_begins_after_the_warm_up(method: str) -> None:
    found = []
    for scale in (1.0, 3.0):
        more = {
            "steps": 10,
            "warmup": 1,
            "rate": 0.1 if method == "deepinv" else 0.003,
            "statistics": 0.0,
        }
        more |= {"adversarial": 3.0}
        host, _ = synthesis(method, **{f"{method}.{key}": value for key, value in more.items()})
        with torch.no_grad():
            host.net.fc.weight.mul_(scale)
        both = []
        for epoch in (0, 1):
            torch.manual_seed(0)
            host.prepare(epoch, np.random.default_rng(0))
            both.append(host.store.newest(10))
        found.append(both)
    assert torch.equal(found[0][0], found[1][0]), "none in the warm-up"
    assert not torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("method", POOL_FREE)
def test_the_temperature_is_20_unless_given_and_is_used(method: str) -> None:
    run = make(method)
    assert run.settings.softness == 20
    run.method.train()
    with torch.random.fork_rng():
        run.method.prepare(0, np.random.default_rng(0))
    batch = next(run.feed.batches(run.kept, 1, np.random.default_rng(1), 0))
    losses, logits = run.method.losses(batch)
    assert run.method.reference is not None
    wanted = kl_divergence(logits, run.method.reference, 20.0, torch.ones(8))
    torch.testing.assert_close(losses["kd"], wanted)
    other = kl_divergence(logits, run.method.reference, 1.0, torch.ones(8))
    assert not torch.isclose(losses["kd"], other, rtol=0.05)


@pytest.mark.parametrize(
    ("method", "weights"),
    [("cmi", {"contrast": 0.0}), ("cmi", {"adversarial": 0.0}), ("deepinv", {"adversarial": 0.0}),
     ("deepinv", {"tv": 0.0, "l2": 0.0}), ("fast", {"adversarial": 0.0, "statistics": 0.0})],
    ids=str,
)  # fmt: skip
def test_every_term_can_be_switched_off(method: str, weights: dict[str, float]) -> None:
    """Released: CMI without contrast and DeepInversion without adversary use variables that are not there."""
    run = train(make(method, **{f"{method}.{key}": value for key, value in weights.items()}), 2)
    assert math.isfinite(run.rows[-1]["loss"])


def test_cmis_head_learns_within_rounds_and_the_runs_optimiser_has_no_part_of_it() -> None:
    run = make("cmi")
    assert isinstance(run.method, Cmi)
    before = state(run.method.head)
    train(run, 1)
    assert not equal(before, state(run.method.head))
    taken = {id(p) for o in run.descent.optimisers for g in o.param_groups for p in g["params"]}
    assert taken == {id(p) for p in run.method.net.parameters()}


@pytest.mark.parametrize("method", POOL_FREE)
def test_no_file_is_written_and_no_image_of_the_pool_is_used(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    without, beside = train(make(method), 2), train(make(method, images=20), 2)
    assert not list(tmp_path.rglob("*"))
    assert without.rows == beside.rows
    assert equal(state(without.method), state(beside.method))
    assert without.steps_per_epoch == 2
    assert make(method, steps_per_epoch=None).steps_per_epoch == 100
    assert make(method, images=20, steps_per_epoch=None).steps_per_epoch == 100


# -- whole runs --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("fast", DRAWN), ("dafl", {"precision": "bfloat16"}),
        *(pytest.param(method, DRAWN, marks=pytest.mark.slow) for method in ("dafl", "cmi", "deepinv")),
        *(pytest.param(method, {"precision": "bfloat16"}, marks=pytest.mark.slow) for method in STORING),
    ],
)  # fmt: skip
def test_resuming_changes_no_bit(tmp_path: Path, method: str, changes: dict[str, Any]) -> None:
    """Without these changes test_distill resumes every method."""
    whole = train(make(method, **changes), 4)
    save(train(make(method, **changes), 2), tmp_path / "state.pt")
    second = make(method, **changes)
    for parameter in second.method.parameters():
        nn.init.zeros_(parameter)
    assert restore(second, tmp_path / "state.pt") == 2
    assert train(second, 4).rows == whole.rows
    assert equal(state(second.method), state(whole.method))


@pytest.mark.parametrize("method", POOL_FREE)
def test_the_dictionary_is_drawn_from_the_methods_images_and_refreshed(method: str) -> None:
    run, seen = make(method, **DRAWN), []
    for epoch in range(4):
        train(run, epoch + 1)
        compensation = run.method.student().compensation
        assert compensation is not None
        seen.append(compensation.prototypes.clone())
    new = [bool(each.any()) for each in seen[:1]]
    new += [not torch.equal(a, b) for a, b in pairwise(seen)]
    assert new == [False, True, False, True]
    assert run.rows[-1]["compensation_by_image"] > 0
    assert np.isfinite(run.compensation_overhead()).all()


@pytest.mark.parametrize(
    ("method", "change"),
    [("dafl", {"latent": 9}), ("dafl", {"generator_lr": 0.1}), ("dafl", {"one_hot": 0.0}),
     ("dafl", {"activation": 1.0}), ("dafl", {"balance": 0.0}), ("fast", {"latent": 9}),
     ("fast", {"noise_rate": 0.5}), ("fast", {"reset": 1}), ("cmi", {"latent": 9}),
     ("cmi", {"contrast": 0.0}), ("deepinv", {"tv": 1.0}), ("deepinv", {"l2": 1.0}),
     *(pytest.param(method, change, marks=() if method == "fast" else pytest.mark.slow)
       for method in STORING for change in (
         {"images": 12}, {"steps": 4}, {"rate": 0.03}, {"warmup": 0}, {"store": 12}, {"adversarial": 0.0},
         {"statistics": 0.0}, {"one_hot": 5.0}))],
    ids=str,
)  # fmt: skip
def test_every_option_changes_the_student(method: str, change: dict[str, Any]) -> None:
    ((key, value),) = change.items()
    changed = train(make(method, **{f"{method}.{key}": value}), 2)
    assert not equal(plain(method), state(changed.method.student()))


@functools.cache
def plain(method: str) -> dict[str, Tensor]:
    return state(train(make(method), 2).method.student())


@pytest.mark.parametrize("name", STORING)
def test_more_steps_make_images_that_are_closer_to_what_is_wished(name: str) -> None:
    found = []
    for steps in (1, 60):
        method, teacher = synthesis(name, **{f"{name}.steps": steps, f"{name}.statistics": 0.0})
        torch.manual_seed(0)
        images = method.eval().round(np.random.default_rng(0), adversary=False)
        targets = method.targets(np.random.default_rng(0))  # a round begins with them
        found.append(float(F.cross_entropy(teacher(images), targets)))
    assert found[1] < found[0] - 0.1
