"""The index: exact as a naive product, through lists with few misses, and honest about what it did not look at."""

from __future__ import annotations

import numpy as np
import pytest

from webdistill.images import neighbours
from webdistill.images.neighbours import Index, blocks, one_thread, sample_size, side_by_side


def vectors(count: int, seed: int, width: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, width))
    x = centres[rng.integers(0, 30, count)] + 0.5 * rng.normal(size=(count, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def index_of(x: np.ndarray, *, lists: bool) -> Index:
    index = Index(x.shape[1], x if lists else None)
    for part in blocks(np.arange(len(x))):
        index.add(x[part])
    return index


def test_without_lists_it_is_the_naive_search() -> None:
    x, queries = vectors(400, 0), vectors(20, 1)
    found = index_of(x, lists=False).search(queries, 5)
    products = queries.astype(np.float64) @ x.astype(np.float64).T
    wanted = np.argsort(-products, axis=1)[:, :5]
    assert np.array_equal(found.place, wanted)
    np.testing.assert_allclose(found.value, np.take_along_axis(products, wanted, 1), atol=1e-6)
    assert not found.cut.any()


def test_with_lists_few_neighbours_are_missed() -> None:
    x = vectors(6000, 0)
    index = index_of(x, lists=True)
    noise = np.random.default_rng(3).normal(size=(500, 16)).astype(np.float32)
    queries = x[:500] + 0.05 * noise
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = index.search(queries, 3)
    exact = index_of(x, lists=False).search(queries, 3)
    assert (found.place[:, 0] == exact.place[:, 0]).mean() > 0.98
    same = found.place == exact.place
    np.testing.assert_allclose(found.value[same], exact.value[same], atol=2e-3)  # float16
    assert not found.cut.any()


def test_it_looks_at_no_more_than_allowed_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([np.repeat(vectors(1, 5), 500, axis=0), vectors(500, 6)])
    monkeypatch.setattr(neighbours, "LOOKS", 100)
    found = index_of(x, lists=True).search(x[:1], 200)
    assert found.cut.all()
    assert (found.place >= 0).sum() == 100


def test_a_cleared_index_finds_nothing_and_then_what_is_added() -> None:
    x = vectors(300, 0)
    index = index_of(x, lists=True)
    index.clear()
    assert (index.search(x[:3], 2).place == -1).all()
    index.add(x[40:80])
    assert index.search(x[50:51], 1).place.tolist() == [[10]]


def test_lists_are_the_same_for_any_number_of_threads() -> None:
    import faiss

    x = vectors(3000, 0)
    found = []
    before = faiss.omp_get_max_threads()
    try:
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            index = index_of(x, lists=True)
            with one_thread():
                found.append(index.search(x[:400], 8))
    finally:
        faiss.omp_set_num_threads(before)
    assert np.array_equal(found[0].place, found[1].place)
    assert np.array_equal(found[0].value, found[1].value)


def test_the_sample_grows_with_the_root() -> None:
    assert sample_size(100) == 100
    assert sample_size(1_000_000) == neighbours.TRAINING * 4000
    assert sample_size(4_000_000) == 2 * sample_size(1_000_000)


def test_results_come_in_the_order_of_the_parts() -> None:
    found = side_by_side(lambda part: part * part, iter(range(50)), 3)
    assert list(found) == [n * n for n in range(50)]


def test_an_error_in_a_thread_is_an_error_here() -> None:
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda part: 1 // part, [2, 1, 0, 3], 2))
