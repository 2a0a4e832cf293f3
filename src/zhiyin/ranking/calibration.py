"""Scores into probabilities that are right on average, as bidding needs them: pCTR times bid is money.

A calibrator is learned on rows that the ranker was not taught with, and of the days that come last: it is the share of
clicks of today that counts.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import expit

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.parallel import kernel


@dataclasses.dataclass(frozen=True)
class Isotonic:
    """Any rising function: pool adjacent violators (Ayer et al., 1955; Zadrozny & Elkan, KDD 2002).

    Parameters
    ----------
    knots: float64[k], scores, ascending; values: float64[k], the probability at each. Between two knots the line is
        straight, outside it is level.

    >>> Isotonic.fit(np.array([1.0, 2, 3, 4]), np.array([0.0, 1, 0, 1])).apply(np.array([0.0, 2.5, 9])).tolist()
    [0.0, 0.5, 1.0]
    """

    knots: np.ndarray
    values: np.ndarray

    @classmethod
    def fit(cls, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Isotonic:
        """The rising function nearest to the labels (0..1) in squares. Raises DataError where there is no row."""
        scores, labels, weights = _checked(scores, labels, weights)
        # Rows of one score are one row: their mean, with the weight of all.
        distinct, place = np.unique(scores, return_inverse=True)
        mass = np.bincount(place, weights)
        means = np.bincount(place, weights * labels) / mass
        first, last, values = _pool(means, mass)
        ends = np.column_stack([distinct[first], distinct[last]]).ravel()
        knots, at = np.unique(ends, return_index=True)  # a block of one score is one knot
        return cls(knots, np.repeat(values, 2)[at])

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """float64[m]: probabilities."""
        return np.interp(scores, self.knots, self.values)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is learned, by name of the constructor's argument."""
        return {"knots": self.knots, "values": self.values}


