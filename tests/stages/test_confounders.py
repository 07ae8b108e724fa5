"""Which prototypes move which classes: what a student answers, taken apart."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.distill import confounders
from stages.distill.confounders import Confounders, look
from stages.distill.loop import Run
from tests.stages.plugged import COUNT, IDS, KEY, SHARES, make, plugged
from tests.stages.short_runs import train

CLASSES = ("a", "b", "c")


def looked_at(run: Run) -> Confounders:
    assert run.gauge is not None
    found = look(run.method.student(), run.gauge.images(run.method, 0), run.forward)
    assert found is not None
    return found


def answers(run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Of all images: lambda [n, N], and the logits [n, K] with the compensation and without it."""
    net, module = run.method.student().eval(), plugged(run)
    images = run.views.plain(torch.arange(COUNT))
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        given = net(images)
        hook.remove()
        weights = module.weights(seen[0])
        net.compensation = None
        raw = net(images)
        net.compensation = module
    return weights.double(), given.double(), raw.double()


@pytest.mark.parametrize("method", ["kd", "simkd"])
@pytest.mark.parametrize("prior", [True, False])
def test_the_pushes_of_all_prototypes_make_up_what_is_added(method: str, prior: bool) -> None:
    run = train(make(method, epochs=20, **{"deconfound.prior": prior}), 12)
    found = looked_at(run)
    weights, given, raw = answers(run)
    added = given - raw
    assert float(added.std(0).max()) > 1e-4
    asked = (weights - weights.mean(0)) / weights.std(0, correction=0)
    torch.testing.assert_close(
        asked @ found.push.double(), added - added.mean(0), atol=2e-5, rtol=1e-3
    )
    torch.testing.assert_close(found.attention, weights.mean(0))
    for at in range(len(SHARES)):
        order = sorted(range(COUNT), key=lambda n: -float(weights[n, at]))
        assert found.asking[at].tolist() == order[: confounders.SHOWN]


def test_looking_changes_nothing_and_finds_nothing_where_all_ask_alike() -> None:
    run = train(make(), 2)
    before = [each.clone() for each in run.method.state_dict().values()]
    assert run.method.student().training
    looked_at(run)
    assert run.method.student().training
    assert all(map(torch.equal, before, run.method.state_dict().values()))
    for changes in ({KEY: "constant"}, {"deconfound.attention": "random"}):
        other = make(**changes)
        assert look(other.method.student(), [], other.forward) is None
    host = make(plug_in=False)
    assert look(host.method.student(), [], host.forward) is None


def test_the_file_has_a_row_per_prototype_and_none_without(tmp_path: Path) -> None:
    run = train(make(), 3)
    found = looked_at(run)
    path = tmp_path / "confounders.csv"
    confounders.write(path, found, CLASSES, run.forward.spread_of(IDS, 1024))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["prior"]) for row in rows] == pytest.approx(SHARES.tolist(), rel=1e-4)
    for at, row in enumerate(rows):
        push = [float(row[f"class/{name}"]) for name in CLASSES]
        assert push == pytest.approx(found.push[at].tolist(), rel=1e-4, abs=1e-9)
        length = sum(each**2 for each in push) / 3
        assert float(row["push"]) == pytest.approx(length**0.5, rel=1e-3, abs=1e-9)
        assert row["asking"].split() == [IDS[place] for place in found.asking[at].tolist()]
    confounders.write(path, None, CLASSES, ())
    assert path.read_text().splitlines() == [
        "prototype,prior,attention,spread,push,asking,class/a,class/b,class/c"
    ]


def test_names_are_those_of_the_images_that_are_looked_at() -> None:
    run = make()
    for most in (5, COUNT, 1024):
        rows = [IDS.index(name) for name in run.forward.spread_of(IDS, most)]
        expected = torch.cat(list(run.forward.spread(most)))
        torch.testing.assert_close(run.views.plain(torch.tensor(rows)), expected)
