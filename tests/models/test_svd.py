"""PureSVD: the vectors are those of NumPy's decomposition, and a history is projected on them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from tests.models.planted import assert_checkerboard
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.svd import PureSVD, right_vectors
from zhiyin.testing.recommender import RecommenderConformance, shop


class TestPureSVD(RecommenderConformance):
    def make(self) -> PureSVD:
        return PureSVD(factors=6)


class TestPureSVDOfWeights(RecommenderConformance):
    def make(self) -> PureSVD:
        return PureSVD(factors=3, entries="weight", depth=2)


def test_checkerboard() -> None:
    assert_checkerboard(PureSVD(factors=2))


def test_four_by_four() -> None:
    """Two users share items 0 and 1, two share 2 and 3, one of them item 1 as well."""
    matrix = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1]], dtype=np.float64)
    pairs = [(f"u{u}", int(i)) for u, i in np.argwhere(matrix)]
    data = Dataset.build(pl.DataFrame(pairs, schema=["user", "item"], orient="row"))
    model = PureSVD(factors=2).fit(data)
    _, values, right = np.linalg.svd(matrix)
    np.testing.assert_allclose(model.strengths_, values[:2], rtol=1e-5)
    np.testing.assert_allclose(model.score(data.histories), matrix @ right[:2].T @ right[:2], atol=1e-5)


@pytest.mark.parametrize(("users", "items"), [(40, 25), (25, 40), (500, 300)])
def test_random_matrices(users: int, items: int) -> None:
    """Projections on the kept directions, which unlike the vectors have no sign of their own."""
    rng = np.random.default_rng(users)
    dense = (rng.random((users, items)) < 0.2) * rng.random((users, items))
    strong = rng.random((users, 8)) @ rng.random((8, items)) * 0.3  # a gap behind the eighth direction
    dense = dense * 0.1 + strong
    vectors, values = right_vectors(sparse.csr_matrix(dense.astype(np.float32)), 8, 4, Run(threads=2))
    _, wanted, right = np.linalg.svd(dense)
    np.testing.assert_allclose(values, wanted[:8], rtol=1e-4)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(8), atol=1e-5)
    np.testing.assert_allclose(vectors @ vectors.T, right[:8].T @ right[:8], atol=5e-3)


@pytest.mark.slow
def test_the_krylov_basis_finds_what_the_whole_matrix_holds() -> None:
    """A flat spectrum and a basis far smaller than the catalogue: captured energy is within .1 % of the best."""
    rows = sparse.random(800, 600, density=0.03, random_state=4, dtype=np.float32, format="csr")
    vectors, _ = right_vectors(rows, 20, 6, Run(threads=2))
    best = float((np.linalg.svd(rows.toarray().astype(np.float64))[1][:20] ** 2).sum())
    captured = float(((rows.astype(np.float64) @ vectors.astype(np.float64)) ** 2).sum())
    assert 0.999 * best < captured < 1.00001 * best


def test_no_more_vectors_than_the_rank() -> None:
    log = pl.DataFrame({"user": ["a", "a", "b", "b"], "item": [1, 2, 1, 2]})
    model = PureSVD(factors=50).fit(Dataset.build(log))
    assert model.item_vectors_.shape == (2, 1)


def test_seeds_agree() -> None:
    data = shop(users=300, items=250)
    one = PureSVD(factors=4, depth=6).fit(data, Run(seed=0))
    other = PureSVD(factors=4, depth=6).fit(data, Run(seed=1))
    np.testing.assert_allclose(one.strengths_, other.strengths_, rtol=1e-4)
