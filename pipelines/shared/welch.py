"""Difference of two means when the spreads may differ: Welch's t interval (Welch 1947, Biometrika 34)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

STEPS = 2000  # of Simpson's rule; more than enough, the integrand is smooth


def interval(
    values: Sequence[float], others: Sequence[float], level: float = 0.95
) -> tuple[float, float] | None:
    """Confidence interval of mean(values) - mean(others); None when a side has fewer than two values.

    d +- t sqrt(a + b), where a, b are the squared standard errors of both means, with
    (a + b)^2 / (a^2 / (n - 1) + b^2 / (m - 1)) degrees of freedom (Satterthwaite).
    """
    if min(len(values), len(others)) < 2:
        return None
    difference = statistics.mean(values) - statistics.mean(others)
    a = statistics.variance(values) / len(values)
    b = statistics.variance(others) / len(others)
    if a + b == 0:
        return difference, difference
    freedom = (a + b) ** 2 / (a**2 / (len(values) - 1) + b**2 / (len(others) - 1))
    half = t_quantile((1 + level) / 2, freedom) * math.sqrt(a + b)
    return difference - half, difference + half


def t_quantile(p: float, freedom: float) -> float:
    """Quantile of Student's t distribution for 0.5 <= p < 1, freedom >= 1, by bisection.

    With t = sqrt(freedom) tan(u): P(T <= t) = 1/2 + c int_0^u cos^(freedom - 1)(x) dx.
    """
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2
    wanted = (p - 0.5) / math.exp(scale)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _integral(middle, freedom - 1) < wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _integral(end: float, power: float) -> float:
    """Simpson's rule for cos^power from 0 to `end`."""
    width = end / STEPS
    values = [math.cos(i * width) ** power for i in range(STEPS + 1)]
    return width / 3 * (values[0] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2]) + values[-1])
