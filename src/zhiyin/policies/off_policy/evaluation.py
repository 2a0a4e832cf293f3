"""Off-policy evaluation: what another policy would have earned, from the log of the one that ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.policies.off_policy.estimate_intervals import (
    ANYTIME,
    NORMAL,
    NORMAL_MIN_EFFECTIVE_SIZE,
    NORMAL_MIN_POSITIVES,
    IntervalSettings,
    check_interval,
    difference_interval_of,
    interval_of,
)
from zhiyin.policies.off_policy.estimate_sums import EstimateSums, collect_sums
from zhiyin.policies.off_policy.estimators import ESTIMATORS, Estimator, estimator_named
from zhiyin.policies.off_policy.logged_decisions import LoggedDecisions
from zhiyin.policies.off_policy.off_policy_result import Estimate, OffPolicyResult
from zhiyin.policies.off_policy.refusal import refusal
from zhiyin.policies.off_policy.slope import CandidateMoments
from zhiyin.policies.off_policy.support import RowCounts, support_from_sums

DecisionLog = LoggedDecisions | Iterable[LoggedDecisions]


def evaluate_off_policy(
    log: DecisionLog,
    estimators: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    interval: str = "clopper_pearson",
    reward_range: tuple[float, float] | None = None,
    max_weight: float | None = None,
    limits: Mapping[str, float | Sequence[float]] | None = None,
    planned_observations: int = 10_000,
    refuse: bool = True,
) -> OffPolicyResult:
    """Estimate the target policy's reward per decision, each estimate with an interval, or refuse and say why.

    Parameters
    ----------
    log: decisions in memory, or batches of them that can be iterated twice (a list, an importer's reader). Groups of
        batches share their codes. Memory is bounded by a batch and the number of groups.
    estimators: names in ESTIMATORS; None: all that the log can give, those of a reward model where it has predictions.
    confidence: of the intervals, in (0, 1).
    interval: "clopper_pearson" (scaled; holds for rare rewards), "gamma" (narrower, see `weighted_poisson_interval`),
        "empirical_bernstein", "normal" (where the log has 300 positives and an effective sample of 1,000, else
        Clopper–Pearson with a warning), "anytime" (holds however often the growing log is looked at).
    reward_range: (lowest, highest) possible reward; None: 0 to 1, widened to what the log holds, with a warning.
    max_weight: the largest importance weight that the two policies allow; None: the largest in the log.
    limits: by estimator, a limit to use, or candidates that SLOPE chooses among; else the estimator's own candidates.
    planned_observations: number of observations at which an anytime interval of many rewards is narrowest.
    refuse: False gives estimates although the log cannot answer; the refusal is given beside them.

    Raises ConfigError for unknown names and DataError for an empty log or predictions that are missing.
    """
    check_interval(interval)
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence {confidence} is not between 0 and 1", remedy="give 0.95, for example")
    if not isinstance(log, LoggedDecisions) and iter(log) is log:
        raise ConfigError(
            "a log that can be read only once was given; it is read twice",
            remedy="give a list, or an importer's reader",
        )
    counts, has_predictions, tuned = _scan(log, estimators, reward_range, dict(limits or {}))
    if not counts.n_rows:
        raise DataError("the log has no decisions", remedy="give a log with at least one row")
    chosen = _chosen_estimators(estimators, has_predictions)
    warnings: list[str] = []
    low, high = _reward_range(counts, reward_range, warnings)

    sums = {name: EstimateSums(ESTIMATORS[name], tuned.get(name, np.inf), low) for name in chosen}
    ips = sums.get("ips") or EstimateSums(ESTIMATORS["ips"], np.inf, low)
    collect_sums(_chunks(log), list({**sums, "ips": ips}.values()))
    support = support_from_sums(counts, ips)
    answer = refusal(support)
    normal_allowed = support.n_positive >= NORMAL_MIN_POSITIVES and support.effective_size >= NORMAL_MIN_EFFECTIVE_SIZE
    if interval in (NORMAL, ANYTIME) and not normal_allowed:
        warnings.append(_not_normal(interval, support.n_positive, support.effective_size))
    if not support.n_positive:
        warnings.append(
            "no action of the target policy has a positive reward in the log: only the upper ends say something"
        )
    settings = IntervalSettings(
        interval, 1 - confidence, low, high, max_weight, planned_observations, normal_allowed,
        normal_allowed and support.n_changed_positive >= NORMAL_MIN_POSITIVES,
    )  # fmt: skip
    estimates = () if answer is not None and refuse else tuple(estimate_of(sums[name], settings) for name in chosen)
    return OffPolicyResult(estimates, support, answer, confidence, tuple(warnings))


def estimate_of(sums: EstimateSums, settings: IntervalSettings) -> Estimate:
    """The estimate of these sums, and of its difference to the log, each with its interval."""
    low, high, method = interval_of(sums, settings)
    difference_low, difference_high, difference_method = difference_interval_of(sums, settings)
    estimator = sums.estimator
    limit = sums.limit if estimator.limits else None
    return Estimate(
        estimator.name, estimator.title, sums.value, low, high, method, limit, sums.standard_error,
        estimator.unbiased or limit == np.inf,
        sums.difference, difference_low, difference_high, difference_method, sums.difference_error,
    )  # fmt: skip


def _scan(
    log: DecisionLog,
    names: Sequence[str] | None,
    reward_range: tuple[float, float] | None,
    limits: dict[str, float | Sequence[float]],
) -> tuple[RowCounts, bool, dict[str, float]]:
    """Counts of rows, whether there are predictions, and the limit of each estimator that has one."""
    for name in limits:
        if not estimator_named(name).limits:
            raise ConfigError(f"{name} has no limit", remedy="leave it out of limits")
    counts = RowCounts(reward_range[0] if reward_range else 0.0)
    has_predictions: bool | None = None
    candidates: list[CandidateMoments] = []
    fixed: dict[str, float] = {}
    for chunk in _chunks(log):
        if has_predictions is None:
            has_predictions = chunk.has_predictions
            for name in _chosen_estimators(names, has_predictions):
                estimator, given = ESTIMATORS[name], limits.get(name, ESTIMATORS[name].limits)
                if isinstance(given, int | float):
                    fixed[name] = _limit(name, given)
                elif given:
                    candidates.append(CandidateMoments(estimator, [_limit(name, limit) for limit in given]))
        elif has_predictions != chunk.has_predictions:
            raise DataError("some batches have predictions and some have none", remedy="predict for all, or for none")
        weights = chunk.importance_weights
        counts.add(chunk, weights)
        for moments in candidates:
            moments.add(chunk, weights)
    return counts, bool(has_predictions), fixed | {entry.estimator.name: entry.best_limit() for entry in candidates}


def _limit(name: str, limit: float) -> float:
    if not limit >= 0:
        raise ConfigError(f"the limit {limit} of {name} is negative or no number", remedy="give 0 or more, or infinity")
    return float(limit)


def _chosen_estimators(names: Sequence[str] | None, has_predictions: bool) -> list[str]:
    if names is None:
        return [name for name, estimator in ESTIMATORS.items() if has_predictions or not estimator.uses_model]
    if isinstance(names, str) or not names:
        raise ConfigError("estimators must be a list of names", remedy=f"known: {', '.join(ESTIMATORS)}")
    chosen: list[Estimator] = [estimator_named(name) for name in names]
    for estimator in chosen:
        if estimator.uses_model and not has_predictions:
            raise DataError(
                f"{estimator.name} needs a reward model's predictions",
                remedy="add them by log.with_predictions(*cross_fitted_predictions(...)), or ask for ips and snips",
            )
    return list(dict.fromkeys(estimator.name for estimator in chosen))


def _chunks(log: DecisionLog) -> Iterator[LoggedDecisions]:
    for batch in (log,) if isinstance(log, LoggedDecisions) else log:
        yield from batch.chunks()


def _reward_range(counts: RowCounts, given: tuple[float, float] | None, warnings: list[str]) -> tuple[float, float]:
    if given is not None:
        low, high = float(given[0]), float(given[1])
        if not low < high:
            raise ConfigError(f"the reward range {given} is empty", remedy="give (lowest, highest) possible reward")
        if counts.reward_low < low or counts.reward_high > high:
            raise DataError(
                f"rewards from {counts.reward_low:g} to {counts.reward_high:g} are outside {low:g} to {high:g}",
                remedy="widen reward_range to all rewards that are possible",
            )
        return low, high
    low, high = min(0.0, counts.reward_low), max(1.0, counts.reward_high)
    if (low, high) != (0.0, 1.0):
        warnings.append(
            f"Rewards are taken to range from {low:g} to {high:g}, as in the log; intervals hold if no other is "
            "possible: give reward_range."
        )
    return low, high


def _not_normal(interval: str, n_positive: int, effective_size: float) -> str:
    text = (
        f"{n_positive:,} positive rewards and an effective sample of {effective_size:,.0f} are too few for the normal "
        f"approximation ({NORMAL_MIN_POSITIVES} and {NORMAL_MIN_EFFECTIVE_SIZE:,.0f} are the least): "
    )
    if interval == NORMAL:
        return text + "intervals are Clopper–Pearson's."
    return text + "the anytime intervals are those of bounded rewards."
