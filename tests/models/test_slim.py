"""SLIM: by hand, the conditions of the optimum, and on a planted pattern."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.models.planted import assert_checkerboard
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.slim import SLIM
from zhiyin.testing.recommender import RecommenderConformance, shop


class TestSLIM(RecommenderConformance):
    def make(self) -> SLIM:
        return SLIM(l1=0.1, l2=1.0)


class TestFsSLIM(RecommenderConformance):
    def make(self) -> SLIM:
        return SLIM(l1=0.1, l2=1.0, candidates=10)


@pytest.mark.parametrize("candidates", [0, 9])
def test_checkerboard(candidates: int) -> None:
    assert_checkerboard(SLIM(l1=0.1, l2=5.0, candidates=candidates))


def test_two_items_by_hand() -> None:
    """Users {a, b}, {a}, {b}: inner product 1, squares 2, so w = (1 - l1) / (2 + l2); nothing once l1 reaches 1."""
    log = pl.DataFrame({"user": [1, 1, 2, 3], "item": ["a", "b", "a", "b"]})
    model = SLIM(l1=0.25, l2=1.0).fit(Dataset.build(log))
    np.testing.assert_allclose(model.similarities_.toarray(), [[0, 0.25], [0.25, 0]], rtol=1e-6)
    assert SLIM(l1=1.0, l2=1.0).fit(Dataset.build(log)).similarities_.nnz == 0


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 1.0), (0.3, 2.0), (2.0, 10.0)])
@pytest.mark.parametrize("candidates", [0, 6])
def test_conditions_of_the_optimum(l1: float, l2: float, candidates: int) -> None:
    """The slope is l1 where there is weight, and at most l1 elsewhere (Karush, Kuhn and Tucker)."""
    data = shop(seed=2, users=200, items=60)
    x = data.matrix("binary").toarray().astype(np.float64)
    model = SLIM(l1=l1, l2=l2, candidates=candidates, tolerance=1e-8, sweeps=10_000).fit(data, Run(threads=2))
    w = model.similarities_.toarray().astype(np.float64)
    assert (w >= 0).all()
    assert not w.diagonal().any()
    slope = x.T @ (x - x @ w) - l2 * w
    np.testing.assert_allclose(slope[w > 0], l1, atol=1e-3)
    may = ~np.eye(data.n_items, dtype=bool)
    if candidates:
        assert ((w > 0).sum(axis=0) <= candidates).all()
        lengths = np.sqrt(np.maximum(x.sum(axis=0), 1))
        shared = np.where(may & (x.T @ x > l1), x.T @ x / lengths[:, None] / lengths, 0)
        least = np.sort(shared, axis=0)[-candidates]
        may &= shared > least + 1e-9  # which of two equals is a candidate may hang on rounding
    idle = may & (w == 0)
    assert slope[idle].max(initial=-np.inf) <= l1 + 1e-3
    assert (w > 0).any()
    assert idle.any() or candidates


def test_more_penalty_leaves_fewer_items() -> None:
    data = shop(seed=2, users=200, items=60)
    sizes = [SLIM(l1=l1, l2=1.0).fit(data).similarities_.nnz for l1 in (0.1, 1.0, 5.0)]
    assert sizes[0] > sizes[1] > sizes[2] > 0
