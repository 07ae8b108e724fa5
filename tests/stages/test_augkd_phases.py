"""Phases of AuG-KD: rates, modules that are left out, what is refused."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.stages.augkd_runs import augkd_of, make, read
from tests.stages.short_runs import train
from webdistill.core.errors import UserError


def test_every_phase_has_a_curve_of_rates_of_its_own() -> None:
    changes = {
        "steps_per_epoch": 3, "augkd.anchor_epochs": 1, "augkd.encoder_lr": 2e-3, "augkd.anchor_lr": 3e-4,
    }  # fmt: skip
    run = make(**changes)
    assert run.phases == [2, 1, 3]
    factors = []
    for step in range(18):
        run.descent.set_rates(step)
        sgd, adam = run.descent.optimisers
        assert {group["lr"] for group in sgd.param_groups} == {sgd.param_groups[0]["lr"]}
        factors.append(sgd.param_groups[0]["lr"] / 0.05)
        bases = (1e-3, 2e-3, 3e-4)  # generator, encoder, anchor
        rates = [g["lr"] / base for g, base in zip(adam.param_groups, bases, strict=True)]
        assert rates == pytest.approx([factors[-1]] * 3)

    def cosine(share: float) -> float:
        return (1 + math.cos(math.pi * share)) / 2

    rise = [1 / 3, 2 / 3, 1.0]
    free = [cosine(step / 3) for step in range(3)]
    mixup = [cosine(step / 6) for step in range(6)]
    assert factors == pytest.approx(rise + free + rise + rise + mixup)
    steps = make(**changes, decay="steps", warmup_epochs=0.0)
    falls = []
    for step in range(1, 18):
        steps.descent.set_rates(step - 1)
        before = steps.descent.optimisers[0].param_groups[0]["lr"]
        steps.descent.set_rates(step)
        falls.append(steps.descent.optimisers[0].param_groups[0]["lr"] / before)
    # times 0.1 at 62.5, 75 and 87.5 % of 6, 3 and 9 steps, back to the peak at 6 and 9
    wanted = [1, 1, 1, 0.1, 0.1, 1e2, 1, 0.1, 1e1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1]
    assert falls == pytest.approx(wanted)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_module_begins_without_the_momentum_of_the_one_before(optimizer: str) -> None:
    """Where gradients are zero and nothing decays, momentum alone moves the student."""
    changes = {"optimizer": optimizer, "weight_decay": 0.0, "warmup_epochs": 0.0, "decay": "steps"}
    run = train(make(**changes, **{"augkd.anchor_epochs": 0}), 2)  # module 1: steps 0 to 3

    def moves(step: int) -> bool:
        student = run.method.student()
        before = [each.clone() for each in student.parameters()]
        run.descent.set_rates(step)
        run.descent.step(torch.stack([(0 * each).sum() for each in student.parameters()]).sum())
        after = student.parameters()
        return any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))

    assert not moves(4)
    list(run.epoch(2))  # steps 4 and 5
    assert moves(6), "within a module it is kept"


def test_what_the_anchors_do_stands_in_the_curve() -> None:
    """Spread of anchors relative to z, mean of the masks of the batch, mean move of all masks: of module 2 alone."""
    run = make(**{"augkd.mask_start": 0.06, "augkd.anchor_lr": 0.05})
    train(run, 2)
    method = augkd_of(run)
    begun = method.anchor.mask(torch.arange(3)).detach()
    assert float(begun.mean()) == pytest.approx(0.06, abs=0.01)
    rows = []
    step = run.step

    def noted(batch: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            z = copy.deepcopy(method.encoder).eval()(batch.images, batch.labels)[0]
            mask = method.anchor.mask(batch.labels)
            anchors = mask * method.anchor.mapping(z * mask) + (1 - mask) * z
            now = method.anchor.mask(torch.arange(3))
        centred = [each - each.mean(0) for each in (anchors, z)]
        spread = (centred[0].square().sum() / centred[1].square().sum()).sqrt()
        rows.append([float(spread), float(mask.mean()), float((now - begun).abs().mean())])
        return step(batch)

    run.step = noted
    train(run, 6)
    names = ("anchor_spread", "mask_mean", "mask_moved")
    for number in (2, 3):
        own = rows[2 * (number - 2) : 2 * (number - 1)]
        for name, values in zip(names, zip(*own, strict=True), strict=True):
            assert run.rows[number][name] == pytest.approx(sum(values) / 2, rel=1e-4, abs=1e-6)
    assert run.rows[3]["mask_moved"] > 0.001
    assert not [name for name in names for number in (0, 1, 4, 5) if name in run.rows[number]]


def test_a_warm_up_longer_than_a_phase_takes_all_of_it() -> None:
    run = make(**{"augkd.anchor_epochs": 1}, warmup_epochs=1.5)
    rates = []
    for step in range(12):
        run.descent.set_rates(step)
        rates.append(run.descent.optimisers[0].param_groups[0]["lr"] / 0.05)
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rates[4:9] == pytest.approx([1 / 2, 1, 1 / 3, 2 / 3, 1])


def test_a_method_without_phases_has_one_curve() -> None:
    run = make(method="supervised")
    assert run.phases == [6]
    rates = []
    for step in range(12):
        run.descent.set_rates(step)
        rates.append(run.descent.optimisers[0].param_groups[0]["lr"] / 0.05)
    tail = [(1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, *tail])


@pytest.mark.parametrize(
    ("changes", "phases"),
    [
        ({"augkd.anchor_epochs": 0}, [2, 0, 4]),
        ({"augkd.anchor_epochs": 1, "augkd.free_epochs": 4}, [4, 1, 1]),
        ({"augkd.free_epochs": 0, "augkd.anchor_epochs": 0, "augkd.mixup": False}, [0, 0, 6]),
        ({"augkd.mixup": False}, [2, 2, 2]),
    ],
    ids=str,
)
def test_modules_may_be_left_out(changes: dict[str, Any], phases: list[int]) -> None:
    run = make(**changes)
    assert run.phases == phases
    assert sum(run.phases) == 6
    rows = train(run, 6).rows
    named = ["dream_kd", "mask", "kd"]
    modules = [named.index(name) for row in rows for name in named if name in row]
    assert modules == [module for module in range(3) for _ in range(phases[module])]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"augkd.free_epochs": 5, "augkd.anchor_epochs": 1}, "= 6 leave none of epochs = 6"),
        ({"augkd.free_epochs": 0, "augkd.anchor_epochs": 0}, "free_epochs = 0 leaves no generator"),
        ({"augkd.free_epochs": 0, "augkd.mixup": False}, "free_epochs = 0 leaves no generator"),
        ({"augkd.a": 0}, "augkd.a"),
        ({"augkd.b": 1.5}, "augkd.b"),
        ({"augkd.mask_ratio": -0.1}, "augkd.mask_ratio"),
        ({"augkd.uncertainty": "entropy"}, "augkd.uncertainty"),
        ({"augkd.mask_start": 0.0}, "augkd.mask_start"),
        ({"augkd.anchor_lr": 0.0}, "augkd.anchor_lr"),
        ({"augkd.encoder_lr": 2.0}, "augkd.encoder_lr"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(changes)
    assert words in str(caught.value)
    assert "distill" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_too_few_epochs_for_augkd_matter_to_no_other_method() -> None:
    assert read({"method": "kd", "epochs": 1}).epochs == 1
