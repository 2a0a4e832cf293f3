"""Random: uniform, deterministic, and the same whoever else is in the batch."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy import stats

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.random import Random
from zhiyin.testing.recommender import RecommenderConformance


class TestRandom(RecommenderConformance):
    def make(self) -> Random:
        return Random()


def _log(users: int = 4000, items: int = 20) -> Dataset:
    return Dataset.build(pl.DataFrame({"user": np.arange(users), "item": np.arange(users) % items}))


def test_the_first_item_is_uniform() -> None:
    data = _log()
    items, _ = Random().fit(data).rank(data.histories, 1)
    assert stats.chisquare(np.bincount(items[:, 0], minlength=20)).pvalue > 1e-3


def test_another_seed_is_another_order() -> None:
    data = _log(50)
    one, other = (Random().fit(data, Run(seed=seed)).recommend(k=5)["item"].to_list() for seed in (0, 1))
    assert one != other


def test_recall_is_k_over_items() -> None:
    data = _log()
    items, _ = Random().fit(data).rank(data.histories, 5)
    hits = (items == data.histories.items[:, None]).any(axis=1)
    assert abs(hits.mean() - 5 / 20) < 3 * np.sqrt(0.25 * 0.75 / len(hits))
