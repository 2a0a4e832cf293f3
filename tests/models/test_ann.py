"""Search for single requests: as good as scoring everything, whether all is read or an index is asked."""

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.base import Recommender

ONE = zy.Run(threads=1)


def log(n_items: int = 400, n_users: int = 120, dislikes: bool = True) -> Dataset:
    """A log with repeated events, dislikes, users of dislikes alone and items that nobody had."""
    rng = np.random.default_rng(5)
    n = 3_000
    weight = rng.choice([1.0, 2.0, -1.0, 0.0], n, p=[0.7, 0.1, 0.15, 0.05]) if dislikes else np.ones(n)
    user = rng.integers(0, n_users, n)
    weight[user == 7] = -1.0
    return Dataset.build(
        pl.DataFrame({"user": user, "item": (rng.random(n) ** 3 * n_items).astype(int), "time": np.arange(n) * 60_000_000,
                      "weight": weight}),
        items=pl.DataFrame({"id": np.arange(n_items)}),
    )  # fmt: skip


@pytest.mark.parametrize(
    "model",
    [
        zy.Popular(half_life="1d"),
        zy.ItemKNN(),
        zy.ItemKNN(similarity="bm25"),
        zy.Transitions(),
        zy.ALS(factors=8, epochs=3),
    ],
    ids=lambda model: f"{type(model).__name__}",
)
@pytest.mark.parametrize("k", [5, 60, 1_000])
def test_one_history_at_a_time_gets_what_it_gets_among_others(model: Recommender, k: int) -> None:
    data = log()
    model.fit(data, ONE)
    allowed = np.random.default_rng(1).random(data.n_items) < 0.7
    histories = data.histories.take(np.r_[np.arange(40), -1])
    for exclude in (None, histories):
        items, scores = model.rank(histories, k, exclude=exclude, allowed=allowed, run=ONE)
        for row in range(len(histories)):
            one = histories.rows(row, row + 1)
            found, worth = model.rank(one, k, exclude=None if exclude is None else one, allowed=allowed, run=ONE)
            np.testing.assert_allclose(worth[0], scores[row], rtol=2e-5, atol=1e-6)
            # Equal scores may be told apart by the last bit where sums are made in another order.
            same = found[0] == items[row]
            near = np.isclose(worth[0], scores[row][np.arange(len(same))], rtol=2e-5, atol=1e-6)
            assert (same | near).all()
            assert same.mean() > 0.95


@pytest.mark.parametrize("how", ["binary", "weight", "count"])
def test_the_matrix_of_one_history_is_its_row_of_the_matrix_of_all(how: str) -> None:
    data = log()
    whole = data.histories.matrix(data.n_items, how)
    for row in range(len(data.histories)):
        one, there = data.histories.rows(row, row + 1).matrix(data.n_items, how), whole[row]
        assert one.dtype == there.dtype
        np.testing.assert_array_equal(one.indices, there.indices)
        np.testing.assert_allclose(one.data, there.data)
    assert Histories.of(np.zeros(2, np.int64), np.zeros(0, np.int32)).matrix(9, how).nnz == 0
