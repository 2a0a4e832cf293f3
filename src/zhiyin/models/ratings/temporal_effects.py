"""Temporal effects of ratings: time bins of item biases, drift of users, effects of single days."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import kernel
from zhiyin.data.histories import Histories
from zhiyin.models.ratings.rating_model import DAY


@dataclasses.dataclass(frozen=True)
class Moments:
    """The events of n histories and the moments of their requests, as time features of the training part.

    bins: int64[m], the bin of time of each event; deviations: float32[m], how far it is from the middle of its history;
    days: int64[m], days since 1970; starts: int64[days + 1], where each day of a history begins;
    asked_bins, asked_days: int64[n] and asked_deviations: float32[n], of `now`.
    """

    bins: np.ndarray
    deviations: np.ndarray
    days: np.ndarray
    starts: np.ndarray
    asked_bins: np.ndarray
    asked_days: np.ndarray
    asked_deviations: np.ndarray

    @classmethod
    def of(cls, histories: Histories, window: tuple[int, int], bins: int, power: float) -> Moments:
        """dev(t) = sign(t - middle) · |t - middle|^power in days, the middle being the mean moment of the history.

        `window`: first and last moment of the training part, cut into `bins` of equal length; what is before or after
        counts to the first or last of them, and a moment of 0 (not known) to the last. There is no drift
        beyond the ends of a history.
        """
        offsets, times, owner = (
            histories.offsets,
            histories.times,
            np.repeat(np.arange(len(histories)), histories.lengths),
        )
        first, last = window
        filled = histories.lengths > 0
        middle, begin, end = (np.zeros(len(histories)) for _ in range(3))
        begin[filled], end[filled] = times[offsets[:-1][filled]], times[offsets[1:][filled] - 1]
        # From the first event on: sums of microseconds since 1970 would lose some.
        middle[filled] = (
            begin[filled] + np.add.reduceat(times - begin[owner], offsets[:-1][filled]) / histories.lengths[filled]
        )
        now = np.where(histories.now == 0, end, histories.now)

        def bin_of(moments: np.ndarray) -> np.ndarray:
            clipped = np.where(moments == 0, last, np.clip(moments, first, last)).astype(np.int64)
            return (clipped - first) * bins // (last - first + 1)

        def deviation(moments: np.ndarray, middles: np.ndarray) -> np.ndarray:
            away = (moments - middles) / DAY
            return (np.sign(away) * np.abs(away) ** power).astype(np.float32)

        days = times // DAY
        new = np.ones(len(times), dtype=bool)
        new[1:] = (days[1:] != days[:-1]) | (owner[1:] != owner[:-1])
        return cls(
            bin_of(times),
            deviation(times, middle[owner]),
            days,
            np.append(np.flatnonzero(new), len(times)),
            bin_of(histories.now),
            (now // DAY).astype(np.int64),
            deviation(np.clip(now, begin, end), middle),
        )


@kernel
def without_days(starts, column, penalty, targets, design):
    """Take what each day may explain by a bias and by a factor of `column` out of a ridge regression, in place.

    The least of Σ (t - x · design - b - c · design[column])² + penalty (b² + c²) over a day's b and c is the same sum
    without b and c, of rows from which the part along each was taken in the measure that the penalty allows.
    """
    longest = 0
    for day in range(len(starts) - 1):
        longest = max(longest, starts[day + 1] - starts[day])
    along = np.empty(longest, dtype=design.dtype)
    for day in range(len(starts) - 1):
        first, last = starts[day], starts[day + 1]
        for turn in range(2):
            size = 0.0
            for e in range(first, last):
                along[e - first] = 1 if turn == 0 else design[e, column]
                size += along[e - first] ** 2
            if size == 0:
                continue
            share = (1 - np.sqrt(penalty / (size + penalty))) / size
            total = 0.0
            for e in range(first, last):
                total += along[e - first] * targets[e]
            for e in range(first, last):
                targets[e] -= share * total * along[e - first]
            for j in range(design.shape[1]):
                total = 0.0
                for e in range(first, last):
                    total += along[e - first] * design[e, j]
                for e in range(first, last):
                    design[e, j] -= share * total * along[e - first]


@kernel
def day_terms(offsets, days, query_days, column, penalty, targets, design, x):
    """float32[n, 2]: bias and factor of `column` on the day asked about, given x; 0 on a day without ratings."""
    terms = np.zeros((len(query_days), 2), dtype=np.float32)
    for row in range(len(query_days)):
        a, b, c, u, v = penalty, 0.0, penalty, 0.0, 0.0
        for e in range(offsets[row], offsets[row + 1]):
            if days[e] != query_days[row]:
                continue
            left = targets[e]
            for j in range(design.shape[1]):
                left -= x[row, j] * design[e, j]
            value = design[e, column]
            a, b, c = a + 1, b + value, c + value * value
            u, v = u + left, v + left * value
        terms[row, 0] = (u * c - v * b) / (a * c - b * b)
        terms[row, 1] = (v * a - u * b) / (a * c - b * b)
    return terms
