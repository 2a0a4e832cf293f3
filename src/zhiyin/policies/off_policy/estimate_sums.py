"""Sums over a log from which an estimate and all of its intervals follow; a log of any length is read in chunks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from zhiyin.policies.off_policy.estimators import Estimator, identity_weights
from zhiyin.policies.off_policy.logged_decisions import FloatArray, LoggedDecisions

# Rows of the matrix of terms: of each observation, u = 1 / pass_probability and
# u, u * q_target, u * v, u * v * r, u * v * q, u * r; and of the difference to the logging policy, where
# v+ = max(v - 1, 0), v- = max(1 - v, 0) and s = r - floor: u * v+, u * v-, u * v+ * s, u * v- * s.
COUNT, TARGET, WEIGHT, REWARD, CHOSEN, LOGGED, MORE_WEIGHT, LESS_WEIGHT, GAIN, LOSS = range(10)
N_TERMS = 10


@dataclass
class EstimateSums:
    """Sums of one estimator's terms over observations (rows, or groups of rows).

    Parameters
    ----------
    estimator, limit: what is summed.
    reward_floor: the smallest possible reward.
    totals: float64[10], sums of the terms COUNT to LOSS.
    gram: float64[10, 10], sums of their products.
    n: number of observations.
    largest_weight: the largest u * v of an observation.
    largest_more, largest_less: the largest u * max(v - 1, 0) and u * max(1 - v, 0) of an observation.
    control_low, control_high: the smallest and largest control term of an observation, see `control`.
    difference_control_low, difference_control_high: likewise of `difference_control`.
    """

    estimator: Estimator
    limit: float
    reward_floor: float
    totals: FloatArray = field(default_factory=lambda: np.zeros(N_TERMS))
    gram: FloatArray = field(default_factory=lambda: np.zeros((N_TERMS, N_TERMS)))
    n: int = 0
    largest_weight: float = 0.0
    largest_more: float = 0.0
    largest_less: float = 0.0
    control_low: float = np.inf
    control_high: float = -np.inf
    difference_control_low: float = np.inf
    difference_control_high: float = -np.inf

    def __post_init__(self) -> None:
        # The estimate is the mean of the control, known or with little variance, plus the mean of v * (r - floor).
        floor_term = COUNT if self.estimator.transform is identity_weights else WEIGHT
        self.control = np.zeros(N_TERMS)
        self.control[floor_term] += self.reward_floor
        if self.estimator.uses_model:
            self.control[TARGET] += 1.0
            self.control[CHOSEN] -= 1.0
        # The difference to the log's own mean reward is the mean of this control, plus mean gain minus mean loss.
        self.difference_control = self.control.copy()
        self.difference_control[COUNT] -= self.reward_floor

    @property
    def control_is_known(self) -> bool:
        """Whether the control's mean is known without an interval: a multiple of the number of decisions."""
        return not self.control[COUNT + 1 :].any()

    def add(self, terms: FloatArray) -> None:
        """Add observations: float64[10, m]."""
        if not terms.shape[1]:
            return
        self.totals += terms.sum(axis=1)
        self.gram += terms @ terms.T
        self.n += terms.shape[1]
        self.largest_weight = max(self.largest_weight, float(terms[WEIGHT].max()))
        self.largest_more = max(self.largest_more, float(terms[MORE_WEIGHT].max()))
        self.largest_less = max(self.largest_less, float(terms[LESS_WEIGHT].max()))
        if not self.control_is_known:
            control = self.control @ terms
            self.control_low = min(self.control_low, float(control.min()))
            self.control_high = max(self.control_high, float(control.max()))
        if not self.difference_control_is_known:
            control = self.difference_control @ terms
            self.difference_control_low = min(self.difference_control_low, float(control.min()))
            self.difference_control_high = max(self.difference_control_high, float(control.max()))

    @property
    def logged_value(self) -> float:
        """The log's own mean reward: what the policy that wrote it earned."""
        return float(self.totals[LOGGED] / self.totals[COUNT])

    @property
    def difference(self) -> float:
        """The estimate minus the log's own mean reward; exactly 0 where every weight is 1."""
        return self.value - self.logged_value

    @property
    def value(self) -> float:
        """The estimate. NaN for a self-normalised estimator of a log without any weight."""
        weighted = self.totals[REWARD] - self.totals[CHOSEN]
        divisor = self.totals[WEIGHT] if self.estimator.self_normalised else self.totals[COUNT]
        if divisor == 0:
            return float("nan")
        return float(self.totals[TARGET] / self.totals[COUNT] + weighted / divisor)

    @property
    def difference_control_is_known(self) -> bool:
        """Whether the mean of the difference's control is known without an interval."""
        return not self.difference_control[COUNT + 1 :].any()

    @property
    def standard_error(self) -> float:
        """The standard error of the estimate, by the delta method where it is a ratio of sums."""
        return self._error_along(self._value_gradient())

    @property
    def difference_error(self) -> float:
        """The standard error of the difference, by the delta method."""
        gradient, count = self._value_gradient(), self.totals[COUNT]
        gradient[LOGGED] -= 1 / count
        gradient[COUNT] += self.totals[LOGGED] / count**2
        return self._error_along(gradient)

    def _error_along(self, gradient: FloatArray) -> float:
        variance = float(gradient @ self.gram @ gradient)
        return float(np.sqrt(max(variance, 0.0) * self.n / max(self.n - 1, 1)))

    def _value_gradient(self) -> FloatArray:
        """float64[10]: the derivative of the estimate by each sum. NaN where the estimate is."""
        count, weight = self.totals[COUNT], self.totals[WEIGHT]
        weighted = self.totals[REWARD] - self.totals[CHOSEN]
        gradient = np.zeros(N_TERMS)
        gradient[TARGET] = 1 / count
        gradient[COUNT] = -self.totals[TARGET] / count**2
        if self.estimator.self_normalised:
            if weight == 0:
                return np.full(N_TERMS, np.nan)
            gradient[REWARD], gradient[CHOSEN], gradient[WEIGHT] = 1 / weight, -1 / weight, -weighted / weight**2
        else:
            gradient[REWARD], gradient[CHOSEN] = 1 / count, -1 / count
            gradient[COUNT] -= weighted / count**2
        return gradient

    @property
    def weighted_reward(self) -> tuple[float, float]:
        """Sum, and sum of squares, of v * (r - floor) over observations."""
        direction = np.zeros(N_TERMS)
        direction[REWARD], direction[WEIGHT] = 1.0, -self.reward_floor
        return self.sums_along(direction)

    @property
    def control_sums(self) -> tuple[float, float]:
        """Sum, and sum of squares, of the control over observations."""
        return self.sums_along(self.control)

    def sums_along(self, direction: FloatArray) -> tuple[float, float]:
        """Sum, and sum of squares, over observations of a linear combination of terms, float64[10]."""
        return float(direction @ self.totals), max(float(direction @ self.gram @ direction), 0.0)


