"""Metrics beyond accuracy against naive references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from tests.examples import examples
from tests.random_lists import N_ITEMS, N_USERS, K, ragged, random_lists, random_rows

from zhiyin.core.ranking_metrics import hits_of
from zhiyin.core.run import Run
from zhiyin.evaluation import beyond_accuracy

# What is not defined is NaN without a complaint of NumPy about a division by zero.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def test_coverage_and_gini_equal_naive_references() -> None:
    lists = random_lists(np.random.default_rng(11))[:, :5]
    candidates = np.ones(N_ITEMS + 10, bool)  # ten items nobody was shown
    candidates[3] = False
    shown = [item for row in lists for item in row if item >= 0]
    assert beyond_accuracy.catalogue_coverage(lists, 70) == len(set(shown)) / 70
    counts = [shown.count(item) for item in range(70) if candidates[item]]
    m = len(counts)
    pairs = sum(abs(a - b) for a in counts for b in counts)  # mean absolute difference, the definition of Gini
    assert beyond_accuracy.gini(lists, candidates) == pytest.approx(pairs / (2 * m * sum(counts)) * m / (m - 1))


def test_gini_of_extremes() -> None:
    assert beyond_accuracy.gini(np.array([[0, 1], [2, 3]]), np.ones(4, bool)) == pytest.approx(0)
    assert beyond_accuracy.gini(np.array([[2], [2]]), np.ones(4, bool)) == pytest.approx(1)
    assert np.isnan(beyond_accuracy.gini(np.array([[-1]]), np.ones(4, bool)))
    assert beyond_accuracy.gini(np.array([[0]]), np.ones(2, bool)) == 1  # two are enough to be unequal, one is not
    assert np.isnan(beyond_accuracy.gini(np.array([[0]]), np.ones(1, bool)))


def test_novelty_equals_a_naive_reference() -> None:
    rng = np.random.default_rng(13)
    lists, counts = random_lists(rng), rng.integers(0, 50, N_ITEMS)
    got = beyond_accuracy.novelty(lists, counts, 100)
    for u, row in enumerate(lists):
        bits = [-np.log2(max(counts[i], 1) / 100) for i in row if i >= 0]
        assert got[u] == pytest.approx(np.mean(bits)) if bits else np.isnan(got[u])


@pytest.mark.parametrize("binary", [True, False])
def test_diversity_equals_mean_pairwise_cosine(binary: bool) -> None:
    rng = np.random.default_rng(17)
    dense = rng.random((N_ITEMS, 9)) * (rng.random((N_ITEMS, 9)) < 0.3)
    if binary:
        dense = (dense > 0).astype(float)
    dense[:5] = 0
    lists = random_lists(rng)
    got = beyond_accuracy.intra_list_diversity(lists, sparse.csr_matrix(dense), run=Run(threads=2))
    for u, row in enumerate(lists):
        known = [dense[i] for i in row if i >= 0 and dense[i].any()]
        pairs = [1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for x, a in enumerate(known) for b in known[x + 1 :]]
        assert got[u] == pytest.approx(np.mean(pairs), abs=1e-6) if pairs else np.isnan(got[u])
    alone = beyond_accuracy.intra_list_diversity(lists, sparse.csr_matrix(dense), run=Run(threads=1))
    np.testing.assert_array_equal(alone, got)


def test_diversity_of_a_pair() -> None:
    vectors = sparse.csr_matrix([[1.0, 0.0], [1.0, 1.0]])
    got = beyond_accuracy.intra_list_diversity(np.array([[0, 1], [1, -1]], np.int32), vectors)
    assert got[0] == pytest.approx(1 - np.sqrt(0.5), abs=1e-6)
    assert np.isnan(got[1])


def test_serendipity_counts_the_relevant_that_popularity_would_miss() -> None:
    rng = np.random.default_rng(19)
    lists, expected, truth = random_lists(rng), random_lists(rng), random_rows(rng, 1, 40)
    got = beyond_accuracy.serendipity(lists, hits_of(lists, *ragged(truth)), expected)
    naive = [len(set(row) & set(known) - set(pop)) / K for row, known, pop in zip(lists, truth, expected)]
    np.testing.assert_allclose(got, naive)
    alone = beyond_accuracy.serendipity(lists, hits_of(lists, *ragged(truth)), expected, run=Run(threads=1))
    np.testing.assert_array_equal(alone, got)
    assert not beyond_accuracy.serendipity(lists, hits_of(lists, *ragged(truth)), lists).any()


def test_popularity_lift_equals_a_naive_reference() -> None:
    rng = np.random.default_rng(23)
    lists, history, popularity = random_lists(rng), random_rows(rng, 0, 10), rng.integers(1, 90, N_ITEMS)
    pairs = [(row[row >= 0], seen) for row, seen in zip(lists, history)]
    pairs = [(row, seen) for row, seen in pairs if len(row) and len(seen)]
    shown = np.mean([popularity[row].mean() for row, _ in pairs])
    chosen = np.mean([popularity[seen].mean() for _, seen in pairs])
    assert beyond_accuracy.popularity_lift(lists, *ragged(history), popularity) == pytest.approx(shown / chosen - 1)
    assert np.isnan(beyond_accuracy.popularity_lift(lists[:1], np.array([0, 0]), np.zeros(0, np.int32), popularity))
    none = np.zeros(N_ITEMS)  # nobody's items are popular: no ratio
    assert np.isnan(beyond_accuracy.popularity_lift(lists, *ragged(history), none))


def test_calibration_equals_a_naive_reference() -> None:
    rng = np.random.default_rng(29)
    dense = (rng.random((N_ITEMS, 6)) < 0.3).astype(float)
    dense[:4] = 0
    lists, history = random_lists(rng), random_rows(rng, 0, 12)
    got = beyond_accuracy.calibration(lists, *ragged(history), sparse.csr_matrix(dense), run=Run(threads=2))

    def shares(items: np.ndarray) -> np.ndarray:
        rows = [dense[i] / dense[i].sum() for i in items if i >= 0 and dense[i].any()]
        return np.mean(rows, axis=0) if rows else np.full(6, np.nan)

    for u in range(N_USERS):
        p, q = shares(history[u]), shares(lists[u])
        if np.isnan(p).any() or np.isnan(q).any():
            assert np.isnan(got[u])
        else:
            mixed = 0.99 * q + 0.01 * p
            assert got[u] == pytest.approx(sum(a * np.log(a / b) for a, b in zip(p, mixed) if a > 0))
    alone = beyond_accuracy.calibration(lists, *ragged(history), sparse.csr_matrix(dense), run=Run(threads=1))
    np.testing.assert_array_equal(alone, got)


def test_a_list_like_the_history_is_calibrated() -> None:
    lists = np.array([[0, 1, 2, 3], [0, 1, -1, -1]], dtype=np.int32)
    groups = sparse.csr_matrix(np.array([[1, 0], [1, 1], [0, 1], [1, 0]]))
    offsets, items = ragged([np.array([3, 2, 1, 0]), np.array([2])])
    got = beyond_accuracy.calibration(lists, offsets, items, groups)
    assert got[0] == pytest.approx(0)
    assert got[1] > 0


def test_a_stored_zero_is_no_group() -> None:
    groups = sparse.csr_matrix(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    groups.data[1] = 0.0
    offsets, items = ragged([np.array([0, 1])])
    assert beyond_accuracy.calibration(np.array([[2, 1]], np.int32), offsets, items, groups).tolist() == [0]


def test_popularity_groups_cut_at_the_first_and_last_fifth_of_events() -> None:
    counts = np.array([1, 30, 0, 20, 10, 10, 10, 10, 9])  # 100 events; 30 | 20 10 10 10 | 10 9 1 0
    groups = beyond_accuracy.popularity_groups(counts).toarray()
    assert groups.sum(axis=1).tolist() == [1] * 9
    assert np.flatnonzero(groups[:, 0]).tolist() == [1]
    assert np.flatnonzero(groups[:, 2]).tolist() == [0, 2, 7, 8]
    # An item at a cut is beyond it; without events all are tail.
    for events in (1, 2):
        groups = beyond_accuracy.popularity_groups(np.full(5, events))
        assert groups.shape == (5, 3)
        assert groups.indices.tolist() == [0, 1, 1, 1, 2]
    assert beyond_accuracy.popularity_groups(np.zeros(3)).indices.tolist() == [2, 2, 2]


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_beyond_accuracy_stays_in_range(data: st.DataObject) -> None:
    n, k, n_items = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6)), 8
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    lists = np.array([rng.permutation(n_items)[:k] for _ in range(n)], dtype=np.int32)
    dense = (rng.random((n_items, 4)) < 0.5).astype(float)
    vectors = sparse.csr_matrix(dense)
    offsets, items = ragged([rng.permutation(n_items)[:3] for _ in range(n)])
    assert 0 < beyond_accuracy.catalogue_coverage(lists, n_items) <= 1
    assert -1e-12 <= beyond_accuracy.gini(lists, np.ones(n_items, bool)) <= 1 + 1e-12
    diversity = beyond_accuracy.intra_list_diversity(lists, vectors)
    assert (np.isnan(diversity) | ((diversity > -1e-6) & (diversity < 1 + 1e-6))).all()
    divergence = beyond_accuracy.calibration(lists, offsets, items, vectors)
    assert (np.isnan(divergence) | ((divergence > -1e-9) & (divergence <= np.log(100) + 1e-9))).all()
    assert (beyond_accuracy.novelty(lists, rng.integers(0, 9, n_items), 9) >= 0).all()
    assert beyond_accuracy.popularity_lift(lists, offsets, items, rng.integers(1, 9, n_items)) > -1
