"""Nearest neighbours over co-occurrence: ItemKNN (item-based) and UserKNN (user-based)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models import search_plan
from zhiyin.models.cooccurrence import cooccurrence_rows, cooccurrence_sums, top_k_cooccurrence
from zhiyin.models.item_to_item import keep_largest, row_of, rows_of, score_by_table, to_csr, top_by_table
from zhiyin.models.masked_search import Mask
from zhiyin.models.recommender import Recommender, has_positive_event
from zhiyin.models.row_computation import BlockSums, RowComputation, table_outputs

SIMILARITIES = ("cosine", "jaccard", "tfidf", "bm25")


@dataclasses.dataclass
class TableRecommender(Recommender):
    """A recommender whose score is the history times a sparse items × items matrix with positive entries."""

    similarities_: ClassVar[sparse.csr_matrix]

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        return score_by_table(histories.matrix(self.similarities_.shape[0]), self.similarities_, run)

    def _put_search(self, table: ArrayTable, base: int, run: Run) -> int:
        if type(self)._score is not TableRecommender._score:
            return search_plan.LIST
        return search_plan.put_table(table, base, self.similarities_)

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        return rows_of(self.similarities_, items)

    def _similar_to_item(self, item: int, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        return row_of(self.similarities_, item)


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

    similarity: str = param("cosine", "similarity of two items", choices=SIMILARITIES, tune=SIMILARITIES)
    k_neighbors: int = param(100, "neighbours kept for each item", at_least=1, tune=(10, 500), log=True)
    shrinkage: float = param(
        10.0, "shrinkage of similarities by the number of common users", at_least=0, tune=(0.0, 100.0)
    )
    k1: float = param(1.2, "bm25: k1, saturation of repeated events", at_least=0)
    b: float = param(0.75, "bm25: b, normalisation by the item's popularity", at_least=0, at_most=1)

    def _fit(self, data: Dataset, run: Run) -> None:
        counted = data.matrix(self.counted)
        if self.similarity in ("cosine", "jaccard"):
            k = self._row_length(data.n_items)
            jaccard = self.similarity == "jaccard"
            items, values = top_k_cooccurrence(counted, k, self.shrinkage, jaccard, run, label="ItemKNN")
        else:
            items, values = self.weighted_rows(counted).run(run, label="ItemKNN")
        self.similarities_ = to_csr(items, values, data.n_items)  # type: ignore[misc]

    @property
    def counted(self) -> str:
        """What of the events is counted: `how` of `Histories.matrix`."""
        return "binary" if self.similarity in ("cosine", "jaccard") else "count"

    def table_rows(self, counted: sparse.csr_matrix) -> tuple[RowComputation, np.ndarray | None]:
        """The computation of the table from the matrix users × items of `counted`, and the item of each row; None where
        row r is that of item r."""
        if self.similarity in ("cosine", "jaccard"):
            k = self._row_length(counted.shape[1])
            return cooccurrence_rows(counted, k, self.shrinkage, self.similarity == "jaccard")
        return self.weighted_rows(counted), None

    def _row_length(self, n_items: int) -> int:
        return min(self.k_neighbors, max(1, n_items - 1))

    def weighted_rows(self, counted: sparse.csr_matrix) -> RowComputation:
        """The computation of the similarities over weighted counts, tfidf and bm25."""
        users = self.weights(counted, np.asarray(counted.sum(axis=0)).ravel())
        items = users.T.tocsr()
        square = np.zeros(users.shape[1], dtype=np.float32)
        add_squares(users.indices, users.data, square)
        inputs = (items.indptr, items.indices, items.data, users.indptr, users.indices, users.data, square)
        settings = (SIMILARITIES.index(self.similarity), float(self.shrinkage))
        n_items = users.shape[1]
        outputs = table_outputs(self._row_length(n_items))
        return RowComputation(n_items, inputs, settings, _similar_rows, outputs, np.diff(items.indptr) + 1.0)

    def table_sums(self, counts: np.ndarray, square: np.ndarray) -> tuple[BlockSums, np.ndarray | None]:
        """`table_rows` by blocks of users.

        Parameters
        ----------
        counts: int64[n_items], the number of users of each item, in the matrices that are summed.
        square: float32[n_items], tfidf and bm25: the sums of squares of the weighted matrices.
        """
        n_items, k = len(counts), self._row_length(len(counts))
        if self.similarity in ("cosine", "jaccard"):
            return cooccurrence_sums(counts, k, self.shrinkage, self.similarity == "jaccard")
        settings, outputs = (SIMILARITIES.index(self.similarity), float(self.shrinkage)), table_outputs(k)
        cost = counts + 1.0
        return BlockSums(n_items, np.float32, _add_block, (square,), settings, _similar_sums, outputs, cost), None

    def weights(self, counted: sparse.csr_matrix, length: np.ndarray) -> sparse.csr_matrix:
        """CSR users × items of counts, weighted for the chosen similarity. length: float32[n_items], the sum of the
        counts of each item, of all users."""
        users = counted.copy()
        events = np.asarray(users.sum(axis=1)).ravel() if self.similarity == "tfidf" else np.diff(users.indptr)
        rarity = np.maximum(np.log(users.shape[1] / (1.0 + events)), 0).astype(np.float32)
        rarity = np.repeat(rarity, np.diff(users.indptr))
        if self.similarity == "tfidf":
            users.data = np.sqrt(users.data) * rarity
            users.eliminate_zeros()
            return users
        norm = 1 - self.b + self.b * length / max(float(length.mean()), 1e-9)
        users.data = (users.data * (self.k1 + 1) / (users.data + self.k1 * norm[users.indices]) * rarity).astype(
            np.float32
        )
        users.eliminate_zeros()
        return users


@dataclasses.dataclass
class UserKNN(Recommender):
    """User-based nearest neighbours (Resnick et al. 1994; Herlocker et al. 1999), over any history.

    With d(h, v) the inner product of the history with that of user v, s the shrinkage, sim(h, v) is

    - cosine: d / (|h| |v| + s) over ones;
    - jaccard: d / (|h|² + |v|² - d + s) over ones;
    - tfidf: cosine over sqrt(count) · log(users / (1 + events of the item));
    - bm25: d over BM25-weighted counts (k1, b as in Robertson & Zaragoza 2009; a user is a document, an item a term),
      shrunk by d / (d + s).

    score(h, j) = sum of sim(h, v) over those of the `k_neighbors` users most similar to h who had j. Users without an
    item that the history lacks are no neighbours, as they cannot contribute: nobody is their own neighbour, and a user
    of the training data gets the scores of an unknown user with the same history. No users × users array exists: a
    history is compared only with users who share an item with it.
    """

    similarity: str = param("cosine", "similarity of two users", choices=SIMILARITIES, tune=SIMILARITIES)
    k_neighbors: int = param(200, "neighbours whose items are recommended", at_least=1, tune=(20, 1000), log=True)
    shrinkage: float = param(
        10.0, "shrinkage of similarities by the number of common items", at_least=0, tune=(0.0, 100.0)
    )
    k1: float = param(1.2, "bm25: k1, saturation of repeated events", at_least=0)
    b: float = param(0.75, "bm25: b, normalisation by the user's number of items", at_least=0, at_most=1)

    rarity_: ClassVar[np.ndarray]
    mean_length_: ClassVar[float]
    users_of_: ClassVar[sparse.csr_matrix]
    taken_: ClassVar[sparse.csr_matrix]
    square_: ClassVar[np.ndarray]

    def _fit(self, data: Dataset, run: Run) -> None:
        counts = data.matrix("count")
        self.taken_ = data.matrix("binary").copy()  # type: ignore[misc]
        events = np.asarray(counts.sum(axis=0)).ravel()
        item_counts = events if self.similarity == "tfidf" else np.bincount(counts.indices, minlength=data.n_items)
        rarity = np.maximum(np.log(max(data.n_users, 1) / (1.0 + item_counts)), 0)
        self.rarity_ = rarity.astype(np.float32)  # type: ignore[misc]
        self.mean_length_ = float(events.sum() / max(data.n_users, 1))  # type: ignore[misc]
        weighted = self._weights(counts)
        self.square_ = _squares(weighted)  # type: ignore[misc]
        self.users_of_ = weighted.T.tocsr()  # type: ignore[misc]

    def _weights(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Counts of histories, CSR float32[n, n_items], weighted for the chosen similarity; zeros stay stored."""
        weights = counts.data
        if self.similarity in ("cosine", "jaccard"):
            weights = np.ones_like(weights)
        elif self.similarity == "tfidf":
            weights = np.sqrt(weights) * self.rarity_[counts.indices]
        else:
            length = np.asarray(counts.sum(axis=1)).ravel()
            norm = self.k1 * (1 - self.b + self.b * length / max(self.mean_length_, 1e-9))
            norm = np.repeat(norm, np.diff(counts.indptr))
            weights = weights * (self.k1 + 1) / (weights + norm) * self.rarity_[counts.indices]
        return sparse.csr_matrix((weights.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)

    def neighbors(self, histories: Histories, run: Run | None = None) -> sparse.csr_matrix:
        """CSR float32[n, n_users]: similarity of each history to its `k_neighbors` most similar users."""
        run = run or Run()
        rows = self._weights(histories.matrix(len(self.rarity_), "count"))
        square, users_of = _squares(rows), self.users_of_
        n, n_users = rows.shape[0], users_of.shape[1]
        k = min(self.k_neighbors, max(1, n_users))
        users, values = np.full((n, k), -1, dtype=np.int32), np.zeros((n, k), dtype=np.float32)
        how = SIMILARITIES.index(self.similarity)

        def work(start: int, stop: int) -> None:
            _nearest(
                rows.indptr, rows.indices, rows.data, square, users_of.indptr, users_of.indices, users_of.data,
                self.square_, self.taken_.indptr, how, np.float32(self.shrinkage), start, stop, users, values,
            )  # fmt: skip

        for_chunks(work, n, run)
        return to_csr(users, values, n_users)

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        return score_by_table(self.neighbors(histories, run), self.taken_, run)

    def _rank_many(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], allowed: Mask, run: Run
    ) -> tuple[np.ndarray, np.ndarray]:
        """Without scores of all items."""
        plain = type(self)._score is UserKNN._score and self.taken_.indices.dtype == np.int32
        if not plain or not has_positive_event(histories).all():
            return super()._rank_many(histories, k, excluded, allowed, run)
        near = self.neighbors(histories, run)
        return top_by_table(near, self.taken_, k, self._context(), allowed, excluded, run)

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """Scores of histories of one item each; minus infinity where no neighbour had the item."""
        scores = self._score(Histories.of(np.arange(len(items) + 1, dtype=np.int64), items.astype(np.int32)), run)
        scores[scores <= 0] = -np.inf
        return scores


