"""ALS: at convergence the normal equations hold; a history folded in is the exact solution."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conformance.recommender import RecommenderConformance, shop
from tests.models.planted import assert_checkerboard
from zhiyin.core.run import Run
from zhiyin.models.factorization import ALS


class TestALS(RecommenderConformance):
    def make(self) -> ALS:
        return ALS(factors=8, reg=0.5, alpha=3.0, epochs=4)


def test_checkerboard() -> None:
    assert_checkerboard(ALS(factors=2, reg=0.1, alpha=5.0, epochs=15))


def _exact(confidence: np.ndarray, y: np.ndarray, reg: float) -> np.ndarray:
    """x of each row from the normal equations, float64; confidence is c - 1."""
    y = y.astype(np.float64)
    eye = reg * np.eye(y.shape[1])
    return np.array(
        [np.linalg.solve(y.T @ (y * (1 + c)[:, None]) + eye, y.T @ np.where(c > 0, 1 + c, 0)) for c in confidence]
    )


@pytest.mark.parametrize("factors", [1, 3, 8, 33])
def test_fold_in_is_the_exact_solution(factors: int) -> None:
    data = shop(seed=1)
    model = ALS(factors=factors, reg=1.0, alpha=4.0, epochs=5, cg_steps=40).fit(data, Run(threads=2))
    confidence = 4.0 * data.matrix("weight").toarray().astype(np.float64)
    wanted = _exact(confidence, model.item_vectors_, 1.0)
    np.testing.assert_allclose(model.encode(data.histories), wanted, rtol=2e-3, atol=2e-4)


def test_the_normal_equations_hold_at_convergence() -> None:
    data = shop(seed=1)
    model = ALS(factors=4, reg=2.0, alpha=2.0, epochs=400, cg_steps=20).fit(data, Run(threads=2))
    x = model.encode(data.histories)
    confidence = 2.0 * data.matrix("weight").toarray().astype(np.float64)
    np.testing.assert_allclose(_exact(confidence.T, x, 2.0), model.item_vectors_, rtol=1e-2, atol=1e-3)


def test_score_is_an_inner_product() -> None:
    data = shop(seed=6)
    model = ALS(factors=8, epochs=3).fit(data)
    kept = data.matrix("weight").getnnz(axis=1) > 0
    scores = model.encode(data.histories) @ model.item_vectors_.T
    np.testing.assert_allclose(model.score(data.histories)[kept], scores[kept], rtol=1e-4, atol=1e-5)
