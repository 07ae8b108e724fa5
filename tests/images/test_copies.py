"""Near-duplicate search: planted copies are found and strangers are not, in small sets and in large ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.images.planted import COPIES, SIDE, natural, thumbs
from webdistill.harness.params import read_yaml
from webdistill.images import copies, neighbours
from webdistill.images.copies import Pairs, find_pairs, groups

COUNT = 300
THRESHOLD = read_yaml(Path(__file__).parents[2] / "params.yaml")["filter"]["leak_similarity"]


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    return natural(COUNT, seed=0)


@pytest.fixture(scope="module")
def crowd() -> np.ndarray:
    """1,200 strangers and then 20 copies of each kind, of the first pictures."""
    strangers = natural(1200, seed=4)
    planted = [COPIES[name](strangers[i]) for name in COPIES for i in range(20)]
    return thumbs(strangers + planted)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set is searched as a large one."""
    monkeypatch.setattr(copies, "EXACT", 0)


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_found_and_strangers_are_not(change: str, originals: list[Image.Image]) -> None:
    changed = [COPIES[change](image) for image in originals[:100]]
    strangers = natural(200, seed=1)
    found = find_pairs(thumbs(changed + strangers), thumbs(originals), THRESHOLD)
    right = (found.query < 100) & (found.query == found.reference)
    assert right.sum() >= 97
    assert (~right).sum() == 0
    assert (found.similarity >= THRESHOLD).all()
    assert (found.similarity <= 1 + 1e-6).all()


def test_pairs_within_one_set_come_once(originals: list[Image.Image]) -> None:
    images = thumbs([*originals[:50], *[COPIES["mirrored"](i) for i in originals[:20]]])
    found = find_pairs(images, None, THRESHOLD)
    assert found.query.tolist() == list(range(20))
    assert found.reference.tolist() == list(range(50, 70))


