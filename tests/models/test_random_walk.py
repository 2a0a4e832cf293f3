"""RP3beta: by hand, against its definition, and on a planted pattern."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.models.planted import assert_checkerboard
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.random_walk import RP3beta
from zhiyin.testing.recommender import RecommenderConformance, shop


class TestRP3beta(RecommenderConformance):
    def make(self) -> RP3beta:
        return RP3beta(k_neighbors=10, alpha=0.8, normalize=False)


class TestRP3betaNormalised(RecommenderConformance):
    def make(self) -> RP3beta:
        return RP3beta(k_neighbors=10, normalize=True)


@pytest.mark.parametrize("normalize", [False, True])
def test_checkerboard(normalize: bool) -> None:
    assert_checkerboard(RP3beta(normalize=normalize))


def test_three_users_by_hand() -> None:
    """Users {a, b}, {a, b, c}, {c}. From a (2 users) to b: 1/2 · 1/2 + 1/2 · 1/3 = 5/12; to c: 1/2 · 1/3 = 1/6."""
    log = pl.DataFrame({"user": [1, 1, 2, 2, 2, 3], "item": [*"ababcc"]})
    data = Dataset.build(log)
    assert data.item_ids.values.to_list() == ["a", "b", "c"]
    plain = RP3beta(alpha=1.0, beta=0.0, normalize=False).fit(data).similarities_.toarray()
    np.testing.assert_allclose(plain, np.array([[0, 5, 2], [5, 0, 2], [2, 2, 0]]) / 12, rtol=1e-6)
    held = RP3beta(alpha=1.0, beta=1.0, normalize=False).fit(data)
    np.testing.assert_allclose(held.similarities_.toarray(), plain / 2, rtol=1e-6)  # each item has two users
    score = held.score(data.histories)[1]  # of a user with all three: a and b from each other and c, c from both
    np.testing.assert_allclose(score, np.array([7, 7, 4]) / 24, rtol=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.6, 0.4), (1.4, 1.0)])
def test_equals_its_definition(alpha: float, beta: float) -> None:
    data = shop(seed=3)
    x = data.matrix("binary").toarray().astype(np.float64)
    of_user, of_item = np.maximum(x.sum(axis=1), 1), np.maximum(x.sum(axis=0), 1)
    to_user, to_item = (x / of_item).T, x / of_user[:, None]
    wanted = (np.power(to_user, alpha) @ np.power(to_item, alpha)) / of_item**beta
    np.fill_diagonal(wanted, 0)
    model = RP3beta(alpha=alpha, beta=beta, k_neighbors=1000, normalize=False).fit(data, Run(threads=2))
    np.testing.assert_allclose(model.similarities_.toarray(), wanted, rtol=1e-5, atol=1e-8)
    few = RP3beta(alpha=alpha, beta=beta, k_neighbors=3, normalize=False).fit(data).similarities_.toarray()
    np.testing.assert_allclose(np.sort(few)[:, -3:], np.sort(wanted)[:, -3:], rtol=1e-5, atol=1e-8)
    assert ((few > 0).sum(axis=1) <= 3).all()


def test_what_an_item_keeps_sums_to_one() -> None:
    data = shop(seed=3)
    sums = np.asarray(RP3beta(k_neighbors=4, normalize=True).fit(data).similarities_.sum(axis=1)).ravel()
    np.testing.assert_allclose(sums[sums > 0], 1, rtol=1e-6)
    assert (sums > 0).sum() >= data.n_items - 2
