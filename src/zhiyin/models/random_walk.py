"""RP3beta: three-step random walk on the user-item graph, with a penalty on popular items."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.item_to_item import keep_largest, to_csr
from zhiyin.models.neighbors import TableRecommender


@dataclasses.dataclass
class RP3beta(TableRecommender):
    """Three-step random walk (Cooper et al. 2014) with a popularity penalty (Paudel et al. 2017, eq. 7).

    With d_i and d_u the number of users of an item and of items of a user, a walk goes from an item to one of its
    users with p(i, u) = (1 / d_i)^alpha, and on to one of their items with p(u, j) = (1 / d_u)^alpha:

        w(i, j) = sum over users u of both of p(i, u) p(u, j), divided by d_j^beta.

    Each item keeps its `k_neighbors` largest weights; score(u, j) = sum of w(i, j) over the items i of the history, the
    first of the three steps. With `normalize`, the weights of each item are scaled to sum to 1.
    """

    alpha: float = param(0.6, "power of the probability of a step; lower makes steps more even", at_least=0, at_most=4,
                         tune=(0.2, 1.6))  # fmt: skip
    beta: float = param(
        0.3, "power of an item's popularity that its score is divided by", at_least=0, at_most=4, tune=(0.0, 1.0)
    )
    k_neighbors: int = param(200, "neighbours kept for each item", at_least=1, tune=(10, 1000), log=True)
    normalize: bool = param(True, "whether the kept transitions of an item are normalised to sum 1", tune=(False, True))

    def _fit(self, data: Dataset, run: Run) -> None:
        n_items = data.n_items
        users = data.matrix("binary")
        items = users.T.tocsr()
        from_user = _power(np.diff(users.indptr), self.alpha)
        from_item = _power(np.diff(items.indptr), self.alpha)
        end_weights = _power(np.diff(items.indptr), self.beta)
        k = min(self.k_neighbors, max(1, n_items - 1))
        neighbors = np.full((n_items, k), -1, dtype=np.int32)
        values = np.zeros((n_items, k), dtype=np.float32)

        def work(start: int, stop: int) -> None:
            _walk(
                items.indptr, items.indices, users.indptr, users.indices, from_item, from_user, end_weights,
                start, stop, neighbors, values,
            )  # fmt: skip

        for_chunks(work, n_items, run, label="RP3beta")
        if self.normalize:
            values /= np.maximum(values.sum(axis=1, keepdims=True), np.float32(1e-30))
        self.similarities_ = to_csr(neighbors, values, n_items)  # type: ignore[misc]


def _power(degrees: np.ndarray, power: float) -> np.ndarray:
    """1 / degree^power, float32; 1 for degree 0, which no walk reaches."""
    return (np.maximum(degrees, 1).astype(np.float64) ** -power).astype(np.float32)


@kernel
def _walk(i_indptr, i_users, u_indptr, u_items, from_item, from_user, end_weights, start, stop, neighbors, values):
    total = np.zeros(len(end_weights), dtype=np.float32)
    touched = np.empty(len(end_weights), dtype=np.int32)
    for item in range(start, stop):
        n_touched = 0
        for at in range(i_indptr[item], i_indptr[item + 1]):
            user = i_users[at]
            step = from_user[user]
            for to in range(u_indptr[user], u_indptr[user + 1]):
                other = u_items[to]
                if total[other] == 0:
                    touched[n_touched] = other
                    n_touched += 1
                total[other] += step
        total[item] = 0
        for place in range(n_touched):
            other = touched[place]
            total[other] *= from_item[item] * end_weights[other]
        keep_largest(total, touched, n_touched, neighbors[item], values[item])
