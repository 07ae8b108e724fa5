"""Every formula against a naive float64 version: loops and definitions, nothing shared."""

from __future__ import annotations

import math

import numpy as np
import pytest

from webdistill.commands.fit import formulas
from webdistill.commands.fit.measuring import redundant, sample

RNG = np.random.default_rng(0)


def test_softmax_and_entropy() -> None:
    z = RNG.normal(0, 5, (7, 4)).astype(np.float32)
    p = formulas.softmax(z)
    for row, found in zip(z.astype(np.float64), p, strict=True):
        weights = [math.exp(value) for value in row]
        assert found == pytest.approx([w / sum(weights) for w in weights], abs=1e-12)
        own = -sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)
        assert formulas.entropy(found) == pytest.approx(own, abs=1e-12)
    assert formulas.entropy(np.array([0.0, 1.0])) == 0.0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 5, 5, 5], 4.0), ([9, 0, 0, 0], 1.0), ([1, 1, 0, 0], 2.0), ([3, 1], 4 / 3**0.75)],
)
def test_effective_classes(counts: list[int], expected: float) -> None:
    assert formulas.effective_classes(np.array(counts)) == pytest.approx(expected, abs=1e-12)


def test_distances_of_normal_distributions_against_numerical_integrals() -> None:
    """KL of two normal densities by summing p log(p / q) over a fine grid."""
    mean, own_mean = np.array([0.3, -1.0]), np.array([0.0, 0.5])
    var, own_var, eps = np.array([1.5, 0.4]), np.array([1.0, 0.9]), 1e-5
    x = np.linspace(-30, 30, 600_001)

    def density(m: float, v: float) -> np.ndarray:
        return np.exp(-((x - m) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v) + 1e-300

    naive = []
    for m, v, om, ov in zip(mean, var + eps, own_mean, own_var + eps, strict=True):
        p, q = density(m, v), density(om, ov)
        naive.append(float(((p - q) * np.log(p / q)).sum() * (x[1] - x[0]) / 2))
    found = formulas.divergence(mean, var, own_mean, own_var, eps)
    assert found == pytest.approx(sum(naive) / 2, rel=1e-6)
    shifts = [abs(m - om) / math.sqrt(ov + eps) for m, om, ov in zip(mean, own_mean, own_var, strict=True)]  # fmt: skip
    assert formulas.shift(mean, own_mean, own_var, eps) == pytest.approx(sum(shifts) / 2)
    ratios = [abs(math.log((v + eps) / (ov + eps))) for v, ov in zip(var, own_var, strict=True)]
    assert formulas.log_ratio(var, own_var, eps) == pytest.approx(sum(ratios) / 2)
    assert formulas.divergence(mean, var, mean, var, eps) == 0.0


def test_agreement_per_class() -> None:
    ours, theirs = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])
    share, per_class = formulas.agreement(ours, theirs, 4)
    assert share == pytest.approx(3 / 5)
    assert per_class[:2] == pytest.approx([1 / 2, 2 / 3])
    assert np.isnan(per_class[2:]).all()


def naive_distance(queries: np.ndarray, references: np.ndarray) -> float:
    total = 0.0
    for q in queries.astype(np.float64):
        best = -2.0
        for r in references.astype(np.float64):
            length = math.sqrt(q @ q) * math.sqrt(r @ r)
            best = max(best, float(q @ r) / length if length else 0.0)
        total += 1 - best
    return total / len(queries)


def test_novelty_is_the_distance_of_the_last_third_to_the_others() -> None:
    x = RNG.normal(size=(20, 5)).astype(np.float32)
    x[3] = 0
    distance, gain = formulas.novelty(x)
    half, whole = naive_distance(x[12:], x[:6]), naive_distance(x[12:], x[:12])
    assert distance == pytest.approx(whole, abs=1e-12)
    assert gain == pytest.approx(1 - whole / half, abs=1e-12)
    assert formulas.novelty(np.ones((9, 4))) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_a_pool_that_repeats_itself_is_less_novel() -> None:
    new = RNG.normal(size=(300, 16))
    repeated = new[RNG.integers(0, 20, 300)] + RNG.normal(0, 0.01, (300, 16))
    assert formulas.novelty(repeated)[0] < 0.01 < formulas.novelty(new)[0]


def test_wilson_interval_solves_its_equation() -> None:
    """Its ends are the p for which |hits / n - p| = 1.96 sqrt(p (1 - p) / n)."""
    low, high = formulas.wilson(30, 40)
    for p in (low, high):
        assert abs(0.75 - p) == pytest.approx(1.959963984540054 * math.sqrt(p * (1 - p) / 40))
    assert low < 0.75 < high
    assert formulas.wilson(40, 40)[1] == pytest.approx(1.0)


def test_redundant_images_are_all_but_one_of_each_group() -> None:
    assert redundant(np.array([0, 0, 2, 2, 2, 5])) == pytest.approx(3 / 6)


def test_a_sample_depends_on_the_ids_alone_and_larger_ones_contain_it() -> None:
    ids = [f"{number:04d}" for number in range(500)]
    few = sample(ids, 50)
    assert few == sample(reversed(ids), 50)
    assert few == sample(ids, 100)[:50]
    thirds = [sum(int(name) // 167 == part for name in sample(ids, 300)) for part in range(3)]
    assert min(thirds) > 70  # spread over the whole list
