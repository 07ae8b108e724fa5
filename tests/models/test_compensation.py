"""KDCI's compensation against naive loops in float64 (arXiv 2403.19539)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.compensations import ATTENTIONS, NOTHING, PRIOR, K, Z, lively, make, naive
from webdistill.models import compensation
from webdistill.models.compensation import Compensation, additive_scores

QUERIES = torch.tensor([[0.5, -1.0, 2.0], [-0.25, 0.75, 1.5]])


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prototypes of a length that keeps the numbers here small: entries of size 1."""
    monkeypatch.setattr(compensation, "LENGTH", math.sqrt(2))


@pytest.mark.parametrize("width", [64, 512])
def test_prototypes_and_keys_are_as_large_for_any_teacher(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compensation, "LENGTH", 8.0)
    torch.manual_seed(0)
    module = Compensation(K, K, 40, width, query="logits", attention="additive", use_prior=True)
    module.set_dictionary(torch.rand(40, width) + 1, torch.full((40,), 1 / 40))
    length = module.prototypes.square().sum(1).mean().sqrt()
    assert float(length) == pytest.approx(8.0)
    keys = module.to_key(module.prototypes).detach()
    assert float(keys.square().mean().sqrt()) == pytest.approx(1 / math.sqrt(3), rel=0.2)


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_what_is_added_equals_the_naive_loops(attention: str, prior: bool) -> None:
    module = lively(make(attention, prior=prior))
    for learns in (True, False):  # which may take different ways
        with torch.set_grad_enabled(learns):
            added, weights = (
                module(QUERIES, NOTHING, QUERIES).tolist(),
                module.weights(QUERIES).tolist(),
            )
        for row, query in enumerate(QUERIES.tolist()):
            shares, _, wanted = naive(module, query)
            assert weights[row] == pytest.approx(shares, abs=1e-6)
            assert added[row] == pytest.approx(wanted, abs=1e-6)
        assert (weights[0] == weights[1]) == (attention == "random")


@pytest.mark.parametrize(
    ("attention", "scores"),
    [("additive", [2 * math.tanh(0.5 + 1.2), 2 * math.tanh(0.5)]), ("dot", [0.5 * 1.2 / 16, 0.0])],
)
def test_an_example_small_enough_for_paper(attention: str, scores: list[float]) -> None:
    """q = the first logit, k = a prototype's first entry, w = 2; W_z hands F's two entries on as they are."""
    module = make(attention)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        module.to_query.weight[0, 0] = module.to_key.weight[0, 0] = 1
        module.fuse.weight[0, 0] = module.fuse.weight[1, 1] = 1
        if attention == "additive":
            module.to_score.weight[0, 0] = 2
    first = 1 / (1 + math.exp(scores[1] - scores[0]))  # lambda_1; prototypes are [1.2, 0], [0, 1.6]
    wanted = [first * 0.7 * 2 * 1.2, (1 - first) * 0.3 * 2 * 1.6, 0.0]
    assert module(QUERIES, NOTHING, QUERIES)[0].tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_first_step_of_w_z_is_minus_rate_times_the_outer_product(attention: str) -> None:
    """L = sum_b |s_b + W_z F_b - t_b|^2 / 2; where W_z = 0 its gradient is sum_b (s_b - t_b) F_b^T, of others 0."""
    module = make(attention)
    before = {name: each.clone() for name, each in module.named_parameters()}
    target = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]])
    answers = QUERIES + module(QUERIES, NOTHING, QUERIES)
    assert torch.equal(answers, QUERIES)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    ((answers - target).square().sum() / 2).backward()
    optimiser.step()
    wanted = [[0.0, 0.0] for _ in range(K)]
    for query, goal in zip(QUERIES.tolist(), target.tolist(), strict=True):
        for c in range(K):
            for j, found in enumerate(naive(module, query)[1]):
                wanted[c][j] -= 0.1 * (query[c] - goal[c]) * found
    torch.testing.assert_close(module.fuse.weight.data, torch.tensor(wanted), atol=1e-6, rtol=0)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]) == (name != "fuse.weight"), name


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gradients_are_those_of_the_formula_and_the_dictionary_has_none(attention: str) -> None:
    """Reference: the formula in float64 and autograd; more queries than anything would take at once."""
    module, pull = lively(make(attention)), torch.randn(70, K)
    queries = torch.randn(70, K, requires_grad=True)
    learned: dict[str, Any] = {**dict(module.named_parameters()), "queries": queries}
    p = {name: each.detach().double().requires_grad_() for name, each in learned.items()}
    z, scores = module.prototypes.double(), torch.zeros(70, 2)
    if attention == "random":
        scores = module.scores.double().expand(70, 2)
    else:
        q, k = p["queries"] @ p["to_query.weight"].T, z @ p["to_key.weight"].T
        additive = attention == "additive"
        scores = torch.tanh(q[:, None] + k) @ p["to_score.weight"][0] if additive else q @ k.T / 16
    wanted = torch.softmax(scores, 1) * PRIOR * 2 @ z @ p["fuse.weight"].T
    (wanted * pull).sum().backward()
    (module(queries, NOTHING, queries) * pull).sum().backward()
    if attention == "random":
        assert learned.pop("queries").grad is None
    for name, each in learned.items():
        expected: Any = p[name].grad
        assert float(expected.abs().max()) > 1e-3, name
        torch.testing.assert_close(each.grad.double(), expected, atol=1e-5, rtol=1e-5)
    assert not any(each.requires_grad for each in module.buffers())


