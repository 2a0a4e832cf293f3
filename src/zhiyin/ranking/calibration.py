"""Calibration of scores to probabilities, as bidding needs them: expected value is pCTR times bid.

A calibrator is fitted on rows that the ranker was not trained on, from the last days, as click rates drift.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import expit

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.parallel import kernel


@dataclasses.dataclass(frozen=True)
class Isotonic:
    """Isotonic regression by pool adjacent violators (Ayer et al., 1955; Zadrozny & Elkan, KDD 2002).

    Parameters
    ----------
    knots: float64[k], scores, ascending.
    values: float64[k], the probability at each knot; linear between knots, constant outside.

    >>> Isotonic.fit(np.array([1.0, 2, 3, 4]), np.array([0.0, 1, 0, 1])).apply(np.array([0.0, 2.5, 9])).tolist()
    [0.0, 0.5, 1.0]
    """

    knots: np.ndarray
    values: np.ndarray

    @classmethod
    def fit(cls, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Isotonic:
        """The non-decreasing function nearest to the labels (0..1) in least squares.

        Raises DataError where there is no row.
        """
        scores, labels, weights = _checked(scores, labels, weights)
        # Rows of equal score are merged: the mean label, with their total weight.
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
    """Platt scaling, sigmoid(a · score + b), with smoothed targets (Platt, 1999); needs few rows.

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
        parameters = np.array([0.0, np.log((positive + 1) / (negative + 1))])

        def loss(line: np.ndarray) -> float:
            z = design @ line
            return float((weights * (np.logaddexp(0, z) - target * z)).sum())

        now = loss(parameters)
        for _ in range(100):
            p = expit(design @ parameters)
            gradient = design.T @ (weights * (p - target))
            if np.abs(gradient).max() < 1e-9 * weights.sum():
                break
            hessian = (design * (weights * p * (1 - p))[:, None]).T @ design + 1e-12 * weights.sum() * np.eye(2)
            step = np.linalg.solve(hessian, gradient)
            size = 1.0
            while size > 1e-10 and (then := loss(parameters - size * step)) > now - 1e-4 * size * gradient @ step:
                size /= 2
            if size <= 1e-10:
                break
            parameters, now = parameters - size * step, then
        if parameters[0] < 0:  # a negative slope would reverse the order: only the mean is used
            parameters = np.array([0.0, np.log((positive + 1) / (negative + 1))])
        return cls(np.array([parameters[0] / scale, parameters[1] - parameters[0] * centre / scale]))

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """float64[m]: probabilities."""
        return expit(self.line[0] * np.asarray(scores, dtype=np.float64) + self.line[1])

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is learned, by name of the constructor's argument."""
        return {"line": self.line}


Calibrator = Isotonic | Platt
CALIBRATORS: dict[str, type[Isotonic] | type[Platt]] = {"isotonic": Isotonic, "platt": Platt}


def expected_calibration_error(labels: np.ndarray, p: np.ndarray, bins: int = 15, how: str = "mass") -> float:
    """ECE: Σ over bins of share of rows · |mean label - mean probability|; 0 where each bin is right on average.

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
    """float32[m]: expected value of an impression, probability · bid; minus infinity where below `reserve`.

    Parameters
    ----------
    p: float[m], calibrated probabilities; other than an order by p, an order by p · bid depends on their scale.
    bid: money for a click, not negative.
    reserve: the lowest expected value that is allowed.

    Raises DataError for a negative or missing bid.
    """
    bids = np.broadcast_to(np.asarray(bid, dtype=np.float64), np.shape(p))
    if not (np.isfinite(bids) & (bids >= 0)).all():
        raise DataError("a bid is negative or no number", remedy="leave out candidates without a bid")
    value = np.asarray(p, dtype=np.float64) * bids
    return np.where(value >= reserve, value, -np.inf).astype(np.float32)


@kernel
def _pool(means, mass):
    """Pool adjacent violators: first and last position of each block, and its mean; blocks are held in a stack."""
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
    has_weight = weights > 0
    if not has_weight.any() or not len(scores) == len(labels) == len(weights):
        raise DataError("there are no rows to calibrate by", remedy="as many labels as scores, at least one")
    if not np.isfinite(scores[has_weight]).all() or not ((labels[has_weight] >= 0) & (labels[has_weight] <= 1)).all():
        raise DataError("scores must be numbers and labels lie in 0..1", remedy="clip graded labels to 0..1")
    return scores[has_weight], labels[has_weight], weights[has_weight]