@dataclasses.dataclass(frozen=True)
class Platt:
    """sigmoid(a · score + b), with targets drawn towards the middle (Platt, 1999): few rows do for it.

    Parameters
    ----------
    line: float64[2], a and b; a is never negative, so the order stays.
    """

    line: np.ndarray

    @classmethod
    def fit(cls, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Platt:
        """By Newton's method with backtracking (Lin, Lin & Weng, A note on Platt's probabilistic outputs, 2007).

        The targets are (N+ + 1) / (N+ + 2) for a positive and 1 / (N- + 2) for a negative. Raises DataError where
        there is no row.
        """
        scores, labels, weights = _checked(scores, labels, weights)
        positive, negative = (weights * labels).sum(), (weights * (1 - labels)).sum()
        target = labels * (positive + 1) / (positive + 2) + (1 - labels) / (negative + 2)
        # Newton's steps are well conditioned over standardised scores.
        centre, scale = np.average(scores, weights=weights), scores.std() or 1.0
        design = np.column_stack([(scores - centre) / scale, np.ones(len(scores))])
        found = np.array([0.0, np.log((positive + 1) / (negative + 1))])

        def loss(line: np.ndarray) -> float:
            z = design @ line
            return float((weights * (np.logaddexp(0, z) - target * z)).sum())

        now = loss(found)
        for _ in range(100):
            p = expit(design @ found)
            gradient = design.T @ (weights * (p - target))
            if np.abs(gradient).max() < 1e-9 * weights.sum():
                break
            hessian = (design * (weights * p * (1 - p))[:, None]).T @ design + 1e-12 * weights.sum() * np.eye(2)
            step = np.linalg.solve(hessian, gradient)
            size = 1.0
            while size > 1e-10 and (then := loss(found - size * step)) > now - 1e-4 * size * gradient @ step:
                size /= 2
            if size <= 1e-10:
                break
            found, now = found - size * step, then
        if found[0] < 0:  # scores that order the wrong way say nothing: the mean is left
            found = np.array([0.0, np.log((positive + 1) / (negative + 1))])
        return cls(np.array([found[0] / scale, found[1] - found[0] * centre / scale]))

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """float64[m]: probabilities."""
        return expit(self.line[0] * np.asarray(scores, dtype=np.float64) + self.line[1])

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is learned, by name of the constructor's argument."""
        return {"line": self.line}


Calibrator = Isotonic | Platt
CALIBRATORS: dict[str, type[Isotonic] | type[Platt]] = {"isotonic": Isotonic, "platt": Platt}


def expected_calibration_error(labels: np.ndarray, p: np.ndarray, bins: int = 15, how: str = "mass") -> float:
    """Σ over bins of share of rows · |mean label - mean probability|: 0 where it is right on average in each bin.

    Parameters
    ----------
    labels: float[m], 0 or 1, or the true probabilities where they are known.
    p: float[m], predicted probabilities.
    how: "mass", bins of equally many rows (Nguyen & O'Connor, EMNLP 2015), or "width", equal parts of 0..1 (Naeini et
        al., AAAI 2015). Of small click rates nearly all rows fall into the first bin of "width".

    >>> expected_calibration_error(np.array([0, 1]), np.array([0.25, 0.75]), bins=2)
    0.25
    """
    labels, p = np.asarray(labels, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if how not in ("mass", "width") or bins < 1:
        raise ConfigError(f"bins={bins!r}, how={how!r} is not known", remedy='bins >= 1, how "mass" or "width"')
    if not len(p) or len(p) != len(labels) or not ((p >= 0) & (p <= 1)).all():
        raise DataError("as many probabilities between 0 and 1 as labels are needed", remedy="apply a calibrator first")
    if how == "width":
        place = np.minimum((p * bins).astype(np.int64), bins - 1)
    else:
        # Rows of equal probability share a bin, whatever their order.
        distinct, first, same = np.unique(np.sort(p), return_index=True, return_inverse=True)
        middle = (first + np.append(first[1:], len(p)) - 1) / 2
        place = (middle * bins / len(p)).astype(np.int64)[np.searchsorted(distinct, p)]
        assert len(same) == len(p)
    gap = np.bincount(place, labels - p, minlength=bins)
    return float(np.abs(gap).sum() / len(p))


def expected_value(p: np.ndarray, bid: np.ndarray | float, reserve: float = 0.0) -> np.ndarray:
    """float32[m]: what showing each is worth, probability · bid; what is worth less than `reserve` gets minus infinity.

    p must be calibrated: an order by p · bid, unlike one by p alone, is wrong where p is wrong. `bid`: money for a
    click, not negative. Raises DataError for a negative or missing bid.
    """
    bids = np.broadcast_to(np.asarray(bid, dtype=np.float64), np.shape(p))
    if not (np.isfinite(bids) & (bids >= 0)).all():
        raise DataError("a bid is negative or no number", remedy="leave out candidates without a bid")
    value = np.asarray(p, dtype=np.float64) * bids
    return np.where(value >= reserve, value, -np.inf).astype(np.float32)


@kernel
def _pool(means, mass):
    """Pool adjacent violators: first and last place of each block, and its mean; a stack of blocks that rise."""
    n = len(means)
    first, last = np.empty(n, np.int64), np.empty(n, np.int64)
    value, weight = np.empty(n, np.float64), np.empty(n, np.float64)
    top = -1
    for at in range(n):
        top += 1
        first[top], last[top], value[top], weight[top] = at, at, means[at], mass[at]
        while top > 0 and value[top - 1] >= value[top]:
            total = weight[top - 1] + weight[top]
            value[top - 1] = (value[top - 1] * weight[top - 1] + value[top] * weight[top]) / total
            weight[top - 1], last[top - 1] = total, last[top]
            top -= 1
    return first[: top + 1], last[: top + 1], value[: top + 1]


def _checked(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    kept = weights > 0
    if not kept.any() or not len(scores) == len(labels) == len(weights):
        raise DataError("there are no rows to calibrate by", remedy="as many labels as scores, at least one")
    if not np.isfinite(scores[kept]).all() or not ((labels[kept] >= 0) & (labels[kept] <= 1)).all():
        raise DataError("scores must be numbers and labels lie in 0..1", remedy="clip graded labels to 0..1")
    return scores[kept], labels[kept], weights[kept]
