"""Pointwise metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk
from tests.random_lists import N_ITEMS, N_USERS, ragged, random_rows

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.evaluation import pointwise_metrics

# What is not defined is NaN without a complaint of NumPy about a division by zero.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


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
