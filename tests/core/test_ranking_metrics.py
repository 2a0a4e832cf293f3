"""Ranking metrics against an independent library and known answers."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.random_lists import N_ITEMS, N_USERS, K, ragged, random_lists, random_rows
from zhiyin.core.errors import ConfigError
from zhiyin.core.ranking_metrics import RANKING, hits_of
from zhiyin.core.run import Run

# What is not defined is NaN without a complaint of NumPy about a division by zero.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


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
