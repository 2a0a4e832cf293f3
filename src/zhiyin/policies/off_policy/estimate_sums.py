"""Sums over a log from which an estimate and all of its intervals follow; a log of any length is read in chunks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from zhiyin.policies.off_policy.estimators import Estimator, identity_weights
from zhiyin.policies.off_policy.logged_decisions import FloatArray, LoggedDecisions

# Rows of the matrix of terms: of each observation, u = 1 / pass_probability and
# u, u * q_target, u * v, u * v * r, u * v * q.
COUNT, TARGET, WEIGHT, REWARD, CHOSEN = range(5)


@dataclass
class EstimateSums:
    """Sums of one estimator's terms over observations (rows, or groups of rows).

    Parameters
    ----------
    estimator, limit: what is summed.
    reward_floor: the smallest possible reward.
    totals: float64[5], sums of the terms COUNT to CHOSEN.
    gram: float64[5, 5], sums of their products.
    n: number of observations.
    largest_weight: the largest u * v of an observation.
    control_low, control_high: the smallest and largest control term of an observation, see `control`.
    """

    estimator: Estimator
    limit: float
    reward_floor: float
    totals: FloatArray = field(default_factory=lambda: np.zeros(5))
    gram: FloatArray = field(default_factory=lambda: np.zeros((5, 5)))
    n: int = 0
    largest_weight: float = 0.0
    control_low: float = np.inf
    control_high: float = -np.inf

    def __post_init__(self) -> None:
        # The estimate is the mean of the control, known or with little variance, plus the mean of v * (r - floor).
        floor_term = COUNT if self.estimator.transform is identity_weights else WEIGHT
        self.control = np.zeros(5)
        self.control[floor_term] += self.reward_floor
        if self.estimator.uses_model:
            self.control[TARGET] += 1.0
            self.control[CHOSEN] -= 1.0

    @property
    def control_is_known(self) -> bool:
        """Whether the control's mean is known without an interval: a multiple of the number of decisions."""
        return not self.control[COUNT + 1 :].any()

    def add(self, terms: FloatArray) -> None:
        """Add observations: float64[5, m]."""
        if not terms.shape[1]:
            return
        self.totals += terms.sum(axis=1)
        self.gram += terms @ terms.T
        self.n += terms.shape[1]
        self.largest_weight = max(self.largest_weight, float(terms[WEIGHT].max()))
        if not self.control_is_known:
            control = self.control @ terms
            self.control_low = min(self.control_low, float(control.min()))
            self.control_high = max(self.control_high, float(control.max()))

    @property
    def value(self) -> float:
        """The estimate. NaN for a self-normalised estimator of a log without any weight."""
        weighted = self.totals[REWARD] - self.totals[CHOSEN]
        divisor = self.totals[WEIGHT] if self.estimator.self_normalised else self.totals[COUNT]
        if divisor == 0:
            return float("nan")
        return float(self.totals[TARGET] / self.totals[COUNT] + weighted / divisor)

    @property
    def standard_error(self) -> float:
        """The standard error of the estimate, by the delta method where it is a ratio of sums."""
        count, weight = self.totals[COUNT], self.totals[WEIGHT]
        weighted = self.totals[REWARD] - self.totals[CHOSEN]
        gradient = np.zeros(5)
        gradient[TARGET] = 1 / count
        gradient[COUNT] = -self.totals[TARGET] / count**2
        if self.estimator.self_normalised:
            if weight == 0:
                return float("nan")
            gradient[REWARD], gradient[CHOSEN], gradient[WEIGHT] = 1 / weight, -1 / weight, -weighted / weight**2
        else:
            gradient[REWARD], gradient[CHOSEN] = 1 / count, -1 / count
            gradient[COUNT] -= weighted / count**2
        variance = float(gradient @ self.gram @ gradient)
        return float(np.sqrt(max(variance, 0.0) * self.n / max(self.n - 1, 1)))

    @property
    def weighted_reward(self) -> tuple[float, float]:
        """Sum, and sum of squares, of v * (r - floor) over observations."""
        direction = np.zeros(5)
        direction[REWARD], direction[WEIGHT] = 1.0, -self.reward_floor
        return float(direction @ self.totals), max(float(direction @ self.gram @ direction), 0.0)

    @property
    def control_sums(self) -> tuple[float, float]:
        """Sum, and sum of squares, of the control over observations."""
        return float(self.control @ self.totals), max(float(self.control @ self.gram @ self.control), 0.0)


def terms_of(log: LoggedDecisions, estimator: Estimator, limit: float, weights: FloatArray) -> FloatArray:
    """float64[5, n]: the terms of each row. weights: the importance weights of the rows."""
    terms = np.zeros((5, len(log)))
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
    return terms


class GroupTerms:
    """Terms summed by group, over all chunks."""

    def __init__(self) -> None:
        self._sums = np.zeros((5, 0))
        self._seen = np.zeros(0, dtype=bool)

    def add(self, terms: FloatArray, groups: np.ndarray) -> None:
        """terms: float64[5, m]; groups: int64[m], codes."""
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
        """float64[5, n_groups]: sums of the groups that have rows."""
        return self._sums[:, self._seen]


def collect_sums(chunks: Iterable[LoggedDecisions], sums: list[EstimateSums]) -> None:
    """Add the rows of all chunks to each of the sums, by group where the log has groups."""
    groups = [GroupTerms() for _ in sums]
    for chunk in chunks:
        weights = chunk.importance_weights
        for estimate_sums, group_terms in zip(sums, groups, strict=True):
            terms = terms_of(chunk, estimate_sums.estimator, estimate_sums.limit, weights)
            if chunk.groups is None:
                estimate_sums.add(terms)
            elif len(chunk):
                group_terms.add(terms, chunk.groups)
    for estimate_sums, group_terms in zip(sums, groups, strict=True):
        estimate_sums.add(group_terms.observations)
