"""Base of the rating models: ratings of a history, folding in of users, prediction of pairs."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, ClassVar

import numpy as np

from zhiyin.core.durations import UNITS
from zhiyin.core.errors import DataError
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run, log
from zhiyin.data.histories import Histories
from zhiyin.models.recommender import VectorRecommender

DAY = UNITS["d"]


@dataclasses.dataclass
class RatingModel(VectorRecommender):
    """A recommender whose score is the predicted rating.

    A rating is the `value` of an event; a repeated rating counts each time. An event without a value, as in a history
    that is a list of items, has a rating by its weight: a good one (the mean of those above the middle) where it is
    positive, a poor one where it is negative. Where no event of the training data has a value, weights are the ratings.

    Outliers (such as a bulk order) are clipped to the usual range, which is logged; ratings of a wide range are scaled
    to ten for training, so that gradient steps stay stable.

    The score is an inner product: encode(history) · item_vectors_[i]. A user without a rating is scored by the items
    alone. Scores are not clipped, so that the best items stay apart; `predict` clips to the range of the training
    ratings.
    """

    scores_empty_histories: ClassVar[bool] = True
    # Whether the prediction depends on the moment of the request.
    timed: ClassVar[bool] = False
    low_: ClassVar[float]
    high_: ClassVar[float]
    # What ratings are divided by before they are learned, and the ratings that an event without a value is, by the
    # sign of its weight; `rated_`: whether training events had values. The defaults are those of models saved before.
    scale_: ClassVar[float] = 1.0
    rated_: ClassVar[bool] = False
    liked_: ClassVar[float] = 1.0
    disliked_: ClassVar[float] = -1.0

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Vectors of histories, float32[n, d], of which the inner product with `item_vectors_` is the rating."""
        vectors = self._encode(histories, run or Run())
        return vectors if self.scale_ == 1 else vectors * np.float32(self.scale_)

    def _encode(self, histories: Histories, run: Run) -> np.ndarray:
        """As `encode`, for ratings on the scale that is learned."""
        raise NotImplementedError

    def predict(
        self, users: Any, items: Any, *, times: Any = None, histories: Any = None, run: Run | None = None
    ) -> np.ndarray:
        """Predicted ratings of pairs, float32[n], within the range of the training ratings.

        Parameters
        ----------
        users: n raw ids; an unknown user has an empty history. With `histories`: n row numbers of it.
        items: n raw ids; an unknown item gets the mean rating of all items.
        times: the moments of the ratings, microseconds UTC or datetimes, used by `TimeSVDpp` alone and to the day (its
            noon); without them each rating is for the `now` of its history.
        histories: instead of what was seen in training, a `Histories` with the ratings to answer from.

        Raises DataError where users, items and times do not pair up, or a row number is outside of `histories`.
        """
        context, run = self._context(), run or Run()
        if histories is None:
            batch, rows = context.histories, context.user_ids.encode(users)
        else:
            batch, rows = histories, np.asarray(users, dtype=np.int64)
            if len(rows) and not 0 <= rows.min() <= rows.max() < len(batch):
                raise DataError(f"a row is outside of {len(batch)} histories", remedy="number them from 0")
        codes = context.item_ids.encode(items)
        if len(rows) != len(codes):
            raise DataError(f"{len(rows)} users and {len(codes)} items do not pair up")
        if times is None or not self.timed:
            unique, place = np.unique(rows, return_inverse=True)
            moments = None
        else:
            noon = _microseconds(times) // DAY * DAY + DAY // 2
            if len(noon) != len(rows):
                raise DataError(f"{len(rows)} users and {len(noon)} times do not pair up")
            pairs, place = np.unique(np.column_stack([rows, noon]), axis=0, return_inverse=True)
            unique, moments, place = pairs[:, 0], pairs[:, 1], place.reshape(-1)
        ratings = np.empty(len(codes), dtype=np.float32)
        order = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[order], np.arange(0, len(unique) + self.chunk_rows, self.chunk_rows))
        vectors = np.concatenate([self.item_vectors_, self.item_vectors_.mean(axis=0, keepdims=True)])
        for number, (first, last) in enumerate(itertools.pairwise(starts)):
            begin = number * self.chunk_rows
            part = slice(begin, begin + self.chunk_rows)
            now = None if moments is None else moments[part]
            encoded = self.encode(batch.take(unique[part], now), run)
            mine = order[first:last]
            out = np.empty(len(mine), dtype=np.float32)
            _products(encoded, place[mine] - begin, vectors, codes[mine], out)
            ratings[mine] = out
        return np.clip(ratings, np.float32(self.low_), np.float32(self.high_))

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """Cosine of the item vectors without their first two columns, the constant and the bias."""
        unit = self._cached_for_items("tastes", self._tastes)
        return unit[items] @ unit.T

    def _tastes(self) -> np.ndarray:
        tastes = self.item_vectors_[:, 2:]
        return tastes / np.maximum(np.linalg.norm(tastes, axis=1, keepdims=True), 1e-12)

    def _learn_scale(self, histories: Histories) -> np.ndarray:
        """Settle what a rating is; those of the training data as they are learned, float32[m]."""
        values = histories.values[~np.isnan(histories.values)]
        self.rated_ = bool(len(values))  # type: ignore[misc]
        ratings = (values if self.rated_ else histories.weights).astype(np.float64)
        self.low_, self.high_ = _usual_range(ratings)  # type: ignore[misc]
        far = int(((ratings < self.low_) | (ratings > self.high_)).sum())
        if far:
            log.warning(
                "%s: %s ratings outside of %g to %g are taken as these: the others lie close together",
                type(self).__name__, f"{far:,}", self.low_, self.high_,
            )  # fmt: skip
        self.scale_ = max(1.0, (self.high_ - self.low_) / 10)  # type: ignore[misc]
        clipped = np.clip(ratings, self.low_, self.high_)
        middle = float(clipped.mean())
        self.liked_ = float(clipped[clipped >= middle].mean())  # type: ignore[misc]
        self.disliked_ = float(clipped[clipped <= middle].mean())  # type: ignore[misc]
        return self._ratings(histories)

    def _ratings(self, histories: Histories) -> np.ndarray:
        """float32[m]: the rating that each event is, on the scale that is learned."""
        ratings = histories.weights
        if self.rated_:
            middle = (self.liked_ + self.disliked_) / 2
            ratings = np.where(ratings > 0, self.liked_, np.where(ratings < 0, self.disliked_, middle))
        ratings = np.where(np.isnan(histories.values), ratings, histories.values).astype(np.float32)
        ratings = np.clip(ratings, np.float32(self.low_), np.float32(self.high_))
        return ratings if self.scale_ == 1 else ratings / np.float32(self.scale_)


