"""Methods that make all their images themselves: DAFL, Fast, CMI, DeepInversion, and what they share."""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.distill.method_params import POOL_FREE
from stages.distill.methods.cmi import Cmi
from stages.distill.methods.kd import kl_divergence
from tests.stages.pool_free import STORING, make, synthesis
from tests.stages.short_runs import check_resume, same, state, train

FIRST = ["fast", *(pytest.param(name, marks=pytest.mark.slow) for name in STORING[1:])]
DRAWN = {
    "deconfound.dictionary": "drawn", "deconfound.drawn.images": 40, "deconfound.drawn.count": 4,
    "deconfound.drawn.dims": 3, "deconfound.drawn.start": 1, "deconfound.drawn.every": 2,
}  # fmt: skip


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
    assert not same(before, state(run.method.head))
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
    assert same(state(without.method), state(beside.method))
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
    check_resume(lambda: make(method, **changes), tmp_path, 2, 4)


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
    assert not same(plain(method), state(changed.method.student()))


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
