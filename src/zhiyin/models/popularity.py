"""Popular: the most popular items, the same list for every user; the non-personalised baseline."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.durations import microseconds
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models import search_plan
from zhiyin.models.recommender import Recommender


@dataclasses.dataclass
class Popular(Recommender):
    """Items by the sum of their event weights, with exponential decay.

    score(i) = sum over events e of i of weight(e) · 2^(-age(e) / half_life), age counted from the end of the log. Decay
    after the end of the log is the same factor for all items, so the order stays as it is. Events of negative weight
    lower the score. Without `half_life`, or without times, there is no decay.
    """

    scores_empty_histories: ClassVar[bool] = True

    half_life: str | None = param(
        None, "half-life of the weight of an event; none: no decay", tune=("1d", "7d", "30d", "90d")
    )

    def _fit(self, data: Dataset, run: Run) -> None:
        weight = data.events["weight"].to_numpy().astype(np.float64)
        if self.half_life is not None and data.has_times:
            age = data.window[1] - data.events["time"].to_numpy()
            weight = weight * np.exp2(-age / microseconds(self.half_life))
        scores = np.bincount(data.events["item"].to_numpy(), weights=weight, minlength=data.n_items)
        self.scores_ = scores.astype(np.float32)

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        return np.tile(self.scores_, (len(histories), 1))

    def _put_search(self, table: ArrayTable, base: int, run: Run) -> int:
        if type(self)._score is not Popular._score:
            return search_plan.LIST
        return search_plan.put_scores(table, base, self.scores_, self._context().priority)
