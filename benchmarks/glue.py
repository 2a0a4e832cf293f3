"""The list of `request.py` by other libraries: implicit retrieves, LightGBM ranks, and NumPy is between them.

As someone would write it who knows these libraries: everything that does not depend on the request is computed before,
nothing loops over candidates or items, the filter is a mask made once, sources name more items than needed and the mask
is applied to these, and LightGBM predicts with one thread.

ALS and cosine neighbours of `implicit`, counts of what follows what in CSR, and the most popular items of the last
days name 100 items each. Features of a candidate: the sources' scores and ranks, the item's events in several windows
before the moment of the request, price and category, how the user's history agrees with it in category, price and
neighbours, and what the user did with it. MMR compares the items' vectors of ALS.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import threadpoolctl
from implicit.cpu.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from scipy import sparse

from zhiyin.data.histories import Histories

DAY = 86_400_000_000
N = 100  # items that a source names
WINDOWS = (1, 7, 30)  # days
LAST, DECAY = 10, 0.8  # of the history, that transitions start from
BALANCE = 0.7


class Glue:
    """See the module.

    Parameters
    ----------
    user_items: float32 CSR[n_users, n_items], events of users.
    offsets, items, times: the histories, oldest event first.
    price, category: of items.
    """

    def __init__(self, histories: Histories, frame: pl.DataFrame) -> None:
        self.offsets, self.items, self.times = histories.offsets, histories.items, histories.times
        n_users, n_items = len(histories), len(frame)
        ones = np.ones(len(self.items), np.float32)
        self.user_items = sparse.csr_matrix((ones, self.items.copy(), self.offsets.copy()), shape=(n_users, n_items))
        self.user_items.sum_duplicates()
        self.price = frame["price"].to_numpy().astype(np.float32)
        self.category = np.unique(frame["category"].to_numpy().astype(str), return_inverse=True)[1].astype(np.int64)
        self.n_categories = int(self.category.max()) + 1
        self.allowed = self.price < 50
        self.allowed &= (frame["category"] != "c7").to_numpy()
        self.ids = frame["id"].to_numpy()
        self.now = int(self.times.max()) + DAY
        # Events by item and time as one sorted array of keys: counts in windows are differences of positions.
        self.first = int(self.times.min())
        self.span = self.now - self.first + DAY
        self.keys = np.sort(self.items.astype(np.int64) * self.span + (self.times - self.first))
        recent = self.times > self.now - 14 * DAY
        self.popularity = np.bincount(self.items[recent], minlength=n_items).astype(np.float32)
        order = np.argsort(-self.popularity, kind="stable")
        self.popular = order[self.allowed[order]][:2_000]
        self.counts = np.bincount(self.items, minlength=n_items).astype(np.float32)
        self.sizes: list[int] = []

    @classmethod
    def made(cls, histories: Histories, frame: pl.DataFrame, n_trees: int, folder: Path | None) -> Glue:
        """Fitted; read from `folder` where it was written there before."""
        threadpoolctl.threadpool_limits(1)  # as implicit asks for
        glue, begun = cls(histories, frame), time.perf_counter()
        saved = None if folder is None else folder / "glue"
        glue.als = AlternatingLeastSquares(factors=64, iterations=4, random_state=0, num_threads=0)
        glue.knn = CosineRecommender(K=100, num_threads=0)
        if saved is not None and saved.exists():
            glue.als = AlternatingLeastSquares.load(str(saved / "als.npz"))
            glue.knn = CosineRecommender.load(str(saved / "knn.npz"))
            glue.followers = sparse.load_npz(saved / "followers.npz")
        else:
            glue.als.fit(glue.user_items, show_progress=False)
            glue.knn.fit(glue.user_items, show_progress=False)
            glue.followers = glue._followers()
        glue.als.num_threads = glue.knn.num_threads = 1
        norms = np.linalg.norm(glue.als.item_factors, axis=1, keepdims=True)
        glue.unit = (glue.als.item_factors / np.maximum(norms, 1e-9)).astype(np.float32)
        glue.similarity = glue.knn.similarity.tocsr().astype(np.float32)
        glue.similarity.sort_indices()
        if saved is not None and saved.exists():
            glue.booster = lightgbm.Booster(model_file=str(saved / "trees.txt"))
        else:
            glue.booster = glue._trees(n_trees)
            if saved is not None:
                saved.mkdir()
                glue.als.save(str(saved / "als.npz"))
                glue.knn.save(str(saved / "knn.npz"))
                sparse.save_npz(saved / "followers.npz", glue.followers)
                glue.booster.save_model(str(saved / "trees.txt"))
        print(f"glue is ready in {time.perf_counter() - begun:.0f} s", flush=True)
        return glue

    als: Any
    knn: Any
    followers: sparse.csr_matrix
    similarity: sparse.csr_matrix
    unit: np.ndarray
    booster: Any
    n_features = 0

    def _followers(self) -> sparse.csr_matrix:
        """The 100 most frequent followers of each item, by how often they follow."""
        owner = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        same = owner[1:] == owner[:-1]
        before, after = self.items[:-1][same], self.items[1:][same]
        n = self.user_items.shape[1]
        table = sparse.csr_matrix((np.ones(len(before), np.float32), (before, after)), shape=(n, n))
        table.sum_duplicates()
        rows = np.repeat(np.arange(n), np.diff(table.indptr))
        order = np.lexsort((-table.data, rows))
        place = np.arange(len(order)) - table.indptr[:-1][rows]
        kept = order[place < 100]
        return sparse.csr_matrix((table.data[kept], (rows[kept], table.indices[kept])), shape=(n, n))

    def _trees(self, n_trees: int) -> Any:
        """Trees of as many leaves as ours, learned on candidates of some users, of whom one liked item is relevant."""
        rng, tables, labels, groups = np.random.default_rng(0), [], [], []
        for user in rng.permutation(len(self.offsets) - 1)[:1_500].tolist():
            history = self.items[self.offsets[user] : self.offsets[user + 1]]
            if len(history) < 3:
                continue
            candidates, scores, ranks = self._retrieve(user, history, True)
            liked = np.isin(self.category[candidates], self.category[history[-2:]])
            table = self._features(user, history, candidates, scores, ranks)
            tables.append(table)
            labels.append((liked & (rng.random(len(candidates)) < 0.2)).astype(np.int32))
            groups.append(len(candidates))
        options = {"objective": "lambdarank", "num_leaves": 7, "min_data_in_leaf": 50, "learning_rate": 0.03,
                   "verbosity": -1, "num_threads": 0}  # fmt: skip
        data = lightgbm.Dataset(np.concatenate(tables), np.concatenate(labels), group=groups)
        self.sizes = []
        return lightgbm.train(options, data, n_trees)

    def _trimmed(self, items: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first N that pass the filter."""
        kept = np.flatnonzero(self.allowed[items] & (items >= 0))[:N]
        return items[kept], scores[kept]

    def _retrieve(self, user: int, history: np.ndarray, fold_in: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The union of what the sources name: items int64[c], scores float32[c, 4] (NaN: not named), ranks likewise."""
        row = self.user_items[user]
        had = np.unique(history)
        lists = [
            self._trimmed(*self.als.recommend(user, row, N=200, recalculate_user=fold_in)),
            self._trimmed(*self.knn.recommend(user, row, N=200)),
        ]
        newest = history[-LAST:][::-1]
        starts, stops = self.followers.indptr[newest], self.followers.indptr[newest + 1]
        entries = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops)]) if len(newest) else np.zeros(0, int)
        weights = np.repeat(DECAY ** np.arange(len(newest)), stops - starts)
        after, inverse = np.unique(self.followers.indices[entries], return_inverse=True)
        total = np.bincount(inverse, weights * self.followers.data[entries], minlength=len(after)).astype(np.float32)
        kept = self.allowed[after] & ~np.isin(after, had)
        after, total = after[kept], total[kept]
        best = np.argsort(-total, kind="stable")[:N]
        lists.append((after[best], total[best]))
        popular = self.popular[: N + len(had)]
        popular = popular[~np.isin(popular, had)][:N]
        lists.append((popular, self.popularity[popular]))
        everything = np.concatenate([items for items, _ in lists]).astype(np.int64)
        candidates, inverse = np.unique(everything, return_inverse=True)
        scores = np.full((len(candidates), 4), np.nan, np.float32)
        ranks = np.full((len(candidates), 4), np.nan, np.float32)
        at = 0
        for source, (items, values) in enumerate(lists):
            rows = inverse[at : at + len(items)]
            scores[rows, source] = values
            ranks[rows, source] = np.arange(len(items))
            at += len(items)
        return candidates, scores, ranks

    def _features(
        self, user: int, history: np.ndarray, items: np.ndarray, scores: np.ndarray, ranks: np.ndarray
    ) -> np.ndarray:
        c, now = len(items), self.now - self.first
        low, high = np.nanmin(scores, axis=0, initial=np.inf), np.nanmax(scores, axis=0, initial=-np.inf)
        share = (scores - low) / np.maximum(high - low, 1e-6)
        reciprocal = np.where(np.isnan(ranks), 0, 1 / (61 + ranks))
        columns: list[np.ndarray] = [
            *scores.T,
            *share.T,
            *ranks.T,
            reciprocal.sum(axis=1),
            (~np.isnan(ranks)).sum(axis=1),
        ]
        base = items * self.span
        end = np.searchsorted(self.keys, base + now)
        start = np.searchsorted(self.keys, base)
        columns += [end - np.searchsorted(self.keys, base + now - days * DAY) for days in WINDOWS]
        columns.append(end - start)
        newest = self.keys[np.maximum(end - 1, 0)] - base
        columns.append(np.where(end > start, (now - newest) / DAY, np.nan))
        columns.append(
            np.where(end > start, (now - (self.keys[np.minimum(start, len(self.keys) - 1)] - base)) / DAY, np.nan)
        )
        columns += [self.price[items], self.category[items], self.counts[items]]
        times = self.times[self.offsets[user] : self.offsets[user + 1]]
        age = (self.now - times) / DAY
        liked = np.bincount(self.category[history], minlength=self.n_categories)
        columns.append(liked[self.category[items]] / max(1, len(history)))
        recent = np.bincount(self.category[history[-5:]], minlength=self.n_categories)
        columns.append(recent[self.category[items]])
        last = np.full(self.n_categories, np.nan)
        last[self.category[history]] = age
        columns.append(last[self.category[items]])
        mean = self.price[history].mean() if len(history) else np.nan
        columns += [self.price[items] - mean, self.price[items] / mean]
        columns += [np.full(c, float(len(history))), np.full(c, mean), np.full(c, age[-1] if len(age) else np.nan)]
        columns += [np.full(c, float((age < days).sum())) for days in WINDOWS]
        near = self.similarity[history[-20:]]
        if near.shape[0]:
            position = np.searchsorted(items, near.indices)
            position = np.minimum(position, c - 1)
            found = items[position] == near.indices
            total = np.bincount(position[found], near.data[found], minlength=c)
            most = np.zeros(c, np.float32)
            np.maximum.at(most, position[found], near.data[found])
            columns += [total, most]
        else:
            columns += [np.zeros(c), np.zeros(c)]
        same = np.isin(items, history)
        columns.append(same)
        return np.column_stack(columns).astype(np.float32)

    def list_for(self, user: int, k: int, fold_in: bool = True) -> list[tuple[Any, float]]:
        """The best k items for a user, with their scores. fold_in: the user's vector is computed from the history, as
        it must be where events came since the training; else it is that of the training."""
        history = self.items[self.offsets[user] : self.offsets[user + 1]]
        items, scores, ranks = self._retrieve(user, history, fold_in)
        table = self._features(user, history, items, scores, ranks)
        self.n_features = table.shape[1]
        self.sizes.append(len(items))
        score = self.booster.predict(table, num_threads=1)
        chosen = self._mmr(items, score, k)
        return list(zip(self.ids[items[chosen]].tolist(), score[chosen].tolist()))

    def _mmr(self, items: np.ndarray, score: np.ndarray, k: int) -> np.ndarray:
        """Positions of k items by maximal marginal relevance."""
        relevance = BALANCE * (score - score.min()) / max(score.max() - score.min(), 1e-9)
        vectors = self.unit[items]
        nearest = np.full(len(items), -np.inf, np.float32)
        value, chosen = relevance.copy(), np.empty(min(k, len(items)), np.int64)
        for place in range(len(chosen)):
            at = int(value.argmax())
            chosen[place] = at
            np.maximum(nearest, vectors @ vectors[at], out=nearest)
            value = relevance - (1 - BALANCE) * nearest
            value[chosen[: place + 1]] = -np.inf
        return chosen
