"""SLOPE: the limit of a weight transform, chosen from the log alone.

Su, Srinath and Krishnamurthy, "Adaptive Estimator Selection for Off-Policy Evaluation", ICML 2020: from the widest
interval to the narrowest, go on while the interval of each candidate overlaps all before it; where one no longer does,
its bias shows, and the one before is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from zhiyin.policies.off_policy.estimators import Estimator
from zhiyin.policies.off_policy.logged_decisions import FloatArray, LoggedDecisions

# How far, in half widths of the earlier candidate, two estimates may lie apart: sqrt(6) - 1 (theorem 3 of the paper).
OVERLAP = np.sqrt(6) - 1


class CandidateMoments:
    """Mean and variance of an estimator at each candidate limit, summed over chunks of a log."""

    def __init__(self, estimator: Estimator, limits: Sequence[float]) -> None:
        self.estimator, self.limits = estimator, tuple(limits)
        self._sums, self._squares, self._weighted = np.zeros((3, len(self.limits)))
        self._n, self._count, self._count_squares = 0, 0.0, 0.0

    def add(self, chunk: LoggedDecisions, weights: FloatArray) -> None:
        """Add the rows of a chunk, whose importance weights are `weights`."""
        residuals = chunk.rewards
        if self.estimator.uses_model:
            assert chunk.predicted_chosen is not None
            residuals = residuals - chunk.predicted_chosen
        row_weights = None if chunk.pass_probabilities is None else 1.0 / chunk.pass_probabilities
        self._n += len(chunk)
        self._count += len(chunk) if row_weights is None else float(row_weights.sum())
        self._count_squares += len(chunk) if row_weights is None else float(row_weights @ row_weights)
        for number, limit in enumerate(self.limits):
            terms = self.estimator.transform(weights, limit) * residuals
            if self.estimator.uses_model:
                assert chunk.predicted_target is not None
                terms += chunk.predicted_target
            if row_weights is None:
                self._sums[number] += terms.sum()
                self._squares[number] += terms @ terms
            else:
                terms *= row_weights
                self._sums[number] += terms.sum()
                self._squares[number] += terms @ terms
                self._weighted[number] += terms @ row_weights

    def best_limit(self, alpha: float = 0.05) -> float:
        """The chosen limit; `alpha`: one minus the confidence of the intervals that are compared."""
        means = self._sums / self._count
        cross = self._sums if self._weighted.sum() == 0 else self._weighted
        residual_squares = self._squares - 2 * means * cross + means**2 * self._count_squares
        errors = np.sqrt(np.maximum(residual_squares, 0) / max(self._n - 1, 1) * self._n) / self._count
        return self.limits[choose_candidate(means, errors * stdtrit(max(self._n - 1, 1), 1 - alpha / 2))]


def choose_candidate(means: FloatArray, half_widths: FloatArray) -> int:
    """The position of the candidate that SLOPE chooses; means, half_widths: float64[n_candidates]."""
    order = np.argsort(half_widths, kind="stable")[::-1]
    for rank, candidate in enumerate(order):
        before = order[:rank]
        allowed = half_widths[candidate] + OVERLAP * half_widths[before]
        if np.any(np.abs(means[before] - means[candidate]) > allowed):
            return int(order[rank - 1])
    return int(order[-1])


def tune_limit(log: LoggedDecisions, estimator: Estimator, limits: Sequence[float] = (), alpha: float = 0.05) -> float:
    """The limit that SLOPE chooses for an estimator on a log; limits: the candidates, else the estimator's own."""
    moments = CandidateMoments(estimator, limits or estimator.limits)
    for chunk in log.chunks():
        moments.add(chunk, chunk.importance_weights)
    return moments.best_limit(alpha)