@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_centring_two_prototypes_equals_the_example_on_paper(attention: str) -> None:
    """Priors .7 and .3 leave .3 and -.7 of z_1 - z_2 = [3, -4]: [.9, -1.2] and [-2.1, 2.8], of length 1.5 and 3.5.

    The root of the mean of 2.25 and 12.25 is sqrt(7.25). Keys of a dot product all move by the same, so softmax differs
    from that of raw prototypes by the scale alone.
    """
    module = lively(make(attention, centre=True))
    scale = math.sqrt(2) / math.sqrt(7.25)
    wanted = torch.tensor([[0.9, -1.2], [-2.1, 2.8]]).double() * scale
    torch.testing.assert_close(module.prototypes.double(), wanted, atol=1e-6, rtol=0)
    module(QUERIES, NOTHING, QUERIES).sum().backward()
    gradient = torch.zeros(2).double()
    for row, query in enumerate(QUERIES.tolist()):
        shares, found, added = naive(module, query)
        assert module.weights(QUERIES)[row].tolist() == pytest.approx(shares, abs=1e-6)
        assert module(QUERIES, NOTHING, QUERIES)[row].tolist() == pytest.approx(added, abs=1e-6)
        by_hand = [
            sum(2 * p * s * z for p, s, z in zip((0.7, 0.3), shares, column, strict=True))
            for column in zip(*wanted.tolist(), strict=True)
        ]
        assert found == pytest.approx(by_hand, abs=1e-6)
        gradient += torch.tensor(by_hand).double()
    for row in module.fuse.weight.grad:
        torch.testing.assert_close(row.double(), gradient, atol=1e-5, rtol=0)
    if attention == "dot":
        raw = lively(make(attention))
        raw.prototypes.mul_(math.sqrt(12.5 / 7.25))
        torch.testing.assert_close(module.weights(QUERIES), raw.weights(QUERIES))


@pytest.mark.parametrize("prior", [True, False])
def test_equal_prototypes_are_nothing_once_centred_and_a_constant_without(prior: bool) -> None:
    points, shares = torch.rand(1, 7).expand(5, 7) + 1, torch.full((5,), 0.2)
    centred = lively(make(points=points, shares=shares, prior=prior, centre=True)).train()
    assert not centred(QUERIES, NOTHING, QUERIES).any()
    plain = lively(make(points=points, shares=shares, prior=prior)).train()
    first, second = plain(QUERIES, NOTHING, QUERIES)
    torch.testing.assert_close(first, second)
    assert first.abs().min() > 1e-3


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_what_w_z_reads_has_unit_length_over_the_batch_and_no_mean(
    attention: str, scale: float, centre: bool
) -> None:
    """Of any dictionary, and however the attention has learned; equal attention for all would leave nothing."""
    torch.manual_seed(2)
    queries, points = 9 * torch.randn(50, K), 1 + torch.rand(6, 9)
    module = lively(make(attention, scale * points, torch.full((6,), 1 / 6), centre=centre)).train()
    module.unit.fill_(0.3)
    found = module.normal(module.mixed(queries)).detach().double()
    assert float(found.square().sum(1).mean().sqrt()) == pytest.approx(0.3, rel=0.01)
    bare = module.mixed(queries).detach().double()
    if centre and attention != "random":
        assert found.mean(0).abs().max() < 1e-6
        bare -= bare.mean(0)
    length = (bare.square().sum(1).mean() + compensation.LEAST**2).sqrt()
    torch.testing.assert_close(found, 0.3 * bare / length, atol=1e-5, rtol=1e-4)


