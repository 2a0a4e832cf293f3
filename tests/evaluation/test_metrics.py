"""Metrics against independent libraries and naive references."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn import metrics as sk
from tests.examples import examples

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.ranking_metrics import RANKING, hits_of
from zhiyin.core.run import Run
from zhiyin.evaluation import beyond_accuracy, pointwise_metrics

# What is not defined is NaN without a complaint of NumPy about a division by zero.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
N_USERS, N_ITEMS, K = 40, 60, 20


def ragged(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return offsets, np.concatenate(rows).astype(np.int32)


def random_rows(rng: np.random.Generator, low: int, high: int) -> list[np.ndarray]:
    sizes = rng.integers(low, high, N_USERS)
    return [np.sort(rng.choice(N_ITEMS, size, replace=False)) for size in sizes]


def random_lists(rng: np.random.Generator, padded: bool = True) -> np.ndarray:
    lists = np.array([rng.permutation(N_ITEMS)[:K] for _ in range(N_USERS)], dtype=np.int32)
    if padded:  # one list of each length, the empty one included
        lists[np.arange(K)[None, :] >= (np.arange(N_USERS) % (K + 1))[:, None]] = -1
    return lists


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_ranking_metrics_equal_ir_measures(tied: bool, k: int) -> None:
    rng = np.random.default_rng(k)
    scores = rng.random((N_USERS, N_ITEMS))
    if tied:  # few distinct scores; ties go to the smaller item code, and the ranking is what both sides judge
        scores = np.floor(scores * 4) / 4
    lists = np.argsort(-scores, axis=1, kind="stable")[:, :K].astype(np.int32)
    truth = random_rows(rng, 1, 30)
    hits, relevant = hits_of(lists, *ragged(truth)), np.array([len(row) for row in truth])

    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u in range(N_USERS) for i in truth[u]]
    ranked = [ir_measures.ScoredDoc(str(u), str(i), float(-r)) for u in range(N_USERS) for r, i in enumerate(lists[u])]
    peers = {
        "ndcg": ir_measures.nDCG @ k,
        "recall": ir_measures.R @ k,
        "precision": ir_measures.P @ k,
        "map": ir_measures.AP @ k,
        "mrr": ir_measures.RR @ k,
        "hit_rate": ir_measures.Success @ k,
    }
    theirs = {name: np.full(N_USERS, np.nan) for name in peers}
    names = {measure: name for name, measure in peers.items()}
    for result in ir_measures.iter_calc(list(peers.values()), qrels, ranked):
        theirs[names[result.measure]][int(result.query_id)] = result.value
    theirs["map"] *= relevant / np.minimum(relevant, k)  # theirs is over |R|, ours over min(k, |R|)
    for name in peers:
        np.testing.assert_allclose(RANKING[name](hits, relevant, k), theirs[name], atol=1e-9, err_msg=name)


def test_ranking_metrics_of_a_known_list() -> None:
    hits, relevant = np.array([[False, True, True], [True, True, True], [False] * 3]), np.array([2, 5, 1])
    ideal = 1 + 1 / np.log2(3)
    expected = {
        "recall": [1, 3 / 5, 0],
        "precision": [2 / 3, 1, 0],
        "hit_rate": [1, 1, 0],
        "ndcg": [(1 / np.log2(3) + 0.5) / ideal, 1, 0],
        "map": [(1 / 2 + 2 / 3) / 2, 1, 0],
        "mrr": [1 / 2, 1, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(RANKING[name](hits, relevant, 3), values, err_msg=name)


@pytest.mark.parametrize("k", [0, 4])
def test_k_must_fit_the_lists(k: int) -> None:
    with pytest.raises(ConfigError, match="a whole number from 1 to 3"):
        RANKING["recall"](np.zeros((1, 3), bool), np.array([1]), k)


def test_hits_of_takes_padding_views_and_threads() -> None:
    rng = np.random.default_rng(3)
    lists, truth = random_lists(rng), random_rows(rng, 1, 30)
    expected = np.array([np.isin(row, known) for row, known in zip(lists, truth)])
    np.testing.assert_array_equal(hits_of(lists, *ragged(truth), run=Run(threads=2)), expected)
    np.testing.assert_array_equal(hits_of(lists[:, :7], *ragged(truth)), expected[:, :7])


def test_hits_are_of_the_users_own_items() -> None:
    """What stands behind a user's items is the next one's, and behind the last there is nothing."""
    lists = np.array([[5, 1], [5, 9], [9, 0]], dtype=np.int32)
    truth = ragged([np.array([1, 4]), np.array([5]), np.array([], dtype=np.int64)])
    assert hits_of(lists, *truth).tolist() == [[False, True], [True, False], [False, False]]


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_ranking_metrics_stay_in_range(data: st.DataObject) -> None:
    n, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 12))
    bits = data.draw(st.lists(st.booleans(), min_size=n * width, max_size=n * width))
    hits = np.array(bits).reshape(n, width)
    extra = data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    relevant = np.maximum(hits.sum(axis=1) + np.array(extra), 1)
    for name, metric in RANKING.items():
        values = np.array([metric(hits, relevant, k) for k in range(1, width + 1)])
        assert values.shape == (width, n)
        assert values.dtype == np.float64
        assert (values >= 0).all()
        assert (values <= 1 + 1e-12).all(), name
        if name in ("recall", "hit_rate", "mrr"):
            assert (np.diff(values, axis=0) >= 0).all(), name
    full = np.zeros((1, width), bool)
    full[0, : min(relevant[0], width)] = True
    for name in ("ndcg", "map", "mrr", "hit_rate"):  # a perfect list scores one at every k
        assert RANKING[name](full, relevant[:1], width)[0] == pytest.approx(1)


# Pointwise


@pytest.mark.parametrize("decimals", [1, 8])
def test_auc_and_gauc_equal_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    labels, groups = rng.random(3000) < 0.2, rng.integers(0, 300, 3000)
    scores = np.round(rng.random(3000) + 0.2 * labels, decimals)
    assert pointwise_metrics.auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    total = weight = 0.0
    for group in np.unique(groups):
        mine = groups == group
        if 0 < labels[mine].sum() < mine.sum():
            total += mine.sum() * sk.roc_auc_score(labels[mine], scores[mine])
            weight += mine.sum()
    assert pointwise_metrics.gauc(labels, scores, groups) == pytest.approx(total / weight, abs=1e-12)


def test_auc_that_cannot_be_told() -> None:
    assert np.isnan(pointwise_metrics.auc(np.ones(3), np.arange(3)))
    assert np.isnan(pointwise_metrics.auc(np.zeros(0), np.zeros(0)))
    assert np.isnan(pointwise_metrics.gauc(np.array([1, 0]), np.array([0.5, 0.1]), np.array(["a", "b"])))
    assert pointwise_metrics.auc(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5
    with pytest.raises(DataError, match="not a number"):
        pointwise_metrics.auc(np.array([0, 1]), np.array([0.5, np.nan]))
    with pytest.raises(DataError, match="do not pair up"):
        pointwise_metrics.auc(np.array([0, 1]), np.array([0.5]))


def test_losses_equal_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    labels = rng.random(500) < 0.3
    p = rng.random(500)
    p[:4] = [0, 1, 0, 1]  # clipped, whether right or wrong
    assert pointwise_metrics.log_loss(labels, p) == pytest.approx(sk.log_loss(labels, p), rel=1e-9)
    values, predictions = rng.integers(1, 6, 500), rng.random(500) * 5
    assert pointwise_metrics.rmse(values, predictions) == pytest.approx(sk.root_mean_squared_error(values, predictions))
    assert pointwise_metrics.mae(values, predictions) == pytest.approx(sk.mean_absolute_error(values, predictions))


@pytest.mark.parametrize("tied", [False, True])
def test_user_auc_equals_scikit_learn_per_user(tied: bool) -> None:
    rng = np.random.default_rng(7)
    scores = rng.random((N_USERS, N_ITEMS)).astype(np.float32)
    if tied:
        scores = np.round(scores, 1)
    seen, truth = random_rows(rng, 0, 20), random_rows(rng, 1, 20)
    truth[0] = seen[0]  # nothing left to find
    candidates = rng.random(N_ITEMS) < 0.8
    expected = np.full(N_USERS, np.nan)
    for u in range(N_USERS):
        judged = candidates & ~np.isin(np.arange(N_ITEMS), seen[u])
        labels = np.isin(np.arange(N_ITEMS), truth[u])[judged]
        if labels.any():
            expected[u] = sk.roc_auc_score(labels, scores[u][judged])
    got = pointwise_metrics.user_auc(scores, *ragged(seen), *ragged(truth), candidates, run=Run(threads=2))
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert np.isnan(got[0])
    for run in (None, Run(threads=1)):  # one thread takes several users at once, one after the other
        again = pointwise_metrics.user_auc(scores, *ragged(seen), *ragged(truth), candidates, run=run)
        np.testing.assert_array_equal(again, got)


# Beyond accuracy


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
