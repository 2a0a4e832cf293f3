"""Base of the rating models: ratings of a history, folding in of users, prediction of pairs."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, ClassVar

import numpy as np

from zhiyin.core.durations import UNITS
from zhiyin.core.errors import DataError
from zhiyin.core.parallel import for_chunks, kernel, read_only
from zhiyin.core.run import Run, log
from zhiyin.data.histories import Histories
from zhiyin.models.ratings.rating_values import Rated, RatingScale
from zhiyin.models.recommender import CHUNK_BYTES, VectorRecommender

DAY = UNITS["d"]


@dataclasses.dataclass
class RatingModel(VectorRecommender):
    """A recommender whose score is the predicted rating.

    A rating is the `value` of an event; a repeated rating counts each time. What an event without a value says, such as
    a view: `rating_values`.

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
    # Within which of their prediction 90 % of ratings lay that were held back; None where that was not measured.
    half_width_: ClassVar[float | None] = None

    @property
    def rating_model(self) -> RatingModel:
        return self

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
        moments = None if times is None else _microseconds(times)
        if moments is not None and len(moments) != len(rows):
            raise DataError(f"{len(rows)} users and {len(moments)} times do not pair up")
        return self.clip(self.pair_scores(batch, rows, codes, moments, run))

    def clip(self, ratings: np.ndarray) -> np.ndarray:
        """Ratings within the range of those of the training data, float32[n]: what is answered, everywhere."""
        return np.clip(ratings, np.float32(self.low_), np.float32(self.high_))

    def pair_scores(
        self, histories: Histories, rows: np.ndarray, items: np.ndarray, times: np.ndarray | None, run: Run
    ) -> np.ndarray:
        """Scores of pairs, float32[n]: `predict` in codes, and not clipped.

        Parameters
        ----------
        rows: int64[n], rows of `histories`; -1 is an empty history.
        items: int32[n], codes; -1 is an item of the mean vector.
        times: int64[n], microseconds UTC, as in `predict`; None for the `now` of each history.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if times is None or not self.timed:
            unique, place = np.unique(rows, return_inverse=True)
            moments = None
        else:
            noon = times // DAY * DAY + DAY // 2
            pairs, place = np.unique(np.column_stack([rows, noon]), axis=0, return_inverse=True)
            unique, moments = pairs[:, 0], pairs[:, 1]
        place = place.reshape(-1)
        scores = np.empty(len(items), dtype=np.float32)
        order = np.argsort(place, kind="stable")
        mean = self._cached_for_items("mean", lambda: self.item_vectors_.mean(axis=0, dtype=np.float64))
        mean, vectors = mean.astype(np.float32), read_only(self.item_vectors_)
        for begin, end in itertools.pairwise(self._chunks_by_events(histories, unique)):
            now = None if moments is None else moments[begin:end]
            encoded = self.encode(histories.take(unique[begin:end], now), run)
            mine = order[slice(*np.searchsorted(place[order], [begin, end]))]
            out = np.empty(len(mine), dtype=np.float32)
            _products(encoded, place[mine] - begin, vectors, items[mine], mean, out)
            scores[mine] = out
        return scores

    def _chunks_by_events(self, histories: Histories, rows: np.ndarray) -> list[int]:
        """Where chunks of rows begin, and the end of the last: their events have vectors of at most CHUNK_BYTES."""
        lengths = np.where(rows < 0, 0, histories.lengths[rows]) if len(histories) else np.zeros(len(rows), np.int64)
        chunk = np.cumsum((1 + lengths) * (8 * self.item_vectors_.shape[1])) // CHUNK_BYTES
        return [*np.flatnonzero(np.diff(chunk, prepend=-1)).tolist(), len(rows)]

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """Cosine of the item vectors without their first two columns, the constant and the bias."""
        unit = self._cached_for_items("tastes", self._tastes)
        return unit[items] @ unit.T

    def _tastes(self) -> np.ndarray:
        tastes = self.item_vectors_[:, 2:]
        return tastes / np.maximum(np.linalg.norm(tastes, axis=1, keepdims=True), 1e-12)

    def _learn_scale(self, histories: Histories) -> Rated:
        """Settle what a rating is; the ratings of the training data, as they are learned."""
        found = RatingScale.of(histories)
        name = type(self).__name__
        if found.clipped:
            log.warning(
                "%s: %s ratings outside of %g to %g are taken as these: the others lie close together",
                name, f"{found.clipped:,}", found.low, found.high,
            )  # fmt: skip
        if found.ignored:
            log.warning("%s: %s infinite values are no ratings", name, f"{found.ignored:,}")
        self.rated_, self.low_, self.high_ = found.rated, found.low, found.high  # type: ignore[misc]
        self.liked_, self.disliked_ = found.liked, found.disliked  # type: ignore[misc]
        self.scale_ = max(1.0, (found.high - found.low) / 10)  # type: ignore[misc]
        return self._scaled(found.of_training(histories))

    def _ratings(self, histories: Histories) -> Rated:
        """The ratings that an answer is made from, as they are learned."""
        return self._scaled(self.rating_scale.of_histories(histories))

    @property
    def rating_scale(self) -> RatingScale:
        """How events are read as ratings; where this is not said, as by models saved before."""
        return RatingScale(self.rated_, self.low_, self.high_, self.liked_, self.disliked_)

    def _scaled(self, rated: Rated) -> Rated:
        return rated if self.scale_ == 1 else rated._replace(ratings=rated.ratings / np.float32(self.scale_))


def _microseconds(times: Any) -> np.ndarray:
    """int64[n] of microseconds or datetimes."""
    array = np.asarray(times)
    return array.astype("datetime64[us]" if array.dtype.kind == "M" else np.int64).astype(np.int64)


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
def _products(left, rows, right, columns, mean, out):
    """out_p = left[rows_p] · right[columns_p]; column -1 is `mean`."""
    for p in range(len(out)):
        row, column = rows[p], columns[p]
        total = np.float32(0)
        if column < 0:
            for j in range(left.shape[1]):
                total += left[row, j] * mean[j]
        else:
            for j in range(left.shape[1]):
                total += left[row, j] * right[column, j]
        out[p] = total
