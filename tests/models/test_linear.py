"""EASE: by hand, against float64, and on a planted pattern."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.models.planted import assert_checkerboard
from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.linear import EASE, invert, sparse_times_dense
from zhiyin.testing.recommender import RecommenderConformance, shop


class TestEASE(RecommenderConformance):
    def make(self) -> EASE:
        return EASE(reg=2.0)


def test_checkerboard() -> None:
    assert_checkerboard(EASE(reg=5.0))


def test_two_items_by_hand() -> None:
    """Users {a, b}, {a}, {b}: XᵀX = [[2, 1], [1, 2]]; with reg 1, P = [[3, -1], [-1, 3]] / 8, so B_ab = 1 / 3."""
    log = pl.DataFrame({"user": [1, 1, 2, 3], "item": ["a", "b", "a", "b"]})
    model = EASE(reg=1.0).fit(Dataset.build(log))
    np.testing.assert_allclose(model.weights_, [[0, 1 / 3], [1 / 3, 0]], rtol=1e-6)


def test_four_items_by_hand() -> None:
    """Two pairs that never meet: the 4 × 4 solution is the 2 × 2 one twice, and nothing between them."""
    log = pl.DataFrame({"user": [1, 1, 2, 3, 4, 4, 5, 6], "item": [*"abab", *"cdcd"]})
    weights = EASE(reg=1.0).fit(Dataset.build(log)).weights_
    pair = np.array([[0, 1 / 3], [1 / 3, 0]])
    np.testing.assert_allclose(weights, np.block([[pair, np.zeros((2, 2))], [np.zeros((2, 2)), pair]]), atol=1e-7)


def test_equals_a_float64_reference() -> None:
    data = shop(seed=2, users=200, items=90)
    x = data.matrix("binary").toarray().astype(np.float64)
    p = np.linalg.inv(x.T @ x + 7.0 * np.eye(data.n_items))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    model = EASE(reg=7.0).fit(data, Run(threads=2))
    np.testing.assert_allclose(model.weights_, b, atol=2e-5)
    some = x.any(axis=1)
    np.testing.assert_allclose(model.score(data.histories)[some], (x @ b)[some], atol=2e-4)


def test_a_matrix_that_cannot_be_inverted_says_so() -> None:
    with pytest.raises(ConfigError, match="positive definite"):
        invert(-np.eye(3, dtype=np.float32))


def test_sparse_times_dense() -> None:
    rng = np.random.default_rng(0)
    rows = shop(seed=3, users=70, items=40).matrix("count")
    dense = rng.standard_normal((rows.shape[1], 777), dtype=np.float32)
    np.testing.assert_allclose(sparse_times_dense(rows, dense, Run(threads=2)), rows @ dense, rtol=1e-4, atol=1e-4)
