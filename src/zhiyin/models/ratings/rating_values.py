"""What a rating is: the one owner of which events are ratings, of their range, and of what an event without one says.

| event | while learning | in a history with a rating | in a history without any |
|---|---|---|---|
| with a value | its value | its value | |
| without one, weight below 0 (a dislike) | a poor rating | a poor rating | a poor rating |
| without one, weight 0 or above (a view) | no rating | no rating | weight above 0: a good rating |

What is no rating is still a part of the history: models with implicit feedback read which items it holds. A good and a
poor rating are the mean of the ratings above and below the middle. A history without any rating, such as a plain list
of items, is asked what it is in favour of; where it has ratings, these say it better.

Where no event of the training data has a value, weights are the ratings, such as counts. A value that is infinite or
not a number is none.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.data.histories import Histories


class Rated(NamedTuple):
    """The events of n histories that are ratings, as histories of their own, and their ratings, float32[m]."""

    histories: Histories
    ratings: np.ndarray

    @property
    def owner(self) -> np.ndarray:
        """int32[m], the history of each rating."""
        return np.repeat(np.arange(len(self.histories), dtype=np.int32), self.histories.lengths)


@dataclasses.dataclass(frozen=True)
class RatingScale:
    """How events are read as ratings.

    Parameters
    ----------
    rated: whether ratings are values; else they are weights.
    low, high: the range of ratings; what lies outside is taken as its end.
    liked, disliked: a good and a poor rating.
    clipped: ratings of the training data that lay outside of the range; ignored: values that were no finite number.
    """

    rated: bool
    low: float
    high: float
    liked: float
    disliked: float
    clipped: int = 0
    ignored: int = 0

    @classmethod
    def of(cls, histories: Histories) -> RatingScale:
        """The scale of training data. Raises DataError where no event is a rating."""
        values = histories.values
        finite = np.isfinite(values)
        rated = bool(finite.any())
        numbers = (values[finite] if rated else histories.weights).astype(np.float64)
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers):
            raise DataError("no event has a rating to learn from", remedy="name the column: [columns] rating = ...")
        low, high = usual_range(numbers)
        inside = np.clip(numbers, low, high)
        middle = float(inside.mean())
        # Rounding may put the mean of equal ratings beside them.
        above, below = inside[inside >= min(middle, high)], inside[inside <= max(middle, low)]
        return cls(
            rated,
            low,
            high,
            float(above.mean()),
            float(below.mean()),
            int((numbers != inside).sum()),
            int((~finite & ~np.isnan(values)).sum()),
        )

    def of_training(self, histories: Histories) -> Rated:
        """The ratings to learn from."""
        return _rated(histories, self._known(histories))

    def of_histories(self, histories: Histories) -> Rated:
        """The ratings that an answer is made from: those to learn from, and the likes of a history without a value."""
        ratings = self._known(histories)
        if self.rated:
            has_value = np.zeros(len(histories), dtype=bool)
            owner = np.repeat(np.arange(len(histories)), histories.lengths)
            has_value[owner[np.isfinite(histories.values)]] = True
            likes = np.isnan(ratings) & (histories.weights > 0) & ~has_value[owner]
            ratings[likes] = self.liked
        return _rated(histories, ratings)

    def _known(self, histories: Histories) -> np.ndarray:
        """float32[m], within the range; NaN where an event is no rating."""
        finite = np.isfinite(histories.values)
        if self.rated:
            other = np.where(histories.weights < 0, np.float32(self.disliked), np.float32(np.nan))
        else:
            other = np.where(np.isfinite(histories.weights), histories.weights, np.float32(np.nan))
        ratings = np.where(finite, histories.values, other).astype(np.float32)
        return np.clip(ratings, np.float32(self.low), np.float32(self.high))


def _rated(histories: Histories, ratings: np.ndarray) -> Rated:
    is_rating = ~np.isnan(ratings)
    if is_rating.all():
        return Rated(histories, ratings)
    counts = np.concatenate([[0], np.cumsum(is_rating)])
    parts = {name: getattr(histories, name)[is_rating] for name in ("items", "weights", "times", "kinds", "values")}
    kept = dataclasses.replace(histories, offsets=counts[histories.offsets].astype(np.int64), **parts)
    return Rated(kept, ratings[is_rating])


def usual_range(ratings: np.ndarray) -> tuple[float, float]:
    """Lowest and highest rating without outliers: those eight times as far from the median as the 90 % quantile."""
    middle = float(np.median(ratings))
    distance = np.abs(ratings - middle)
    usual = float(np.quantile(distance, 0.9))
    if not usual and distance.any():
        usual = float(np.median(distance[distance > 0]))
    near = ratings[distance <= 8 * usual]
    return float(near.min()), float(near.max())
