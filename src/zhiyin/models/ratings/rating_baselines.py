"""What any model of ratings has to beat: the mean of all ratings, and the biases of users and items."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.ratings.rating_model import RatingModel


@dataclasses.dataclass
class GlobalMean(RatingModel):
    """r̂_ui = μ, the mean of all ratings; its lists are those of `Popular`."""

    def _fit(self, data: Dataset, run: Run) -> None:
        mean = self._learn_scale(data.histories).ratings.mean(dtype=np.float64)
        self.item_vectors_ = np.tile(np.array([mean, 1], np.float32), (data.n_items, 1))  # type: ignore[misc]

    def _encode(self, histories: Histories, run: Run) -> np.ndarray:
        return np.tile(np.array([1, 0], np.float32), (len(histories), 1))


@dataclasses.dataclass
class UserItemBias(RatingModel):
    """r̂_ui = μ + b_u + b_i, each the damped mean of what is left: b_i = Σ (r - μ) / (n_i + damping_items), then
    b_u = Σ (r - μ - b_i) / (n_u + damping_users) (Koren, "Factor in the neighbors", TKDD 2010, 2.1).
    """

    damping_items: float = param(
        5.0, "ratings of 0 that an item's bias is averaged with", at_least=0, tune=(1, 50), log=True
    )
    damping_users: float = param(
        5.0, "ratings of 0 that a user's bias is averaged with", at_least=0, tune=(1, 50), log=True
    )
    mean_: ClassVar[float]

    def _fit(self, data: Dataset, run: Run) -> None:
        rated = self._learn_scale(data.histories)
        self.mean_ = float(rated.ratings.mean(dtype=np.float64))  # type: ignore[misc]
        items = rated.histories.items
        sums = np.bincount(items, rated.ratings - self.mean_, minlength=data.n_items)
        counts = np.bincount(items, minlength=data.n_items)
        biases = sums / np.maximum(counts + self.damping_items, 1e-6)
        self.item_vectors_ = np.column_stack([self.mean_ + biases, np.ones(data.n_items)]).astype(np.float32)  # type: ignore[misc]

    def _encode(self, histories: Histories, run: Run) -> np.ndarray:
        """float32[n, 2]: one and b_u."""
        rated = self._ratings(histories)
        left = rated.ratings - self.item_vectors_[rated.histories.items, 0]
        sums = np.bincount(rated.owner, left, minlength=len(histories))
        biases = sums / np.maximum(rated.histories.lengths + self.damping_users, 1e-6)
        return np.column_stack([np.ones(len(histories)), biases]).astype(np.float32)
