"""AuG-KD as a whole run: phases, rates, resume, options, curve, pictures, its own images as a dictionary."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.distill.checkpoint import restore, save
from stages.distill.loop import Run
from stages.distill.moments import shown_epochs
from tests.stages.augkd_runs import COUNT, DRAWN, augkd_of, make, read
from tests.stages.short_runs import check_resume, same, state, train


# -- resume ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("killed_after", "changes"),
    [
        *((epochs, {}) for epochs in (1, 3, 5)),  # one in each module
        (5, {"precision": "bfloat16", "steps_per_epoch": 2}), (3, DRAWN),
        *(pytest.param(epochs, {}, marks=pytest.mark.slow) for epochs in (2, 4)),
        *(pytest.param(epochs, {"precision": "bfloat16"}, marks=pytest.mark.slow) for epochs in (1, 3)),
        *(pytest.param(epochs, DRAWN, marks=pytest.mark.slow) for epochs in (2, 5)),
        (1, {"student": "mobilenetv3-small"}),  # with dropout
    ],
)  # fmt: skip
def test_resumed_in_any_module_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, killed_after: int, changes: dict[str, Any]
) -> None:
    changes = {"steps_per_epoch": 4, **changes}  # the generator's steps: 0, 6 and so on
    check_resume(lambda: make(**changes), tmp_path, killed_after, 6, uncut(json.dumps(changes)))


@functools.cache
def uncut(changes: str) -> Run:
    return train(make(**json.loads(changes)), 6)


# -- options, curve --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        {"augkd.latent": 7}, {"augkd.free_epochs": 3}, {"augkd.anchor_epochs": 1},
        {"augkd.anchor_epochs": 0}, {"augkd.mixup": False}, {"augkd.a": 0.9}, {"augkd.b": 0.3},
        {"augkd.mask_ratio": 0.9}, {"augkd.uncertainty": "max_softmax"}, {"temperature": 2.0},
        {"augkd.teacher_weight": 0.2}, {"augkd.mask_start": 0.06}, {"augkd.anchor_lr": 1e-2},
        {"augkd.encoder_lr": 1e-2},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_changes_the_student(change: dict[str, Any]) -> None:
    changes = {"epochs": 7} | change
    if "augkd.free_epochs" in change or change.get("augkd.anchor_epochs") == 1:
        changes["epochs"] = 7 + sum(make(**change).phases[:2]) - 4  # as many for the last module
    assert read(changes).epochs - sum(make(**changes).phases[:2]) >= 2
    plain = seven_epochs()
    changed = train(make(**changes), changes["epochs"])
    assert not same(state(plain.method.student()), state(changed.method.student()))


@functools.cache
def seven_epochs() -> Run:
    return train(make(epochs=7), 7)


def test_module_one_hands_its_student_on_and_the_anchor_reaches_the_mixtures() -> None:
    run = train(make(), 4)  # modules 1 and 2 are over
    student = state(augkd_of(run).net)
    assert not same(student, state(augkd_of(make()).net))  # it has learned from what was generated,
    learned = augkd_of(train(make(), 2)).net.conv1.weight
    assert torch.equal(student["conv1.weight"], learned)  # and module 2 leaves it alone

    def losses(anchor_epochs: int) -> dict[str, Tensor]:
        method = augkd_of(run)
        method.settings = method.settings.model_copy(update={"anchor_epochs": anchor_epochs})
        rng = np.random.default_rng(0)
        batch = run.feed.batch(0, torch.arange(1, 4), rng, 0)
        found, _ = method.losses(batch)
        return found

    method = augkd_of(run)
    method.begin_epoch(4, 6)
    without, with_anchor = (losses(epochs)["kd"].detach() for epochs in (0, 2))
    assert float((with_anchor - without).abs() / without) > 1e-4


def test_no_option_is_left_out_above() -> None:
    marks = test_every_option_changes_the_student.pytestmark
    tested = {key.removeprefix("augkd.") for change in marks[0].args[1] for key in change}
    assert tested == {*read({}).augkd.model_dump(), "temperature"}


def test_a_figure_is_the_mean_over_the_steps_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = make(steps_per_epoch=8), []
    step = run.step

    def noted(batch: Any) -> dict[str, Tensor]:
        seen.append(step(batch))
        return seen[-1]

    monkeypatch.setattr(run, "step", noted)
    train(run, 1)
    assert [("adversarial" in figures, "dream_kd" in figures) for figures in seen] == [
        (number % 6 == 0, number % 6 != 0) for number in range(8)
    ]
    for key, value in run.rows[0].items():
        if key != "epoch":
            values = [float(figures[key]) for figures in seen if key in figures]
            assert value == pytest.approx(sum(values) / len(values), rel=1e-5), key
    assert set(run.rows[0]) == {
        "epoch", "loss", "agreement", "adversarial", "one_hot", "balance", "statistics", "dream_kd", "encoder",
    }  # fmt: skip


# -- what the method shows and draws ---------------------------------------------------------------------------
def test_moments_are_dreams_then_anchors_then_mixtures() -> None:
    run = make(**{"augkd.a": 0.4, "augkd.b": 0.2})
    method, seen = augkd_of(run), []
    for number in range(6):
        list(run.epoch(number))
        assert len(run.moments.made) == number  # of module 1 the end alone
        if not number:
            continue
        before = state(method)
        rows = run.kept[:12]
        images, labels = run.views.plain(rows), (torch.arange(COUNT) % 4 - 1)[rows]
        method.eval()
        with torch.no_grad():
            z = method.encoder(images, labels)[0]
            anchor, generator = method.anchor(z, labels), method.generator
            share = (0.2, 1.0)[max(number - 4, 0)]  # .2 + .8 e / (.4 * 2), at most 1
            wanted = {
                0: generator(z),
                1: generator(anchor),
                2: (1 - share) * generator((1 - share) * anchor + share * z) + share * images,
            }[number // 2]
        method.train()
        torch.testing.assert_close(run.moments.made[-1], wanted, atol=1e-5, rtol=1e-4)
        assert same(before, state(method))
        seen.append(run.moments.made[-1])
    assert torch.equal(seen[-1], run.moments.shown()[0]), "the last mixture is the image"
    assert float((seen[0] - seen[2]).abs().max()) > 1e-3, "the anchor changes something"


@pytest.mark.parametrize(
    ("phases", "epochs"),
    [
        ([8, 2, 6], [2, 4, 6, 8, 9, 10, 12, 13, 15, 16]),
        ([0, 0, 3], [1, 2, 3]),
        ([20, 0, 1], [5, 10, 15, 20, 21]),
    ],
)
def test_moments_are_four_of_every_phase(phases: list[int], epochs: list[int]) -> None:
    assert sorted(shown_epochs(phases)) == epochs


def test_moments_survive_a_kill_and_there_are_none_where_nothing_is_mixed(tmp_path: Path) -> None:
    whole, first = train(make(), 6), train(make(), 3)
    save(first, tmp_path / "state.pt")
    second = make()
    restore(second, tmp_path / "state.pt")
    train(second, 6)
    assert len(whole.moments.made) == len(second.moments.made) == 5
    for one, other in zip(whole.moments.made, second.moments.made, strict=True):
        assert torch.equal(one, other)
    alone = {"augkd.mixup": False, "augkd.free_epochs": 0, "augkd.anchor_epochs": 0}
    assert not train(make(**alone), 2).moments.made


def test_a_drawn_dictionary_is_made_of_the_generators_images() -> None:
    run = make(**DRAWN, **{"deconfound.centre": False})  # centred, their mean is 0
    compensation = run.method.student().compensation
    assert compensation is not None
    assert not bool(compensation.prototypes.any())
    before = state(train(run, 1).method)
    run.drawn.refresh(run.method, 1)
    after = state(run.method)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {f"net.compensation.{name}" for name in ("prototypes", "prior", "seen")}
    images = run.method.draw(30, np.random.default_rng([1, 1, 1]))
    noise = np.random.default_rng([1, 1, 1]).standard_normal((30, 8), np.float32)
    generator = copy.deepcopy(augkd_of(run).generator).eval()
    torch.testing.assert_close(images, generator(torch.from_numpy(noise)).detach())
    wanted = run.teacher.pool(run.teacher.features(images)).mean(0)
    found = compensation.prior @ compensation.prototypes
    scale = wanted.norm() / found.norm()  # a compensation keeps prototypes at a mean square of 1
    torch.testing.assert_close(scale * found, wanted, atol=1e-5, rtol=1e-4)
    raw = train(make(), 6)
    assert raw.rows[0].items() <= train(run, 6).rows[0].items()
    assert run.rows[-1]["loss"] != raw.rows[-1]["loss"]
