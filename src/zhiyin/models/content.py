"""Content (content-based filtering over item columns) and PopularInCategory (popularity by category)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run, log
from zhiyin.data.catalogue import category_columns
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.features.feature_inference import guess
from zhiyin.features.feature_table import Features
from zhiyin.features.text import unit_rows
from zhiyin.models.item_features import ItemFeatureMixin
from zhiyin.models.recommender import Recommender


@dataclasses.dataclass
class Content(ItemFeatureMixin, Recommender):
    """Content-based recommendations: cosine between history and item, over words (TF-IDF or BM25), categories and tags
    (Pazzani & Billsus, Content-based recommendation systems, 2007).

    The vector of an item is the concatenation of the vectors of its columns, each times its weight
    (`FeatureTable.matrix`). The vector of a user is the sum of the vectors of the items in the history, scaled to
    length 1. In the sum an item has the weight (sum of its event weights)^`repeats` · mean freshness of its events,
    where freshness halves with every `half_life` and with every `half_life_events` later events; an item whose event
    weights do not sum to a positive number is left out. The score is the inner product of the two vectors. Items
    without events are scored in the same way. Items with nothing in common with the history have score 0 and are
    ordered by popularity.

    | difference from cosine | why |
    |---|---|
    | an item with unknown words or missing columns is shorter than 1 | few known words are weak evidence |
    """

    half_life: str | None = param(
        None, "half-life of the weight of an event; none: no decay", tune=("7d", "30d", "90d", "365d")
    )
    half_life_events: float = param(
        0.0, "half-life of the weight of an event, in later events; 0: no decay", at_least=0, tune=(0.0, 50.0)
    )
    repeats: float = param(
        0.0, "power of an item's summed weight; 0: repeated events do not count", at_least=0, at_most=1, tune=(0.0, 1.0)
    )

    items_: ClassVar[sparse.csr_matrix]
    postings_: ClassVar[sparse.csr_matrix]

    def _fit(self, data: Dataset, run: Run) -> None:
        self._learn_columns(data, run)
        self.items_ = self.vectors_for(data.items)  # type: ignore[misc]
        self.postings_ = self.items_.T.tocsr()  # type: ignore[misc]
        self.postings_.sort_indices()

    def profiles(self, histories: Histories) -> sparse.csr_matrix:
        """CSR float32[n, v], rows of length 1 or 0: users in the space of `vectors_for`."""
        counts = recency_weights(histories, self.items_.shape[0], self.half_life, self.half_life_events, self.repeats)
        return unit_rows(sparse.csr_matrix(counts @ self.items_))

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        return product(self.profiles(histories), self.postings_, run)

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """Cosine of the items' vectors."""
        return product(sparse.csr_matrix(self.items_[items]), self.postings_, run)


@dataclasses.dataclass
class PopularInCategory(Recommender):
    """Popular items of the categories in the history; the baseline of content-based models.

    score(u, i) = (share of u's events in the categories of i + 0.001) · popularity(i). An event counts in equal parts
    for the categories of its item. Popularity is the sum of event weights, halved every `half_life`; that of an item
    without events is the mean over the items of its categories. Users without a history, or with items without a
    category only, get popular items.
    """

    scores_empty_histories: ClassVar[bool] = True
    # Share added to every item, so that items without a common category are ordered by popularity.
    floor: ClassVar[float] = 1e-3

    column: str = param(
        "", "item column of categories or tags; empty: one with a name such as genre or category, else a guessed one"
    )
    half_life: str | None = param(
        None, "half-life of the weight of an event; none: no decay", tune=("7d", "30d", "90d")
    )

    categories_: ClassVar[sparse.csr_matrix]
    postings_: ClassVar[sparse.csr_matrix]
    popularity_: ClassVar[np.ndarray]

    def _fit(self, data: Dataset, run: Run) -> None:
        weight = data.events["weight"].to_numpy().astype(np.float64)
        item = data.events["item"].to_numpy()
        has_event = np.bincount(item[weight > 0], minlength=data.n_items) > 0
        if self.half_life is not None and data.has_times:
            weight = weight * np.exp2(-(data.window[1] - data.events["time"].to_numpy()) / microseconds(self.half_life))
        popularity = np.maximum(np.bincount(item, weights=weight, minlength=data.n_items), 0.0)
        member = self._categories(data, has_event, run)
        mean = (member[has_event].T @ popularity[has_event]) / np.maximum(_sums(member[has_event], 0), 1e-9)
        category_mean = member @ mean / np.maximum(_sums(member, 1), 1)
        self.popularity_ = np.where(has_event, popularity, category_mean).astype(np.float32)  # type: ignore[misc]
        shares = member.copy()
        shares.data /= np.repeat(np.diff(member.indptr), np.diff(member.indptr)).astype(np.float32)
        self.categories_, self.postings_ = shares, member.T.tocsr()  # type: ignore[misc]

    def _categories(self, data: Dataset, has_event: np.ndarray, run: Run) -> sparse.csr_matrix:
        """CSR of ones float32[n_items, c]: the categories of each item."""
        frame = data.items.drop("id")
        name = self.column or self._guessed(frame)
        if name is None:
            log.info("PopularInCategory: items have no categories; everybody gets the popular ones")
            return sparse.csr_matrix((data.n_items, 0), dtype=np.float32)
        if name not in frame.columns:
            remedy = suggest(name, frame.columns or ["none"])
            raise ConfigError(f"column: there is no item column {name!r}", remedy=remedy)
        # Any text is read as tags: a text without separators is one tag.
        table = Features.learn(
            frame.select(name), {name: "tags:min=1"}, has_event if has_event.any() else None, run
        ).encode(frame)
        offsets, codes = table.bags[name]
        ones = np.ones(len(codes), dtype=np.float32)
        shape = (data.n_items, table.sizes[name])
        return sparse.csr_matrix((ones, codes.astype(np.int64), offsets), shape=shape)

    def _guessed(self, frame: pl.DataFrame) -> str | None:
        kinds = {name: guess(frame[name])[0] for name in frame.columns}
        conventional = [name for name in category_columns(frame.columns) if kinds[name] != "skip"]
        names = conventional + [name for kind in ("tags", "category") for name in frame.columns if kinds[name] == kind]
        return names[0] if names else None

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        history = recency_weights(histories, len(self.popularity_), None, 0.0, 0.0)
        shares = sparse.csr_matrix(history @ self.categories_)
        total = np.maximum(_sums(shares, 1), 1e-9).astype(np.float32)
        shares.data /= np.repeat(total, np.diff(shares.indptr))
        scores = product(shares, self.postings_, run)
        scores += np.float32(self.floor)
        scores *= self.popularity_
        return scores


