"""AuG-KD step by step: who learns from what, and what stays as it is (arXiv 2403.07030)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.distill.loop import Run
from stages.distill.methods import Batch, build
from stages.distill.methods.augkd import AugKd
from stages.distill.params import Distill
from tests.stages.short_runs import state
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.zoo import build as network

ROOT = Path(__file__).parents[2]
COUNT, SIZE, LATENT, BATCH, T = 24, 14, 8, 6, 3.0
MODULE = {1: 0, 2: 2, 3: 3}  # -> the epoch in which it begins
EPOCHS = 7  # 2, 1 and 4
SETTINGS = {
    "method": "augkd", "student": "resnet8", "epochs": EPOCHS, "steps_per_epoch": 2, "batch_size": BATCH,
    "warmup_epochs": 0.0, "views": 2, "temperature": T, "precision": "float32", "device": "cpu",
    "augkd.latent": LATENT, "augkd.free_epochs": 2, "augkd.anchor_epochs": 1, "augkd.a": 0.75,
}  # fmt: skip


def make(**changes: Any) -> Run:
    overrides = [f"distill.{k}={json.dumps(v)}" for k, v in (SETTINGS | changes).items()]
    settings = load(ROOT / "params.yaml", overrides).sections["distill"]
    assert isinstance(settings, Distill)
    torch.manual_seed(0)
    pool = torch.randint(0, 256, (COUNT, SIZE, SIZE, 3), dtype=torch.uint8)
    teacher = network("resnet8", 3).eval().requires_grad_(False)
    for norm in norms(teacher):
        nn.init.normal_(norm.running_mean, 0, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    teacher.fc.weight.mul_(5)
    views = Views(pool, (0.5,) * 3, (0.25,) * 3, seed=1, min_scale=0.5, mixup=0.2)
    method = build(settings, network(settings.student, 3), teacher, SIZE)
    weight, labels = torch.linspace(0.5, 1.5, COUNT), torch.arange(COUNT) % 3
    ids = [f"image{i}" for i in range(COUNT)]
    return Run(settings, 1, views, teacher, method, weight, ids, ("a", "b", "c"), labels)


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def begin(run: Run, epoch: int, step: int = 1) -> tuple[AugKd, AugKd, Batch]:
    """-> the method, told whose turn it is, a copy of it, and a batch of images 0 ... 5."""
    method = run.method.train()
    assert isinstance(method, AugKd)
    method.begin_epoch(epoch, run.settings.epochs)
    batch = run.feed.batch(0, torch.arange(BATCH), np.random.default_rng(5), step)
    return method, copy.deepcopy(method), batch


def noises(count: int) -> list[Tensor]:
    """What a step draws, in order."""
    rng = np.random.default_rng(5)
    return [
        torch.from_numpy(rng.standard_normal((BATCH, LATENT), np.float32)) for _ in range(count)
    ]


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Networks of the method of which any weight or running statistic has changed."""
    found = {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
    return {name.partition(".")[0] for name in found}


def backward(losses: dict[str, Tensor]) -> None:
    torch.stack(list(losses.values())).sum().backward()


def check(losses: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """The same values by name; then both graphs are gone through backwards."""
    assert losses.keys() == wanted.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, wanted[name], atol=1e-5, rtol=1e-4, msg=name)
    backward(losses)
    backward(wanted)


def check_gradients(method: AugKd, twin: AugKd, learners: set[str]) -> None:
    """The learners' gradients are the twin's, no weight's is all zero, and no other network has any."""
    theirs = dict(twin.named_parameters())
    for name, parameter in method.named_parameters():
        if name.partition(".")[0] not in learners:
            assert parameter.grad is None, name
            continue
        wanted, found = theirs[name].grad, parameter.grad
        assert wanted is not None, name
        assert found is not None, name
        assert float(wanted.abs().max()) > 0, name
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, atol=1e-3 * scale, rtol=1e-3, msg=name)
    assert all(parameter.requires_grad for parameter in method.parameters())


