"""AUC against the count over all pairs."""

from __future__ import annotations

import random

import pytest

from stages.report.sections.separation import auc


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_the_count_over_all_pairs(seed: int) -> None:
    rng = random.Random(seed)
    good = [rng.randint(0, 12) / 4 for _ in range(30)]
    bad = [rng.randint(0, 8) / 4 for _ in range(20)]
    wins = sum((a > b) + 0.5 * (a == b) for a in good for b in bad)
    assert auc(good, bad) == pytest.approx(wins / 600, abs=1e-12)


def test_auc_of_separated_and_equal_values() -> None:
    assert auc([2, 3], [0, 1]) == 1
    assert auc([0], [1, 2]) == 0
    assert auc([1, 1], [1]) == 0.5
