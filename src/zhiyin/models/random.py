"""Random: a random order of the items, the lower baseline. Its expected recall@k is k / items."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.recommender import Recommender


@dataclasses.dataclass
class Random(Recommender):
    """Uniformly random scores, determined by the seed, the user and the history.

    A counter-based generator (SplitMix64, Steele et al. 2014) draws each score from (seed, user, history, item), so
    that it does not depend on the other rows of the batch.
    """

    scores_empty_histories: ClassVar[bool] = True

    def _fit(self, data: Dataset, run: Run) -> None:
        self.seed_ = run.seed
        self.n_items_ = data.n_items

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        scores = np.empty((len(histories), self.n_items_), dtype=np.float32)

        def work(start: int, stop: int) -> None:
            _draw(np.uint64(self.seed_), histories.users, histories.offsets, histories.items, start, stop, scores)

        for_chunks(work, len(histories), run)
        return scores


@kernel
def _draw(seed, users, offsets, items, start, stop, scores):
    for row in range(start, stop):
        key = mix(seed + GOLDEN * np.uint64(users[row] + 2))
        for at in range(offsets[row], offsets[row + 1]):
            key = mix(key + GOLDEN * np.uint64(items[at] + 1))
        for item in range(scores.shape[1]):
            bits = mix(key + GOLDEN * np.uint64(item + 1)) >> np.uint64(40)
            scores[row, item] = np.float32(bits) * np.float32(2.0**-24)