def _squares(rows: sparse.csr_matrix) -> np.ndarray:
    """float32[n]: squared length of each row."""
    return np.asarray(rows.multiply(rows).sum(axis=1), dtype=np.float32).ravel()


def _similar_rows(
    inputs: tuple[np.ndarray, ...], settings: tuple[Any, ...], start: int, stop: int, outputs: tuple[np.ndarray, ...]
) -> None:
    how, shrinkage = settings
    _similarities(*inputs, how, np.float32(shrinkage), start, stop, *outputs)


@kernel
def _similarities(
    i_indptr, i_users, i_data, u_indptr, u_items, u_data, square, how, shrinkage, start, stop, neighbors, values
):
    """The tfidf and bm25 similarities of the items start..stop; those over ones are computed by `cooccurrence`."""
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
        _most_similar(
            total, touched, n_touched, item, square, how, shrinkage, neighbors[item - start], values[item - start]
        )


@kernel
def _most_similar(total, touched, n_touched, item, square, how, shrinkage, neighbors, values):
    """The largest similarities of an item from its inner products with the touched ones, which are set to zero."""
    total[item] = 0
    for place in range(n_touched):
        other = touched[place]
        dot = total[other]
        if dot <= 0:
            continue
        if how == 3:
            total[other] = dot * dot / (dot + shrinkage)
        else:
            total[other] = dot / (np.sqrt(square[item]) * np.sqrt(square[other]) + shrinkage)
    keep_largest(total, touched, n_touched, neighbors, values)