def recency_weights(
    histories: Histories, n_items: int, half_life: str | None, half_life_events: float, repeats: float
) -> sparse.csr_matrix:
    """CSR float32[n, n_items]: the weight of each item in a history; see `Content`.

    Ages are counted from the last event of each history, as only the ratios within a history matter.
    """
    nonzero = np.flatnonzero(histories.weights != 0)
    owner = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)[nonzero]
    cells, shape = (owner, histories.items[nonzero]), (len(histories), n_items)
    weights = histories.weights[nonzero].astype(np.float64)

    def summed(values: np.ndarray) -> sparse.csr_matrix:
        matrix = sparse.csr_matrix((values, cells), shape=shape)
        matrix.sum_duplicates()
        return matrix

    counts = summed(weights)
    counts.data = np.where(counts.data > 0, np.maximum(counts.data, 0) ** repeats, 0.0)
    if half_life is not None or half_life_events:
        freshness = np.ones(len(nonzero))
        if half_life is not None:
            last = np.zeros(len(histories), dtype=np.int64)
            filled = histories.lengths > 0
            last[filled] = histories.times[histories.offsets[1:][filled] - 1]
            freshness *= np.exp2(-(last[owner] - histories.times[nonzero]) / microseconds(half_life))
        if half_life_events:
            freshness *= np.exp2(-(histories.offsets[1:][owner] - nonzero - 1) / half_life_events)
        # Mean freshness of an item's events; the matrices have the same entries in the same order.
        counts.data *= summed(np.abs(weights) * freshness).data / summed(np.abs(weights)).data
    counts.eliminate_zeros()
    return counts.astype(np.float32)


def product(rows: sparse.csr_matrix, postings: sparse.csr_matrix, run: Run) -> np.ndarray:
    """float32[n, m]: rows times postings, both CSR; reads the postings of the words of each row only."""
    scores = np.zeros((rows.shape[0], postings.shape[1]), dtype=np.float32)
    if rows.nnz and postings.nnz:
        rows.sort_indices()

        def work(start: int, stop: int) -> None:
            _product(rows.indptr, rows.indices, rows.data, postings.indptr, postings.indices, postings.data,
                     scores, start, stop)  # fmt: skip

        for_chunks(work, len(scores), run, chunk=max(1, min(64, len(scores) // (4 * run.n_threads))))
    return scores


@kernel
def _product(indptr, words, weights, starts, items, shares, scores, start, stop):
    for row in range(start, stop):
        for at in range(indptr[row], indptr[row + 1]):
            word, weight = words[at], weights[at]
            for place in range(starts[word], starts[word + 1]):
                scores[row, items[place]] += weight * shares[place]


def _sums(matrix: sparse.csr_matrix, axis: int) -> np.ndarray:
    return np.asarray(matrix.sum(axis=axis), dtype=np.float64).ravel()