def test_running_mean_and_length_serve_where_there_is_no_batch() -> None:
    torch.manual_seed(2)
    module = lively(make(centre=True)).train()
    batches = [torch.randn(50, K) for _ in range(3)]
    found = [module.mixed(each).detach().double() for each in batches]
    for each in batches:
        module.normal(module.mixed(each))
    centre = torch.stack([each.mean(0) for each in found]).mean(
        0
    )  # all batches count alike at first
    square = sum(each.sub(each.mean(0)).square().sum(1).mean() for each in found) / 3
    alone = module.eval().normal(module.mixed(QUERIES)).detach().double()
    wanted = module.mixed(QUERIES).detach().double() - centre
    wanted *= float(module.unit) / (square + compensation.LEAST**2) ** 0.5
    torch.testing.assert_close(alone, wanted, atol=1e-5, rtol=1e-4)
    before = module.centre.clone()
    module.train().normal(torch.ones(4, 2))
    for _ in range(9):  # from the tenth on a batch counts for a tenth
        module.normal(torch.ones(4, 2))
    ninth = module.centre.clone()
    module.normal(torch.zeros(4, 2))
    torch.testing.assert_close(module.centre, 0.9 * ninth)
    assert not torch.equal(before, ninth)
    module.set_dictionary(Z, PRIOR)
    module.normal(torch.full((4, 2), 3.0))
    assert module.centre.tolist() == [3.0, 3.0], "of a new dictionary nothing is known"


def test_fuse_linear_is_w_h_s_plus_w_z_f() -> None:
    module = make(fuse="linear")
    assert not module(QUERIES, NOTHING, QUERIES).any(), "the host method to begin with"
    lively(module)
    host: Any = module.host
    for row, query in enumerate(QUERIES.tolist()):
        whole = torch.eye(K) + host.weight.detach()  # W_h
        wanted = (whole.double() @ torch.tensor(query).double()).tolist()
        wanted = [a + b for a, b in zip(wanted, naive(module, query)[2], strict=True)]
        found = (QUERIES + module(QUERIES, NOTHING, QUERIES))[row].tolist()
        assert found == pytest.approx(wanted, abs=1e-6)


def test_entries_that_no_exponential_could_hold_are_scored_all_the_same() -> None:
    queries = torch.tensor([[25.0, 90.0, -100.0]], requires_grad=True)
    keys, weight = torch.tensor([[-24.5, -90.5, 0.0]]), torch.tensor([1.0, 2.0, 4.0])
    score = additive_scores(queries, keys, weight)
    assert score.item() == pytest.approx(math.tanh(0.5) + 2 * math.tanh(-0.5) - 4, abs=1e-6)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_lambda_is_a_distribution_over_prototypes(attention: str) -> None:
    weights = lively(make(attention)).weights(5 * torch.randn(20, K)).detach()
    assert weights.shape == (20, 2)
    assert float(weights.min()) >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(20))
    assert bool((weights == weights[0]).all()) == (attention == "random")


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_scale_order_and_copies_of_prototypes_do_not_matter(attention: str, prior: bool) -> None:
    points, shares = torch.randn(4, 5), torch.tensor([0.4, 0.3, 0.2, 0.1])
    order = [2, 0, 3, 1]
    twice = torch.cat([points, points]), torch.cat([shares, shares]) / 2
    alike = [(7.3 * points, shares), (1e-3 * points, shares), (points[order], shares[order]), twice]
    plain, *others = (
        lively(make(attention, *each, prior=prior))(QUERIES, NOTHING, QUERIES).detach()
        for each in [(points, shares), *alike]
    )
    assert float(plain.abs().min()) > 1e-3
    for other in others:
        torch.testing.assert_close(other, plain, atol=1e-6, rtol=1e-5)


def test_prototypes_of_zeros_add_nothing() -> None:
    module = lively(make())
    assert module.prototypes.flatten().tolist() == pytest.approx([1.2, 0.0, 0.0, 1.6])
    module.set_dictionary(torch.zeros(2, 2), PRIOR)
    assert not module(QUERIES, NOTHING, QUERIES).any()


def test_low_precision_around_it_costs_no_digit() -> None:
    module, low = lively(make()), QUERIES.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = module(low, NOTHING, low)
    assert found[0].tolist() == pytest.approx(naive(module, low[0].tolist())[2], abs=1e-6)
