"""Nearest neighbours. ItemKNN: people who took this also took that. UserKNN: people like you took that."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from scipy import sparse

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.base import Recommender
from zhiyin.models.pairs import keep_largest, rows_of, score_by_table, to_csr, top_by_table


@dataclasses.dataclass
class TableRecommender(Recommender):
    """A recommender whose score is a history times one sparse items × items table of entries above zero."""

    similarities_: ClassVar[sparse.csr_matrix]

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        return score_by_table(histories.matrix(self.similarities_.shape[0]), self.similarities_, run)

    def _rank_few(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], allowed: np.ndarray, run: Run
    ) -> tuple[np.ndarray, np.ndarray] | None:
        priority = self._known().priority
        return top_by_table(
            histories.matrix(self.similarities_.shape[0]), self.similarities_, k, priority, allowed, excluded
        )

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        return rows_of(self.similarities_, items)


@dataclasses.dataclass
class ItemKNN(TableRecommender):
    """Item-based nearest neighbours (Sarwar et al. 2001; Deshpande & Karypis 2004).

    With d(i, j) the inner product of two items' columns of the users × items matrix, s the shrinkage:

    - cosine: d / (|i| |j| + s) over ones;
    - jaccard: d / (|i|² + |j|² - d + s) over ones;
    - tfidf: cosine over sqrt(count) · log(items / (1 + events of the user));
    - bm25: d over BM25-weighted counts (k1, b as in Robertson & Zaragoza 2009), shrunk by d / (d + s).

    Each item keeps its `k_neighbors` most similar; score(u, j) = sum of sim(i, j) over the items i of the history.
    """

    similarity: str = param("cosine", "how alike two items are", choices=("cosine", "jaccard", "tfidf", "bm25"),
                            tune=("cosine", "jaccard", "tfidf", "bm25"))  # fmt: skip
    k_neighbors: int = param(100, "neighbours kept for each item", at_least=1, tune=(10, 500), log=True)
    shrinkage: float = param(10.0, "damps similarities that rest on few users", at_least=0, tune=(0.0, 100.0))
    k1: float = param(1.2, "bm25: how soon repeats stop counting", at_least=0)
    b: float = param(0.75, "bm25: how much an item's popularity is held against it", at_least=0, at_most=1)

    def _fit(self, data: Dataset, run: Run) -> None:
        n_items = data.n_items
        users = self._weights(data)
        items = users.T.tocsr()
        square = np.asarray(users.multiply(users).sum(axis=0), dtype=np.float32).ravel()
        how = ("cosine", "jaccard", "tfidf", "bm25").index(self.similarity)
        k = min(self.k_neighbors, max(1, n_items - 1))
        neighbors = np.full((n_items, k), -1, dtype=np.int32)
        values = np.zeros((n_items, k), dtype=np.float32)

        def work(start: int, stop: int) -> None:
            _similarities(
                items.indptr, items.indices, items.data, users.indptr, users.indices, users.data,
                square, how, np.float32(self.shrinkage), start, stop, neighbors, values,
            )  # fmt: skip

        for_chunks(work, n_items, run, label="ItemKNN")
        self.similarities_ = to_csr(neighbors, values, n_items)  # type: ignore[misc]

    def _weights(self, data: Dataset) -> sparse.csr_matrix:
        """CSR users × items by the chosen similarity."""
        if self.similarity in ("cosine", "jaccard"):
            return data.matrix("binary")
        users = data.matrix("count").copy()
        events = np.asarray(users.sum(axis=1)).ravel() if self.similarity == "tfidf" else np.diff(users.indptr)
        rarity = np.maximum(np.log(data.n_items / (1.0 + events)), 0).astype(np.float32)
        rarity = np.repeat(rarity, np.diff(users.indptr))
        if self.similarity == "tfidf":
            users.data = np.sqrt(users.data) * rarity
            users.eliminate_zeros()
            return users
        length = np.asarray(users.sum(axis=0)).ravel()
        norm = 1 - self.b + self.b * length / max(float(length.mean()), 1e-9)
        users.data = (users.data * (self.k1 + 1) / (users.data + self.k1 * norm[users.indices]) * rarity).astype(
            np.float32
        )
        users.eliminate_zeros()
        return users


@kernel
def _similarities(
    i_indptr, i_users, i_data, u_indptr, u_items, u_data, square, how, shrinkage, start, stop, neighbors, values
):
    total = np.zeros(len(square), dtype=np.float32)
    touched = np.empty(len(square), dtype=np.int32)
    for item in range(start, stop):
        n_touched = 0
        for at in range(i_indptr[item], i_indptr[item + 1]):
            user, weight = i_users[at], i_data[at]
            for to in range(u_indptr[user], u_indptr[user + 1]):
                other = u_items[to]
                if total[other] == 0:
                    touched[n_touched] = other
                    n_touched += 1
                total[other] += weight * u_data[to]
        total[item] = 0
        for place in range(n_touched):
            other = touched[place]
            dot = total[other]
            if dot <= 0:
                continue
            if how == 1:
                total[other] = dot / (square[item] + square[other] - dot + shrinkage)
            elif how == 3:
                total[other] = dot * dot / (dot + shrinkage)
            else:
                total[other] = dot / (np.sqrt(square[item]) * np.sqrt(square[other]) + shrinkage)
        keep_largest(total, touched, n_touched, neighbors[item], values[item])