def naive_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(p_T || p_S) of every row, [B]."""
    p, q = torch.softmax(teacher / temperature, 1), torch.softmax(student / temperature, 1)
    return temperature**2 * (p * (p.log() - q.log())).sum(1)


def naive_ce(logits: Tensor, labels: Tensor) -> Tensor:
    chosen = torch.softmax(logits, 1)[torch.arange(len(labels)), labels]
    return -chosen.log()


def naive_gap(teacher: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """-> the teacher's logits, ||mean - mu||_2 + ||var - sigma^2||_2 over the channels of all its BN layers."""
    squares: list[tuple[Tensor, Tensor]] = []

    def note(norm: Any, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        mean, var = x.mean(1), x.var(1, unbiased=False)
        gaps = ((mean - norm.running_mean) ** 2).sum(), ((var - norm.running_var) ** 2).sum()
        squares.append(gaps)

    hooks = [norm.register_forward_hook(note) for norm in norms(teacher)]
    answer = teacher(images)
    for hook in hooks:
        hook.remove()
    means, variances = zip(*squares, strict=True)
    return answer, torch.stack(means).sum().sqrt() + torch.stack(variances).sum().sqrt()


# -- module 1 --------------------------------------------------------------------------------------------------
def test_the_generators_step_teaches_the_generator_alone() -> None:
    run = make()
    method, twin, batch = begin(run, MODULE[1], step=0)
    before, teacher = state(method), state(run.teacher)
    losses, logits = method.losses(batch)
    images = twin.generator(noises(1)[0])
    student = copy.deepcopy(twin.net)(images)
    answer, gap = naive_gap(run.teacher, images)
    p = torch.softmax(answer, 1)
    wanted = {
        "adversarial": -naive_kl(student, answer).mean(),
        "one_hot": -p.max(1).values.log().mean(),
        "balance": 20 * (p.mean(0) * p.mean(0).log10()).sum(),
        "statistics": gap,
    }
    check(losses, wanted)
    check_gradients(method, twin, {"generator"})
    assert moved(method, before) == {"generator"}, "its running statistics, no others"
    assert not moved(run.teacher, teacher)
    torch.testing.assert_close(logits, student.detach())
    assert method.reference is not None
    torch.testing.assert_close(method.reference, answer.detach())


def test_the_other_steps_teach_student_and_encoder_alone() -> None:
    run = make()
    method, twin, batch = begin(run, MODULE[1], step=1)
    before, teacher = state(method), state(run.teacher)
    losses, logits = method.losses(batch)
    z, noise = noises(2)
    with torch.no_grad():
        images = twin.generator(z)
        answer = run.teacher(images)
    student = twin.net(images)
    mean, log_variance = twin.encoder(images, answer.argmax(1))
    variance = log_variance.exp()
    divergence = 0.5 * (variance + mean**2 - 1 - log_variance).mean()
    drawn = mean + variance.sqrt() * noise
    wanted = {
        "dream_kd": naive_kl(student, answer).mean(),
        "encoder": ((drawn - z) ** 2).mean() + 0.00025 * divergence,
    }
    check(losses, wanted)
    check_gradients(method, twin, {"net", "encoder"})
    assert not moved(run.teacher, teacher)
    assert {"net", "encoder"} <= moved(method, before) <= {"net", "encoder", "generator"}
    torch.testing.assert_close(logits, student)
    assert method.reference is not None
    torch.testing.assert_close(method.reference, answer)


def test_every_sixth_step_is_the_generators() -> None:
    run = make(steps_per_epoch=7)
    learners = []
    before = state(run.method)
    for epoch in range(2):
        for _ in run.epoch(epoch):
            weights = {name for name, _ in run.method.named_parameters()}
            changed = {n for n in weights if not torch.equal(before[n], run.method.state_dict()[n])}
            learners.append({name.partition(".")[0] for name in changed})
            before = state(run.method)
    assert [found == {"generator"} for found in learners] == [s % 6 == 0 for s in range(14)]
    assert all(found == {"net", "encoder"} for s, found in enumerate(learners) if s % 6)


# -- module 2 --------------------------------------------------------------------------------------------------
def test_module_two_teaches_the_anchor_alone_and_moves_no_statistics() -> None:
    run = make(**{"augkd.mask_ratio": 0.4})
    method, twin, batch = begin(run, MODULE[2])
    before, teacher = state(method), state(run.teacher)
    losses, logits = method.losses(batch)
    labels = torch.arange(BATCH) % 3
    with torch.no_grad():
        z = twin.encoder.eval()(batch.images, labels)[0]
    mask = torch.sigmoid(twin.anchor.scores.weight[labels] + twin.anchor.offset)
    moved_z = mask * twin.anchor.mapping(z * mask) + (1 - mask) * z
    images = twin.generator.eval()(moved_z)
    answer = run.teacher(images)
    wanted = {
        "uncertainty": -torch.log(answer.exp().sum(1)).mean(),
        "mask": (mask.sum(1).mean() - 0.6 * LATENT).abs(),
        "anchor_label": 0.1 * naive_ce(answer, labels).mean(),
    }
    check(losses, wanted)
    check_gradients(method, twin, {"anchor"})
    assert not moved(method, before)
    assert not moved(run.teacher, teacher)
    assert all(each.training for each in (method.net, method.generator, method.encoder))
    torch.testing.assert_close(logits, twin.net.eval()(images.detach()))
    assert method.reference is not None
    torch.testing.assert_close(method.reference, answer.detach())


def test_no_step_of_module_two_moves_anything_but_the_anchor() -> None:
    run = make()
    for epoch in range(MODULE[2]):
        list(run.epoch(epoch))
    before = state(run.method)
    list(run.epoch(MODULE[2]))
    assert moved(run.method, before) == {"anchor"}
    before = state(run.method)
    for epoch in range(MODULE[3], EPOCHS):
        list(run.epoch(epoch))
    assert moved(run.method, before) == {"net"}


# -- module 3 --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("epoch", "share", "changes"),
    [
        (0, 0.2, {}), (1, 0.2 + 0.8 / 3, {}), (3, 1.0, {}), (0, 0.2, {"augkd.anchor_epochs": 0}),
        (0, 1.0, {"augkd.mixup": False}), (0, 1.0, {"augkd.b": 1.0}),
        (0, 0.2, {"augkd.teacher_weight": 0.2}), (0, 0.2, {"augkd.teacher_weight": 0.0}),
        (0, 0.2, {"augkd.teacher_weight": 1.0}),
    ],
)  # fmt: skip
def test_module_three_teaches_the_student_alone_with_the_teachers_answers_to_mixtures(
    epoch: int, share: float, changes: dict[str, Any]
) -> None:
    run = make(epochs=EPOCHS - len({"augkd.anchor_epochs"} & {*changes}), **changes)
    method, twin, batch = begin(run, sum(run.phases[:2]) + epoch)
    before, teacher = state(method), state(run.teacher)
    shown: list[Tensor] = []
    hook = method.net.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    losses, logits = method.losses(batch)
    hook.remove()

    labels, images = torch.arange(BATCH) % 3, run.views(0, torch.arange(BATCH))
    with torch.no_grad():
        z = twin.encoder.eval()(images, labels)[0]
        anchor = z if "augkd.anchor_epochs" in changes else twin.anchor(z, labels)
        dream = twin.generator.eval()((1 - share) * anchor + share * z)
        batches = [images] if share == 1 else [images, (1 - share) * dream + share * images]
        answers = [run.teacher(each) for each in batches]
    (seen,) = shown
    torch.testing.assert_close(seen, torch.cat(batches), atol=1e-5, rtol=1e-4)
    student, answer = twin.net(torch.cat(batches)), torch.cat(answers)
    weight, labels = (each.repeat(len(batches)) for each in (run.weight[:BATCH], labels))
    taught = changes.get("augkd.teacher_weight", 0.5)
    wanted = {
        "label": (1 - taught) * (weight * naive_ce(student, labels)).mean(),
        "kd": taught * (weight * naive_kl(student, answer, T)).mean(),
    }
    if not taught:
        del wanted["kd"]
    check(losses, wanted)
    check_gradients(method, twin, {"net"})
    assert moved(method, before) == {"net"}, "its running statistics, no others"
    assert int(method.net.bn1.num_batches_tracked) == 1, "images and mixtures in one batch"
    assert not moved(run.teacher, teacher)
    torch.testing.assert_close(logits, student[:BATCH])
    assert method.reference is batch.teacher_logits


def test_soft_targets_are_the_teachers_so_its_own_copy_has_nothing_to_learn() -> None:
    run = make()
    method, _, batch = begin(run, MODULE[3])
    other = float(method.losses(batch)[0]["kd"].detach())
    method.net.load_state_dict(run.teacher.state_dict())
    method.net.eval()
    same = method.losses(batch)[0]
    assert float(same["kd"].detach()) == pytest.approx(0, abs=1e-5)
    assert float(same["label"].detach()) > 0.1
    assert other > 0.01