def terms_of(
    log: LoggedDecisions, estimator: Estimator, limit: float, weights: FloatArray, reward_floor: float = 0.0
) -> FloatArray:
    """float64[10, n]: the terms of each row.

    Parameters
    ----------
    weights: the importance weights of the rows.
    reward_floor: the smallest possible reward.
    """
    terms = np.zeros((N_TERMS, len(log)))
    row_weights = 1.0 if log.pass_probabilities is None else 1.0 / log.pass_probabilities
    terms[COUNT] = row_weights
    terms[WEIGHT] = estimator.transform(weights, limit)
    if log.pass_probabilities is not None:
        terms[WEIGHT] *= row_weights
    np.multiply(terms[WEIGHT], log.rewards, out=terms[REWARD])
    if estimator.uses_model:
        assert log.predicted_chosen is not None
        assert log.predicted_target is not None
        np.multiply(row_weights, log.predicted_target, out=terms[TARGET])
        np.multiply(terms[WEIGHT], log.predicted_chosen, out=terms[CHOSEN])
    np.multiply(row_weights, log.rewards, out=terms[LOGGED])
    change, above_floor = terms[WEIGHT] - terms[COUNT], log.rewards - reward_floor
    np.maximum(change, 0.0, out=terms[MORE_WEIGHT])
    np.subtract(terms[MORE_WEIGHT], change, out=terms[LESS_WEIGHT])
    np.multiply(terms[MORE_WEIGHT], above_floor, out=terms[GAIN])
    np.multiply(terms[LESS_WEIGHT], above_floor, out=terms[LOSS])
    return terms


class GroupTerms:
    """Terms summed by group, over all chunks."""

    def __init__(self) -> None:
        self._sums = np.zeros((N_TERMS, 0))
        self._seen = np.zeros(0, dtype=bool)

    def add(self, terms: FloatArray, groups: np.ndarray) -> None:
        """terms: float64[10, m]; groups: int64[m], codes."""
        codes, position = np.unique(groups, return_inverse=True)
        n_groups = int(codes[-1]) + 1
        if n_groups > len(self._seen):
            size = max(n_groups, 2 * len(self._seen))
            self._sums = np.pad(self._sums, ((0, 0), (0, size - len(self._seen))))
            self._seen = np.pad(self._seen, (0, size - len(self._seen)))
        for row in range(len(terms)):
            self._sums[row, codes] += np.bincount(position, terms[row], len(codes))
        self._seen[codes] = True

    @property
    def observations(self) -> FloatArray:
        """float64[10, n_groups]: sums of the groups that have rows."""
        return self._sums[:, self._seen]


def collect_sums(chunks: Iterable[LoggedDecisions], sums: list[EstimateSums]) -> None:
    """Add the rows of all chunks to each of the sums, by group where the log has groups."""
    groups = [GroupTerms() for _ in sums]
    for chunk in chunks:
        weights = chunk.importance_weights
        for estimate_sums, group_terms in zip(sums, groups, strict=True):
            terms = terms_of(chunk, estimate_sums.estimator, estimate_sums.limit, weights, estimate_sums.reward_floor)
            if chunk.groups is None:
                estimate_sums.add(terms)
            elif len(chunk):
                group_terms.add(terms, chunk.groups)
    for estimate_sums, group_terms in zip(sums, groups, strict=True):
        estimate_sums.add(group_terms.observations)