@kernel
def add_squares(items, data, square):
    """square[i] += the sum of the squares of the entries of item i, in their order."""
    for at in range(len(items)):
        square[items[at]] += data[at] * data[at]


def _add_block(block: tuple[np.ndarray, ...], start: int, stop: int, totals: np.ndarray) -> None:
    _add_products(*block, start, stop, totals)


@kernel
def _add_products(i_indptr, i_users, i_data, u_indptr, u_items, u_data, start, stop, totals):
    """Add the inner products over the users of a block of the items start..stop and each item."""
    for item in range(start, stop):
        for at in range(i_indptr[item], i_indptr[item + 1]):
            user, weight = i_users[at], i_data[at]
            for to in range(u_indptr[user], u_indptr[user + 1]):
                totals[item - start, u_items[to]] += weight * u_data[to]


def _similar_sums(
    inputs: tuple[np.ndarray, ...],
    settings: tuple[Any, ...],
    start: int,
    stop: int,
    totals: np.ndarray,
    outputs: tuple[np.ndarray, ...],
) -> None:
    how, shrinkage = settings
    _most_similar_of_all(totals, *inputs, how, np.float32(shrinkage), start, stop, *outputs)


@kernel
def _most_similar_of_all(totals, square, how, shrinkage, start, stop, neighbors, values):
    everything = np.arange(len(square)).astype(np.int32)
    for item in range(start, stop):
        _most_similar(
            totals[item - start], everything, len(square), item, square, how, shrinkage,
            neighbors[item - start], values[item - start],
        )  # fmt: skip


@kernel
def _nearest(
    h_indptr, h_items, h_data, h_square, i_indptr, i_users, i_data, square, u_indptr, how, shrinkage, start, stop,
    neighbors, values,
):  # fmt: skip
    total = np.zeros(len(square), dtype=np.float32)
    shared = np.zeros(len(square), dtype=np.int32)
    touched = np.empty(len(square), dtype=np.int32)
    for row in range(start, stop):
        n_touched = 0
        for at in range(h_indptr[row], h_indptr[row + 1]):
            item, weight = h_items[at], h_data[at]
            for to in range(i_indptr[item], i_indptr[item + 1]):
                user = i_users[to]
                if shared[user] == 0:
                    touched[n_touched] = user
                    n_touched += 1
                shared[user] += 1
                total[user] += weight * i_data[to]
        for place in range(n_touched):
            user = touched[place]
            dot = total[user]
            if dot <= 0 or shared[user] == u_indptr[user + 1] - u_indptr[user]:
                total[user] = 0
            elif how == 1:
                total[user] = dot / (h_square[row] + square[user] - dot + shrinkage)
            elif how == 3:
                total[user] = dot * dot / (dot + shrinkage)
            else:
                total[user] = dot / (np.sqrt(h_square[row]) * np.sqrt(square[user]) + shrinkage)
            shared[user] = 0
        keep_largest(total, touched, n_touched, neighbors[row], values[row])
