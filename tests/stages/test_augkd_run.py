"""AuG-KD as a whole run: phases, rates, resume, options, curve, pictures, its own images as a dictionary."""

from __future__ import annotations

import copy
import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.distill.checkpoint import restore, save
from stages.distill.deconfound import attach
from stages.distill.loop import Run
from stages.distill.methods import build as build_method
from stages.distill.methods.augkd import AugKd
from stages.distill.moments import shown_epochs
from stages.distill.params import Distill
from webdistill.core.errors import UserError
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[2]
COUNT, SIZE = 24, 14
SETTINGS = {
    "method": "augkd", "student": "resnet8", "epochs": 6, "steps_per_epoch": 2, "batch_size": 6, "lr": 0.05,
    "warmup_epochs": 1.0, "views": 2, "precision": "float32", "device": "cpu", "augkd.latent": 8,
    "augkd.free_epochs": 2, "augkd.anchor_epochs": 2,
}  # fmt: skip
DRAWN: dict[str, Any] = {
    "deconfound.dictionary": "drawn", "deconfound.drawn.images": 30,
    "deconfound.drawn.count": 4, "deconfound.drawn.dims": 6, "deconfound.drawn.start": 1,
    "deconfound.drawn.every": 2,
}  # fmt: skip


def read(changes: dict[str, Any]) -> Distill:
    overrides = [f"distill.{k}={json.dumps(v)}" for k, v in (SETTINGS | changes).items()]
    settings = load(ROOT / "params.yaml", overrides).sections["distill"]
    assert isinstance(settings, Distill)
    return settings


def make(**changes: Any) -> Run:
    settings = read(changes)
    torch.manual_seed(0)
    pool = torch.randint(0, 256, (COUNT, SIZE, SIZE, 3), dtype=torch.uint8)
    teacher = build("resnet8", 3).eval().requires_grad_(False)
    teacher.fc.weight.mul_(10)
    views = Views(
        pool, (0.5,) * 3, (0.25,) * 3, seed=1, min_scale=settings.min_scale, mixup=settings.mixup  # type: ignore[arg-type]
    )  # fmt: skip
    method = build_method(settings, build(settings.student, 3), teacher, SIZE)
    if settings.deconfound.enabled:
        attach(method, settings.deconfound, None, teacher.fc.in_features)
    ids, labels = [f"image{i}" for i in range(COUNT)], torch.arange(COUNT) % 4 - 1
    classes = ("a", "b", "c")
    return Run(settings, 1, views, teacher, method, torch.ones(COUNT), ids, classes, labels)


def train(run: Run, stop: int) -> Run:
    for number in range(len(run.rows), stop):
        list(run.epoch(number))
    return run


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def augkd_of(run: Run) -> AugKd:
    assert isinstance(run.method, AugKd)
    return run.method


# -- phases and rates ------------------------------------------------------------------------------------------
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

    run.step = noted  # type: ignore[method-assign]
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
    whole, first, second = uncut(json.dumps(changes)), make(**changes), make(**changes)
    save(train(first, killed_after), tmp_path / "state.pt")
    for tensor in (*second.method.parameters(), *second.method.buffers()):
        tensor.detach().zero_()
    assert restore(second, tmp_path / "state.pt") == killed_after
    assert train(second, 6).rows == whole.rows
    assert second.history.bits() == whole.history.bits()
    assert same(state(whole.method), state(second.method))


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
    marks = test_every_option_changes_the_student.pytestmark  # type: ignore[attr-defined]
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
        assert len(run.moments.made) == number + 1
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
    assert float((seen[1] - seen[3]).abs().max()) > 1e-3, "the anchor changes something"


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
    assert len(whole.moments.made) == len(second.moments.made) == 6
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