def test_the_search_of_large_sets_finds_what_the_exact_one_finds(
    crowd: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = find_pairs(crowd, None, THRESHOLD)
    monkeypatch.setattr(copies, "EXACT", 0)
    quick = find_pairs(crowd, None, THRESHOLD)
    planted = [(i, 1200 + 20 * kind + i) for kind in range(len(COPIES)) for i in range(20)]
    counts = []
    for pairs in (exact, quick):
        group = groups(pairs, len(crowd))
        counts.append(sum(int(group[one] == group[two]) for one, two in planted))
        assert len(np.unique(group[:1200])) == 1200  # no stranger is taken for another
    assert counts[0] >= 0.99 * len(planted)
    assert counts[1] >= 0.99 * counts[0]


@pytest.mark.parametrize("change", COPIES)
def test_of_twenty_copies_of_test_images_nineteen_are_found_in_large_sets(
    change: str, originals: list[Image.Image], crowd: np.ndarray, large: None
) -> None:
    """Promise T3."""
    pool = np.concatenate([crowd[:500], thumbs([COPIES[change](i) for i in originals[:20]])])
    found = find_pairs(pool, thumbs(originals), THRESHOLD)
    assert set(zip(found.query.tolist(), found.reference.tolist(), strict=True)) <= {
        (500 + i, i) for i in range(20)
    }
    assert len(found.query) >= 19


def clump(size: int, seed: int) -> np.ndarray:
    """One picture with a little noise and another brightness every time."""
    rng = np.random.default_rng(seed)
    picture = thumbs(natural(1, seed=77))[0].astype(int)
    noise = rng.integers(-6, 7, (size, SIDE, SIDE, 3)) + rng.integers(-20, 20, (size, 1, 1, 1))
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("exact", [0, 20_000])
def test_a_dense_clump_becomes_one_group_at_a_bounded_cost(
    exact: int, originals: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 400
    monkeypatch.setattr(copies, "EXACT", exact)
    monkeypatch.setattr(neighbours, "LOOKS", 200)  # fewer than the clump has
    checked: list[int] = []
    real = copies._check
    monkeypatch.setattr(copies, "_check", lambda *a: checked.append(len(a[2])) or real(*a))
    images = np.concatenate(
        [thumbs(originals[:50]), clump(size, 0), thumbs([ImageOps.mirror(originals[3])])]
    )
    order = np.random.default_rng(1).permutation(len(images))
    group = np.empty(len(images), int)
    group[order] = groups(find_pairs(images[order], None, THRESHOLD), len(images))
    assert len(set(group[50 : 50 + size])) == 1
    assert group[3] == group[-1]
    assert len(set(group)) == 51
    assert sum(checked) <= 2 * copies.FEW * len(images)  # all pairs would be 100,000


def test_a_copy_behind_a_clump_in_its_list_is_found_in_a_later_round(
    originals: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One list for all, of which a query may see less than the clump: the pair lies beyond."""
    monkeypatch.setattr(copies, "EXACT", 0)
    monkeypatch.setattr(copies, "sample_size", lambda images: 48)
    monkeypatch.setattr(neighbours, "LOOKS", 150)
    pair = thumbs([originals[5], COPIES["recompressed"](originals[5])])
    images = np.concatenate([clump(260, 3), pair])
    found = groups(find_pairs(images, None, THRESHOLD), len(images))
    assert found.tolist() == [0] * 260 + [260] * 2


def test_the_group_does_not_depend_on_the_order_of_rows(crowd: np.ndarray, large: None) -> None:
    some = np.concatenate([crowd[:100], crowd[1200:]])
    order = np.random.default_rng(0).permutation(len(some))
    one = groups(find_pairs(some, None, THRESHOLD), len(some))
    two = np.empty(len(some), int)
    two[order] = groups(find_pairs(some[order], None, THRESHOLD), len(some))
    together, again = ((g[:, None] == g) & ~np.eye(len(g), dtype=bool) for g in (one, two))
    assert together.sum() > 1000
    assert (together & again).sum() >= 0.98 * (together | again).sum()


@pytest.mark.parametrize("exact", [0, 20_000])
def test_threads_do_not_matter(
    exact: int, crowd: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "EXACT", exact)
    monkeypatch.setattr(neighbours, "BLOCK", 100)
    one = find_pairs(crowd[1000:], None, 0.7, threads=1)
    two = find_pairs(crowd[1000:], None, 0.7, threads=3)
    assert len(one.query) > 100
    for name in ("query", "reference", "similarity"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


def test_block_size_does_not_matter(
    originals: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = thumbs([*originals[:60], *[COPIES["all"](i) for i in originals[:60]]])
    one = find_pairs(images, None, 0.7)
    monkeypatch.setattr(neighbours, "BLOCK", 17)
    monkeypatch.setattr(copies, "CHECKED", 5)
    other = find_pairs(images, None, 0.7)
    assert np.array_equal(one.query, other.query)
    assert np.array_equal(one.similarity, other.similarity)


def test_candidates_from_elsewhere_are_checked_too(originals: list[Image.Image]) -> None:
    """A copy cut off at one corner: the coarse descriptor misses it, the verdict does not."""
    corner = [i.crop((7, 7, 64, 64)) for i in originals[:40]]
    images = thumbs([*originals[:40], *corner])
    alone = find_pairs(images, None, THRESHOLD)
    rows = np.arange(40)
    helped = find_pairs(images, None, THRESHOLD, also=(rows + 40, (rows + 1) % 40))
    assert np.array_equal(helped.query, alone.query)  # strangers stay strangers
    helped = find_pairs(images, None, THRESHOLD, also=(rows + 40, rows))
    assert len(alone.query) < 35 < len(helped.query)
    assert np.array_equal(helped.reference - helped.query, np.full(len(helped.query), 40))


def test_the_same_frame_is_not_the_same_picture() -> None:
    framed = [ImageOps.expand(i, 5, (0, 0, 160)) for i in natural(100, seed=3)]
    assert not len(find_pairs(thumbs(framed), None, THRESHOLD).query)


@pytest.mark.parametrize("exact", [0, 20_000])
def test_blank_images_match_nothing(exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "EXACT", exact)
    rng = np.random.default_rng(0)
    flat = np.full((6, SIDE, SIDE, 3), 200, np.uint8)
    flat[3:] = rng.integers(199, 202, flat[3:].shape)
    assert not len(find_pairs(flat, None, 0.7).query)
    assert not len(find_pairs(flat, flat, 0.7).query)


@pytest.mark.parametrize("exact", [0, 20_000])
def test_nothing_in_nothing_out(
    exact: int, originals: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "EXACT", exact)
    none = np.empty((0, SIDE, SIDE, 3), np.uint8)
    assert not len(find_pairs(none, None, 0.9).query)
    assert not len(find_pairs(none, thumbs(originals[:2]), 0.9).query)
    assert not len(find_pairs(thumbs(originals[:2]), none, 0.9).query)
    assert not len(find_pairs(thumbs(originals[:1]), None, 0.9).query)


def test_a_pair_within_the_pool_has_no_direction() -> None:
    """A framed copy contains the picture, not the other way round; the order of rows must not matter."""
    whole = np.stack([np.asarray(picture) for picture in natural(12, 5)])
    framed = np.full_like(whole, 255)
    for one, picture in zip(framed, whole, strict=True):
        one[8:56, 8:56] = np.asarray(Image.fromarray(picture).resize((48, 48)))
    for pool in (np.concatenate([whole, framed]), np.concatenate([framed, whole])):
        found = find_pairs(pool, None, 0.8)
        pairs = set(zip(found.query.tolist(), found.reference.tolist(), strict=True))
        assert {(i, i + 12) for i in range(12)} <= pairs


def test_groups_are_the_connected_parts_of_a_graph() -> None:
    """Against labels handed along the edges until nothing changes."""
    rng = np.random.default_rng(2)
    graphs = [(n, *rng.integers(0, n, (2, m))) for n, m in ((40, 0), (40, 15), (60, 50), (50, 400))]
    chain = rng.permutation(300)
    for count, one, two in [*graphs, (300, chain[:-1], chain[1:])]:
        wanted = list(range(count))
        for _ in range(count):
            for a, b in zip(one, two, strict=True):
                wanted[a] = wanted[b] = min(wanted[a], wanted[b])
        assert groups(Pairs(one, two, np.ones(len(one))), count).tolist() == wanted