def _microseconds(times: Any) -> np.ndarray:
    """int64[n] of microseconds or datetimes."""
    array = np.asarray(times)
    return array.astype("datetime64[us]" if array.dtype.kind == "M" else np.int64).astype(np.int64)


def _usual_range(ratings: np.ndarray) -> tuple[float, float]:
    """Lowest and highest rating without outliers: those eight times as far from the median as the 90 % quantile."""
    middle = float(np.median(ratings))
    distance = np.abs(ratings - middle)
    usual = float(np.quantile(distance, 0.9))
    if not usual and distance.any():
        usual = float(np.median(distance[distance > 0]))
    near = ratings[distance <= 8 * usual]
    return float(near.min()), float(near.max())


def repeats_share(histories: Histories) -> np.ndarray:
    """float32[n]: of each history the number of its events over the sum of the squared counts of its items; 1 where
    none is repeated."""
    owner = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)
    n_items = int(histories.items.max(initial=0)) + 1
    pairs, counts = np.unique(owner * n_items + histories.items, return_counts=True)
    squares = np.bincount(pairs // n_items, counts.astype(np.float64) ** 2, minlength=len(histories))
    return (histories.lengths / np.maximum(squares, 1)).astype(np.float32)


def fold(
    histories: Histories,
    targets: np.ndarray,
    design: np.ndarray,
    penalty: np.ndarray,
    per_rating: bool | np.ndarray,
    run: Run,
) -> np.ndarray:
    """Ridge regressions, float32[n, d]: x_r minimises Σ (t_e - x_r · design_e)² + Σ_j penalty_j x_rj².

    `targets`: float32[m] and `design`: float32[m, d], a row an event; `penalty`: float32[d], above 0, times the number
    of ratings of the history where `per_rating`, bool[d] or one for all. An empty history gives zeros.
    """
    x = np.zeros((len(histories), design.shape[1]), dtype=np.float32)
    offsets, times = histories.offsets, np.array(np.broadcast_to(per_rating, len(penalty)))

    def work(start: int, stop: int) -> None:
        _fold(offsets, targets, design, penalty, times, start, stop, x)

    for_chunks(work, len(x), run, chunk=max(1, min(256, len(x) // (8 * run.n_threads))))
    return x


@kernel
def _fold(offsets, targets, design, penalty, per_rating, start, stop, x):
    """Normal equations of each row, solved by Cholesky in place."""
    d = design.shape[1]
    a, q = np.empty((d, d), dtype=np.float32), np.empty(d, dtype=np.float32)
    b = np.empty(d, dtype=np.float32)
    for row in range(start, stop):
        n = offsets[row + 1] - offsets[row]
        if n == 0:
            continue
        a[:] = 0
        b[:] = 0
        for e in range(offsets[row], offsets[row + 1]):
            target = targets[e]
            for j in range(d):
                q[j] = design[e, j]
                b[j] += target * q[j]
            for i in range(d):
                value = q[i]
                for j in range(i + 1):
                    a[i, j] += value * q[j]
        for i in range(d):
            a[i, i] += penalty[i] * np.float32(n if per_rating[i] else 1)
            for j in range(i):
                total = a[i, j]
                for k in range(j):
                    total -= a[i, k] * a[j, k]
                a[i, j] = total / a[j, j]
            total = a[i, i]
            for k in range(i):
                total -= a[i, k] * a[i, k]
            a[i, i] = np.sqrt(max(total, np.float32(1e-9)))
        for i in range(d):
            total = b[i]
            for k in range(i):
                total -= a[i, k] * b[k]
            b[i] = total / a[i, i]
        for i in range(d - 1, -1, -1):
            total = b[i]
            for k in range(i + 1, d):
                total -= a[k, i] * b[k]
            b[i] = total / a[i, i]
        for i in range(d):
            x[row, i] = b[i]


@kernel
def _products(left, rows, right, columns, out):
    """out_p = left[rows_p] · right[columns_p]; column -1 is the last row of `right`."""
    for p in range(len(out)):
        row, column = rows[p], columns[p]
        if column < 0:
            column = len(right) - 1
        total = np.float32(0)
        for j in range(left.shape[1]):
            total += left[row, j] * right[column, j]
        out[p] = total
