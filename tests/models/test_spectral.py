"""GraphFilter: against dense float64 matrices, by hand, and on a planted pattern."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.models.planted import assert_checkerboard
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.spectral import GraphFilter, interpolated, plateau
from zhiyin.testing.recommender import RecommenderConformance, shop


class TestGraphFilter(RecommenderConformance):
    def make(self) -> GraphFilter:
        return GraphFilter(factors=8)


class TestGFCF(RecommenderConformance):
    def make(self) -> GraphFilter:
        return GraphFilter(way="gfcf", factors=8, alpha=0.3)


@pytest.mark.parametrize("way", ["chebyshev", "gfcf"])
def test_checkerboard(way: str) -> None:
    assert_checkerboard(GraphFilter(way=way, factors=2))


def test_two_items_by_hand() -> None:
    """Users {a, b}, {a}: R = [[1/2, 1/√2], [1/√2, 0]], so S = [[3/4, √2/4], [√2/4, 1/2]]; a alone gives (3/4, √2/4)."""
    log = pl.DataFrame({"user": [1, 1, 2], "item": ["a", "b", "a"]})
    model = GraphFilter(way="gfcf", alpha=0.0).fit(Dataset.build(log))
    np.testing.assert_allclose(model.score(model.context_.histories)[1], [3 / 4, 2**0.5 / 4], rtol=1e-6)


@pytest.mark.parametrize("way", ["chebyshev", "gfcf"])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_equals_dense_matrices(way: str, alpha: float) -> None:
    """The filter of the eigenvalues, and the projection, of S as a dense float64 matrix."""
    data = shop(seed=2, users=90, items=50)
    x = data.matrix("binary").toarray().astype(np.float64)
    degrees, taken = np.maximum(x.sum(axis=0), 1), np.maximum(x.sum(axis=1), 1)
    r = x / np.sqrt(taken)[:, None] / np.sqrt(degrees)
    values, vectors = np.linalg.eigh(r.T @ r)
    low = vectors[:, -6:] @ vectors[:, -6:].T
    if way == "gfcf":
        whole = r.T @ r + alpha * low * (np.sqrt(degrees)[None, :] / np.sqrt(degrees)[:, None])
    else:
        nodes = np.cos((np.arange(6) + 0.5) * np.pi / 6)
        curve = np.polynomial.Polynomial.fit(nodes, plateau(nodes, 2.5), 5, domain=[-1, 1])
        let = curve(1 - 2 * values)
        power = degrees**0.3
        whole = (vectors * let) @ vectors.T + alpha * low
        whole *= power[None, :] / power[:, None]
    model = GraphFilter(way=way, factors=6, alpha=alpha, beta=0.3, order=5, flatness=2.5).fit(data, Run(threads=2))
    some = x.any(axis=1)
    np.testing.assert_allclose(model.score(data.histories)[some], (x @ whole)[some], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model._similar(np.array([3, 7]), Run()), whole[[3, 7]], rtol=1e-4, atol=1e-5)


def test_the_plateau_and_what_meets_it() -> None:
    np.testing.assert_allclose(plateau(np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), 2.0), [1, 0.625, 0.5, 0.375, 0])
    straight = interpolated(4, lambda t: plateau(t, 1.0))  # a polynomial is met everywhere
    np.testing.assert_allclose(straight, [0.5, -0.5, 0, 0, 0], atol=1e-7)
