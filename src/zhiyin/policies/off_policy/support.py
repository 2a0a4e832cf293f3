"""Whether a log can answer: how much of the target policy's behaviour it contains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zhiyin.policies.off_policy.estimate_sums import COUNT, WEIGHT, EstimateSums, collect_sums
from zhiyin.policies.off_policy.estimators import ESTIMATORS
from zhiyin.policies.off_policy.logged_decisions import FloatArray, LoggedDecisions


@dataclass(frozen=True)
class Support:
    """Diagnostics of importance weights. A weight counts 1 / pass_probability times.

    Parameters
    ----------
    n_rows, n_observations: logged decisions; independent ones, which are groups where the log has groups.
    n_decisions: decisions that the rows stand for, sum of 1 / pass_probability.
    n_positive: rows with a reward above the lowest possible one whose action the target policy may choose.
    n_changed_positive: rows with such a reward whose weight is not 1: what the difference to the log rests on.
    mean_weight, mean_weight_error: mean importance weight and its standard error. The mean is 1, within four errors,
        where the propensities are those that were drawn from and the log contains every action of the target; 1 minus
        `unlogged_mass` where that is known.
    max_weight: the largest weight of a row, weighted by 1 / pass_probability.
    max_weight_share: its observation's share of all weight.
    effective_size: (sum w)² / sum w², over observations: an unweighted log of this many would have the same variance.
    unlogged_mass: mean probability that the target gives to actions that the log cannot contain. None: unknown.
    mean_reward: of the log itself: what the policy that wrote it earned.
    """

    n_rows: int
    n_observations: int
    n_decisions: float
    n_positive: int
    n_changed_positive: int
    mean_weight: float
    mean_weight_error: float
    max_weight: float
    max_weight_share: float
    effective_size: float
    unlogged_mass: float | None
    mean_reward: float


class RowCounts:
    """What is counted row by row over chunks of a log."""

    def __init__(self, reward_floor: float = 0.0) -> None:
        """reward_floor: the lowest possible reward; rewards above it are positive."""
        self.reward_floor = reward_floor
        self.n_rows = self.n_positive = self.n_changed_positive = 0
        self.reward_low, self.reward_high = np.inf, -np.inf
        self.max_weight = 0.0
        self.unlogged: float | None = None

    def add(self, chunk: LoggedDecisions, weights: FloatArray) -> None:
        """Add the rows of a chunk, whose importance weights are `weights`."""
        if not len(chunk):
            return
        self.n_rows += len(chunk)
        is_positive = chunk.rewards > self.reward_floor
        self.n_positive += int(np.count_nonzero(is_positive & (weights > 0)))
        self.n_changed_positive += int(np.count_nonzero(is_positive & (weights != 1)))
        self.reward_low = min(self.reward_low, float(chunk.rewards.min()))
        self.reward_high = max(self.reward_high, float(chunk.rewards.max()))
        counts = 1.0 if chunk.pass_probabilities is None else 1.0 / chunk.pass_probabilities
        self.max_weight = max(self.max_weight, float((weights * counts).max()))
        if chunk.unlogged_target_mass is not None:
            self.unlogged = (self.unlogged or 0.0) + float((chunk.unlogged_target_mass * counts).sum())


def support_of(log: LoggedDecisions, reward_floor: float = 0.0) -> Support:
    """Diagnostics of a log in memory. reward_floor: the lowest possible reward."""
    counts = RowCounts(reward_floor)
    for chunk in log.chunks():
        counts.add(chunk, chunk.importance_weights)
    sums = EstimateSums(ESTIMATORS["ips"], np.inf, 0.0)
    collect_sums(log.chunks(), [sums])
    return support_from_sums(counts, sums)


def support_from_sums(counts: RowCounts, ips: EstimateSums) -> Support:
    """Diagnostics from counts of rows and the sums of IPS over the same log."""
    n_decisions, weight = ips.totals[COUNT], ips.totals[WEIGHT]
    squares = ips.gram[WEIGHT, WEIGHT]
    mean = weight / n_decisions if n_decisions else 0.0
    residual = squares - 2 * mean * ips.gram[COUNT, WEIGHT] + mean**2 * ips.gram[COUNT, COUNT]
    correction = ips.n / max(ips.n - 1, 1)
    return Support(
        n_rows=counts.n_rows,
        n_observations=ips.n,
        n_decisions=float(n_decisions),
        n_positive=counts.n_positive,
        n_changed_positive=counts.n_changed_positive,
        mean_weight=float(mean),
        mean_weight_error=float(np.sqrt(max(residual, 0.0) * correction) / n_decisions) if n_decisions else 0.0,
        max_weight=counts.max_weight,
        max_weight_share=float(ips.largest_weight / weight) if weight else 0.0,
        effective_size=float(weight**2 / squares) if squares else 0.0,
        unlogged_mass=None if counts.unlogged is None else float(counts.unlogged / n_decisions),
        mean_reward=ips.logged_value if n_decisions else 0.0,
    )


def mass_on_unlogged_actions(target: FloatArray, logged: np.ndarray) -> FloatArray:
    """float64[n]: the target's probability of actions that were not logged, for `LoggedDecisions.unlogged_target_mass`.

    Parameters
    ----------
    target: float64[n, n_actions] or float64[n_actions], the target policy's probabilities.
    logged: [n, n_actions] or [n_actions]; an action can be logged where this is true or above 0: the logging policy's
        probabilities, or whether the action occurs in the log.
    """
    return np.where(np.asarray(logged) > 0, 0.0, target).sum(axis=-1)
