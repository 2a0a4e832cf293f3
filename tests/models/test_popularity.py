"""Popular: sums of weights, halved with age."""

from __future__ import annotations

import numpy as np
import polars as pl

from zhiyin.data.dataset import Dataset
from zhiyin.models.popularity import Popular
from zhiyin.testing.recommender import DAY, RecommenderConformance


class TestPopular(RecommenderConformance):
    def make(self) -> Popular:
        return Popular()


class TestPopularDecayed(RecommenderConformance):
    def make(self) -> Popular:
        return Popular(half_life="7d")


def test_half_life_is_exact() -> None:
    log = pl.DataFrame(
        {
            "user": [1, 2, 3, 4],
            "item": ["old", "old", "new", "bad"],
            "time": np.array([0, 7, 14, 14]) * DAY,
            "weight": np.array([4.0, 1.0, 2.0, -1.0], dtype=np.float32),
        }
    )
    model = Popular(half_life="7d").fit(Dataset.build(log))
    scores = dict(zip(model.context_.item_ids.values, model.scores_.tolist()))
    assert scores == {"old": 4 / 4 + 1 / 2, "new": 2.0, "bad": -1.0}
    assert model.recommend("x", k=3)["item"].to_list() == ["new", "old", "bad"]
    ageless = Popular().fit(Dataset.build(log))
    assert ageless.recommend("x", k=3)["item"].to_list() == ["old", "new", "bad"]
