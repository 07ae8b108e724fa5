"""KDCI as a plug-in: the host until the first step, another student after it, for every method (arXiv 2403.19539)."""

from __future__ import annotations

import copy
import functools
import importlib
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stages.distill.deconfound import (
    DrawnDictionary,
    memory,
    read_dictionary,
)
from stages.distill.loop import Run
from stages.distill.method_params import DRAWING
from stages.distill.methods import Batch, Method
from stages.distill.params import Distill
from tests.stages.plugged import (
    COUNT,
    DRAWN,
    KEY,
    MAPS,
    POINTS,
    SHARES,
    WIDTH,
    make,
    plugged,
)
from tests.stages.short_runs import check_resume, same, train
from webdistill.core.errors import UserError

READING = {  # losses that read the student's logits, or the maps that a shared classifier makes them of
    "kd": {"kd"}, "dfnd": {"kd", "noisy_label"}, "simkd": {"features"}, "kd3": {"features"},
    "mosaic": {"kd", "mosaic_kd", "adversarial"}, "odsd": {"kd"},
}  # fmt: skip


def state(module: nn.Module) -> dict[str, Tensor]:
    """Its tensors and, where they have one, their gradients."""
    learned = {f"{n}, gradient": p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {name: each.clone() for name, each in (module.state_dict() | learned).items()}


def losses(run: Run) -> list[dict[str, float]]:
    """The curve without what is measured of a compensation."""
    return [
        {name: each for name, each in row.items() if not name.startswith("compensation_")}
        for row in run.rows
    ]


FIRST_STEPS: dict[str, dict[str, Any]] = {
    "float32": {}, "features": {"deconfound.query": "features"}, "bfloat16": {"precision": "bfloat16"},
    "bfloat16-features": {"precision": "bfloat16", "deconfound.query": "features"},
    "dropout": {"student": "mobilenetv3-small"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param(method, changes, id=f"{method}-{name}")
        for method in READING
        for name, changes in FIRST_STEPS.items()
        if "precision" not in changes or method in ("kd", "simkd")  # one of either kind: it is slow
    ],
)
def test_the_first_step_is_the_hosts_bit_for_bit(method: str, changes: Any) -> None:
    host, run = train(make(method, False, **changes), 1), make(method, **changes)
    before = state(plugged(run))
    assert losses(train(run, 1)) == losses(host)
    assert same(state(host.method), state(run.method)), "gradients, weights, running statistics"
    assert train(run, 2).rows[-1]["loss"] != train(host, 2).rows[-1]["loss"]
    assert not same(state(host.method.student()), state(run.method.student()))
    for name, tensor in plugged(run).state_dict().items():
        constant = name in ("prototypes", "prior") or (name == "unit" and method not in MAPS)
        assert torch.equal(tensor, before[name]) == constant, name
    assert all(float(each.grad.abs().max()) > 0 for each in plugged(run).parameters())


@pytest.mark.parametrize("method", ["simkd", "kd3"])
@pytest.mark.parametrize("dictionary", ["prototypes", "constant"])
def test_the_own_rate_holds_for_maps_that_hardly_vary(method: str, dictionary: str) -> None:
    """The loss is divided by the variance: in other units than the maps' own, steps are as much too large."""
    run = make(method, epochs=40, **{KEY: dictionary})
    assert run.settings.compensation_lr == 1.0
    assert run.forward.map_variance(2) < 0.03
    found = [row["features"] for row in train(run, 40).rows]
    assert plugged(run).unit.item() == pytest.approx(float(run.method.variance) ** 0.5)
    assert sum(found[-5:]) < sum(found[:5])


def test_a_constant_is_a_trained_bias_per_class() -> None:
    """Bit for bit the host with another parameter; F of any dictionary of equal vectors, uncentred, does the same."""
    run = train(make(**{KEY: "constant"}), 5)
    bias = plugged(run).fuse.weight[:, 0].detach()
    assert float(bias.abs().max()) > 0
    assert run.rows[-1]["compensation_constant"] == pytest.approx(
        float(bias.square().mean().sqrt()), rel=1e-5
    )
    assert run.rows[-1]["compensation_by_image"] < 1e-7
    alike = make(**{"deconfound.centre": False})
    equal, uniform = POINTS[:1].expand(5, -1), torch.full((5,), 0.2)
    plugged(alike).set_dictionary(equal, uniform)
    for mine, theirs in zip(train(alike, 5).rows, run.rows, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["compensation_constant"] == pytest.approx(
            theirs["compensation_constant"], rel=1e-4
        )


def test_equal_prototypes_are_the_host_once_centred() -> None:
    run, host = make(), make(plug_in=False)
    plugged(run).set_dictionary(POINTS[:1].expand(5, -1), SHARES)
    assert losses(train(run, 4)) == losses(train(host, 4))
    assert same(state(host.method.student()), state(run.method.student()))


def test_the_parts_of_a_compensation_are_those_of_the_answers() -> None:
    run = train(make("kd"), 3)
    net, module = run.method.student().eval(), plugged(run)
    images = run.views.plain(torch.arange(COUNT))
    with torch.no_grad():
        given = net(images)
        net.compensation = None
        added = (given - net(images)).double()
    constant = added.mean(0)
    assert module.mean.tolist() == pytest.approx(constant.tolist(), abs=1e-5)
    row = run.rows[-1]
    assert row["compensation_constant"] == pytest.approx(
        constant.square().mean().sqrt().item(), abs=1e-5
    )
    spread = (added - constant).square().mean().sqrt().item()
    assert row["compensation_by_image"] == pytest.approx(spread, abs=1e-5)


def test_what_gives_no_dictionary_is_refused_in_one_line(tmp_path: Path) -> None:
    for method in {*READING} - {"mosaic"}:
        with pytest.raises(
            UserError, match="deconfound.dictionary = drawn, but .* draws no images"
        ):
            make(method, **DRAWN)
    save_file({"prototypes": POINTS}, tmp_path / "half.safetensors")
    for name in ("half.safetensors", "absent.safetensors"):
        with pytest.raises(UserError, match=rf"^\S*{name} .*dvc repro prototypes.*$"):
            read_dictionary(tmp_path / name)


def test_a_drawn_dictionary_is_empty_until_start_and_renewed_every_so_many_epochs() -> None:
    run = make("mosaic", **(DRAWN | {"epochs": 8, "deconfound.drawn.start": 2}))
    seen = [state(plugged(run)), *(state(plugged(train(run, epoch + 1))) for epoch in range(8))]
    for name in ("prototypes", "prior"):
        new = [not torch.equal(a[name], b[name]) for a, b in pairwise(seen)]
        assert new == [False, False, True, False, True, False, True, False]
    assert all(float(each["prior"].double().sum()) == pytest.approx(1) for each in seen)
    host = train(make("mosaic", plug_in=False, epochs=8), 3)
    assert losses(run)[:3] == losses(host), "raw, and the first step after it begins at W_z = 0"
    assert [bool(each["fuse.weight"].any()) for each in seen[:4]] == [False, False, False, True]


def test_drawn_prototypes_and_priors_make_up_the_mean_of_the_methods_images() -> None:
    run = train(make("mosaic", **DRAWN), 1)
    before, teacher, settings = state(run.method), run.teacher, run.settings.deconfound.drawn
    drawn = DrawnDictionary(settings, 1, lambda images: teacher.pool(teacher.features(images)))
    found = drawn.draw(run.method, 5)
    images = run.method.draw(40, np.random.default_rng([1, 5, 1]))
    wanted = teacher.pool(teacher.features(images)).mean(0)
    torch.testing.assert_close(found.prior @ found.prototypes, wanted, atol=1e-5, rtol=1e-4)
    counts = (found.prior * 40).tolist()
    assert counts == pytest.approx([max(1, round(each)) for each in counts], abs=1e-4)
    assert same(before, state(run.method)), "drawing changes nothing"


@pytest.mark.parametrize(
    ("method", "stop", "changes"),
    [("kd", 2, {}), ("kd", 1, {"precision": "bfloat16", "deconfound.attention": "random"}),
     ("kd3", 2, {}), ("kd3", 3, {"deconfound.query": "features"}),
     *(("mosaic", stop, DRAWN) for stop in (1, 3)),  # renewed before 1, 3 and 5
     *(pytest.param("mosaic", stop, DRAWN, marks=pytest.mark.slow) for stop in (2, 4))],
)  # fmt: skip
def test_resuming_changes_no_bit(tmp_path: Path, method: str, stop: int, changes: Any) -> None:
    whole, resumed = check_resume(lambda: make(method, **changes), tmp_path, stop, 6)
    assert same(state(whole.method), state(resumed.method))


@pytest.mark.parametrize(
    ("option", "value"),
    [("attention", "dot"), ("attention", "random"), ("query", "features"), ("prior", False),
     ("centre", False), ("fuse", "linear"),
     ("drawn.images", 50), ("drawn.count", 4), ("drawn.dims", 1), ("drawn.start", 0), ("drawn.every", 1), ("lr", 0.05)],
)  # fmt: skip
def test_every_option_changes_the_student(option: str, value: object) -> None:
    method, base = ("mosaic", DRAWN) if option.startswith("drawn") else ("kd", {})
    before = plain(method)
    changed = state(train(make(method, **(base | {f"deconfound.{option}": value})), 4).method)
    assert not same({k: v for k, v in before.items() if "compensation" not in k}, changed)


@functools.cache
def plain(method: str) -> dict[str, Tensor]:
    return state(train(make(method, **(DRAWN if method == "mosaic" else {})), 4).method)


@pytest.mark.parametrize("method", READING)
@torch.no_grad()
def test_losses_and_selection_read_compensated_answers(method: str) -> None:
    """Raw logits s, F in float64: s + W_z F; where the teacher's classifier W reads the maps, s + W W_z F."""
    run = make(method)
    module, host = plugged(run), copy.deepcopy(run.method)
    module.fuse.weight.normal_()
    module.load_state_dict(module.as_it_was(), strict=False)
    w_q, w_k, w, w_z = (each.double() for each in module.parameters())
    student, z = host.student(), module.prototypes.double()
    student.compensation = None
    onward = student.fc.weight.double() if hasattr(student, "projector") else torch.eye(3).double()

    def compensated(raw: Tensor) -> Tensor:
        scores = torch.tanh((raw.double() @ w_q.T)[:, None] + z @ w_k.T) @ w[0]
        fused = torch.softmax(scores, 1) * SHARES * 5 @ z
        return (raw + fused @ w_z.T @ onward.T).float()

    wanted = compensated(student.eval()(run.views.plain(torch.arange(COUNT))))
    torch.testing.assert_close(run.pool.student_logits(), wanted, atol=1e-3, rtol=1e-4)
    images, weight = run.views(0, torch.arange(8)), run.weight[:8]
    maps = run.teacher.features(images)
    given = images, run.teacher.classify(maps), maps, weight, torch.arange(8)
    for each in (host, run.method):
        each.train().select(run.pool, 0, 6)  # odsd finds its prototypes
    module.eval()  # reads F as it is
    losses, logits = run.method.losses(Batch(*given, np.random.default_rng(5)))
    before, raw = host.losses(Batch(*given, np.random.default_rng(5)))
    torch.testing.assert_close(logits, compensated(raw), atol=1e-3, rtol=1e-4)
    assert {name for name in losses if losses[name] != before[name]} == READING[method]


@pytest.mark.parametrize(("method", "changes"), [("kd", {}), ("kd3", {}), ("mosaic", DRAWN)])
def test_measuring_the_overhead_changes_nothing(method: str, changes: dict[str, Any]) -> None:
    plain, measured = (train(make(method, **changes), 3) for _ in range(2))
    before = {n: each for n, each in state(measured.method).items() if "gradient" not in n}
    assert np.isfinite(measured.compensation_overhead()).all()
    assert same(before, {n: state(measured.method)[n] for n in before})
    assert train(measured, 6).rows == train(plain, 6).rows
    assert same(state(plain.method), state(measured.method))


def test_memory_is_that_of_weights_gradients_momentum_and_dictionary() -> None:
    compensation = make("kd").method.student().compensation
    assert compensation is not None
    weights = 256 * (3 + WIDTH + 1) + WIDTH * 3  # W_q, W_k, w, W_z
    assert memory(compensation) * 2**20 == 4 * (3 * weights + len(POINTS) * (WIDTH + 1) + WIDTH + 6)


def test_params_know_which_methods_draw() -> None:
    names = get_args(Distill.model_fields["method"].annotation)
    modules = [importlib.import_module(f"stages.distill.methods.{name}") for name in names]
    found = {
        name
        for name, module in zip(names, modules, strict=True)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Method) and kind.draw is not Method.draw
    }
    assert found == set(DRAWING)
