"""The study of pipelines/pools: its statistics against scipy, its pools against their descriptions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.pools import pictures
from pipelines.pools.correlate import correlate, ranks, spearman
from pipelines.pools.prepare import Images, chosen, make
from webdistill.harness.params import read_yaml
from webdistill.images.gate import decode

ROOT = Path(__file__).parents[3]
SETTINGS = read_yaml(ROOT / "pipelines/pools/params.yaml")
CLASSES = SETTINGS["common"]["task"]["classes"]


def test_ranks_and_rho_equal_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, two = rng.integers(0, 6, 12).astype(float), rng.normal(size=12)
        assert ranks(one) == pytest.approx(stats.rankdata(one))
        assert spearman(one, two) == pytest.approx(stats.spearmanr(one, two).statistic)
    assert spearman(np.ones(9), rng.normal(size=9)) == 0.0


def test_p_and_interval_tell_order_from_chance() -> None:
    x = np.arange(12.0)
    clear = correlate("clear", x, np.exp(x))
    assert (clear.rho, clear.low, clear.high) == pytest.approx((1, 1, 1))
    assert clear.p < 0.001
    none = correlate("none", x, np.random.default_rng(3).permutation(x))
    assert none.p > 0.05
    assert none.low < none.rho < none.high


def test_every_pool_is_described_and_run() -> None:
    assert sorted(SETTINGS["settings"]) == sorted(SETTINGS["prepare"]["pools"])
    assert len(SETTINGS["settings"]) >= 8


def some(count: int) -> Images:
    rng = np.random.default_rng(0)
    data = [pictures._png(pictures._image(rng.uniform(0, 256, (64, 64, 3)))) for _ in range(count)]
    answers = rng.dirichlet(np.ones(10) / 2, count)
    return Images(data, [f"tabby {n}" if n % 2 else "pizza" for n in range(count)], answers)


def test_rules_choose_what_they_say() -> None:
    found = some(60)
    assert found.answers is not None
    sure = found.answers.max(axis=1)
    assert set(chosen(found, "confident", 10, CLASSES)) == set(np.argsort(sure)[-10:])
    assert set(chosen(found, "unsure", 10, CLASSES)) == set(np.argsort(sure)[:10])
    assert (chosen(found, "named", 60, CLASSES) % 2 == 1).all()
    three = {CLASSES[k] for k in found.answers[chosen(found, "three", 60, CLASSES)].argmax(axis=1)}
    assert three <= {"bird", "frog", "truck"}


@pytest.mark.parametrize("name", SETTINGS["settings"])
def test_a_pool_has_its_size_and_is_the_same_twice(name: str) -> None:
    spec, found = SETTINGS["prepare"]["pools"][name], some(64)
    spec = {**spec, "choose": "first"}
    one, two = (make(spec, found if "from" in spec else None, 64, CLASSES, 0) for _ in range(2))
    assert one.data == two.data
    assert len(one.data) == len(one.words) == 64
    decode(one.data[-1])


def test_pink_noise_has_more_power_at_low_frequencies() -> None:
    rng = np.random.default_rng(0)
    power = {}
    for pink in (False, True):
        pixels = np.asarray(decode(pictures.noise(rng, pink=pink)), np.float64)[..., 0]
        spectrum = np.abs(np.fft.fft2(pixels - pixels.mean())) ** 2
        power[pink] = spectrum[1:4, 1:4].mean() / spectrum[20:40, 20:40].mean()
    assert power[True] > 20 > power[False]
