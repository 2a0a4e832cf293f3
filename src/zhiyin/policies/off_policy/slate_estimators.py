"""Off-policy estimators of lists. Each weights the reward of a slot by the items it may depend on.

A slot's conditional weight alone is no such weight: the chance of the items before it differs between the policies too,
and an estimate by it is biased. RIPS takes the product over the slots up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.policies.off_policy.estimate_intervals import (
    NORMAL_MIN_EFFECTIVE_SIZE,
    NORMAL_MIN_POSITIVES,
    IntervalSettings,
    check_interval,
)
from zhiyin.policies.off_policy.estimate_sums import (
    CHOSEN,
    COUNT,
    GAIN,
    LESS_WEIGHT,
    LOGGED,
    LOSS,
    MORE_WEIGHT,
    N_TERMS,
    REWARD,
    TARGET,
    WEIGHT,
    EstimateSums,
    GroupTerms,
)
from zhiyin.policies.off_policy.estimators import Estimator, identity_weights, zero_weights
from zhiyin.policies.off_policy.evaluation import estimate_of
from zhiyin.policies.off_policy.logged_decisions import FloatArray
from zhiyin.policies.off_policy.logged_slates import LoggedSlates
from zhiyin.policies.off_policy.off_policy_result import Estimate, OffPolicyResult
from zhiyin.policies.off_policy.refusal import Refusal, refusal
from zhiyin.policies.off_policy.support import RowCounts, Support, support_from_sums


@dataclass(frozen=True)
class SlateEstimator:
    """How one estimator weights the slots of a list.

    Parameters
    ----------
    estimator: name, title, source, and whether a reward model is needed.
    weights: LoggedSlates -> float64[n, n_slots], what each slot's reward is multiplied by.
    assumes: what its unbiasedness needs, beside support.
    needs_positions: whether the probabilities of items at positions are needed.
    """

    estimator: Estimator
    weights: Callable[[LoggedSlates], FloatArray]
    assumes: str
    needs_positions: bool = False

    def contributions(self, log: LoggedSlates) -> FloatArray:
        """float64[n]: one term per list, whose mean is the estimated reward per list."""
        self.check(log)
        weights = self.weights(log)
        total = (weights * log.rewards).sum(axis=1)
        if not self.estimator.uses_model:
            return total
        chosen, target = log.predictions
        return total + (_shifted(weights) * target - weights * chosen).sum(axis=1)

    def estimate(self, log: LoggedSlates) -> float:
        """The estimated reward per list of the target policy."""
        return float(self.contributions(log).mean())

    def check(self, log: LoggedSlates) -> None:
        """Raise DataError where the log lacks what this estimator needs."""
        if self.needs_positions and log.position_propensities is None:
            raise DataError(
                f"{self.estimator.name} needs the probabilities of items at positions",
                remedy="give position_propensities and position_target_probabilities, or ask for rips",
            )
        if self.estimator.uses_model and log.predicted_chosen is None:
            raise DataError(
                f"{self.estimator.name} needs a reward model's predictions", remedy="give predictions, or ask for rips"
            )


def whole_list_weights(log: LoggedSlates) -> FloatArray:
    """float64[n, n_slots]: the weight of the whole list, for every slot."""
    return np.broadcast_to(log.prefix_weights[:, -1:], log.rewards.shape)


def position_weights(log: LoggedSlates) -> FloatArray:
    """float64[n, n_slots]: the weight of the item at its position, whatever stands elsewhere."""
    assert log.position_propensities is not None
    assert log.position_target_probabilities is not None
    return log.position_target_probabilities / log.position_propensities


def prefix_weights(log: LoggedSlates) -> FloatArray:
    """float64[n, n_slots]: the weight of the items up to the slot."""
    return log.prefix_weights


def pseudo_inverse_weights(log: LoggedSlates) -> FloatArray:
    """float64[n, n_slots]: sum over slots of the weights at positions, minus n_slots - 1, for every slot.

    It is the pseudo-inverse estimator's weight where the logging policy chooses slots independently (example 4 of the
    paper). `enumerated_pseudo_inverse_weights` has those of any logging policy over few lists.
    """
    weights = position_weights(log).sum(axis=1, keepdims=True) - (log.n_slots - 1)
    return np.broadcast_to(weights, log.rewards.shape)


def enumerated_pseudo_inverse_weights(slates: np.ndarray, logging: FloatArray, target: FloatArray) -> FloatArray:
    """float64[n_slates]: the pseudo-inverse estimator's weight of each list that one context may get.

    Parameters
    ----------
    slates: int64[n_slates, n_slots], all lists that the logging policy may show; items as codes.
    logging, target: float64[n_slates], the two policies' probabilities of these lists.
    """
    slates = np.asarray(slates)
    n_slates, n_slots = slates.shape
    n_items = int(slates.max()) + 1
    indicators = np.zeros((n_slates, n_slots * n_items))
    indicators[np.arange(n_slates)[:, None], np.arange(n_slots) * n_items + slates] = 1.0
    second_moments = indicators.T @ (np.asarray(logging)[:, None] * indicators)
    return np.asarray(target) @ indicators @ np.linalg.pinv(second_moments, hermitian=True) @ indicators.T


SLATE_ESTIMATORS: dict[str, SlateEstimator] = {
    entry.estimator.name: entry
    for entry in (
        SlateEstimator(
            Estimator("sips", "SIPS", "Precup, Sutton and Singh, ICML 2000", identity_weights),
            whole_list_weights, "nothing: a slot's reward may depend on the whole list",
        ),
        SlateEstimator(
            Estimator("iips", "IIPS", "Li et al., KDD 2018", identity_weights),
            position_weights, "a slot's reward depends on its own item alone", needs_positions=True,
        ),
        SlateEstimator(
            Estimator("rips", "RIPS (PDIS)", "McInerney et al., KDD 2020; Precup et al., ICML 2000", identity_weights),
            prefix_weights, "a slot's reward depends on its own item and those above it",
        ),
        SlateEstimator(
            Estimator("cascade_dr", "cascade-DR", "Kiyohara et al., WSDM 2022", identity_weights, uses_model=True),
            prefix_weights, "a slot's reward depends on its own item and those above it",
        ),
        SlateEstimator(
            Estimator("pi", "pseudo-inverse", "Swaminathan et al., NeurIPS 2017", zero_weights),
            pseudo_inverse_weights, "the list's reward is a sum over slots, which the log chose independently",
            needs_positions=True,
        ),
    )
}  # fmt: skip


def evaluate_slates(
    log: LoggedSlates,
    estimators: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    interval: str = "clopper_pearson",
    reward_range: tuple[float, float] = (0.0, 1.0),
    planned_observations: int = 10_000,
    refuse: bool = True,
) -> OffPolicyResult:
    """Estimate the target policy's reward per list, each estimate with an interval, or refuse and say why.

    Parameters
    ----------
    log: the lists.
    estimators: names in SLATE_ESTIMATORS; None: all that the log can give.
    reward_range: (lowest, highest) possible reward of a slot.
    confidence, interval, planned_observations, refuse: see `evaluate_off_policy`. The pseudo-inverse estimator, whose
        weights may be negative, has empirical Bernstein intervals instead of Clopper–Pearson's.

    Where the target shows items that the log could not (`unlogged_target_mass`), too few to refuse, intervals reach to
    what the least and the largest possible reward of those slots would make of it.

    An estimator whose own weights are not supported is left out with a warning; where that is so of all, the result has
    the refusal of the last. `support` is that of the estimator with the largest effective sample.
    """
    check_interval(interval)
    if not len(log):
        raise DataError("the log has no lists", remedy="give a log with at least one row")
    low, high = reward_range
    if log.rewards.min() < low or log.rewards.max() > high:
        raise DataError(
            f"rewards from {log.rewards.min():g} to {log.rewards.max():g} are outside {low:g} to {high:g}",
            remedy="widen reward_range to all rewards of a slot that are possible",
        )
    estimates: list[Estimate] = []
    supports: list[Support] = []
    warnings: list[str] = []
    refused: Refusal | None = None
    names = _names(log, estimators)
    for name in names:
        entry = SLATE_ESTIMATORS[name]
        sums, support = _sums_of(log, entry, reward_range)
        reason = refusal(support)
        supports.append(support)
        if reason is not None:
            warnings.append(f"{entry.estimator.title} is not supported: {reason.reasons[0]}")
            refused = reason
            if refuse:
                continue
        many = support.n_positive >= NORMAL_MIN_POSITIVES and support.effective_size >= NORMAL_MIN_EFFECTIVE_SIZE
        settings = IntervalSettings(
            interval, 1 - confidence, log.n_slots * low, log.n_slots * high, None, planned_observations, many,
            many and support.n_changed_positive >= NORMAL_MIN_POSITIVES,
        )  # fmt: skip
        estimate = replace(estimate_of(sums, settings), limit=None, covers_bias=True)
        unlogged = (support.unlogged_mass or 0.0) * log.n_slots
        below, above = min(0.0, low) * unlogged, max(0.0, high) * unlogged
        if entry.estimator.uses_model:  # what it predicts of them may be as wrong as rewards range
            below, above = -(high - low) * unlogged, (high - low) * unlogged
        estimates.append(_widened(estimate, below, above))
    answered = len(warnings) < len(names)
    best = max(supports, key=lambda support: support.effective_size)
    return OffPolicyResult(tuple(estimates), best, None if answered else refused, confidence, tuple(warnings))


def _names(log: LoggedSlates, names: Sequence[str] | None) -> list[str]:
    if names is None:
        return [
            name
            for name, entry in SLATE_ESTIMATORS.items()
            if not (entry.needs_positions and log.position_propensities is None)
            and not (entry.estimator.uses_model and log.predicted_chosen is None)
        ]
    if isinstance(names, str) or not names:
        raise ConfigError("estimators must be a list of names", remedy=f"known: {', '.join(SLATE_ESTIMATORS)}")
    for name in names:
        if name not in SLATE_ESTIMATORS:
            raise ConfigError(f"there is no estimator of lists {name!r}", remedy=suggest(name, list(SLATE_ESTIMATORS)))
        SLATE_ESTIMATORS[name].check(log)
    return list(dict.fromkeys(names))


def _widened(estimate: Estimate, below: float, above: float) -> Estimate:
    """An estimate that lacks a part of the value, between `below` <= 0 and `above` >= 0."""
    return replace(
        estimate,
        low=estimate.low + below,
        high=estimate.high + above,
        difference_low=estimate.difference_low + below,
        difference_high=estimate.difference_high + above,
    )


def _sums_of(
    log: LoggedSlates, entry: SlateEstimator, reward_range: tuple[float, float]
) -> tuple[EstimateSums, Support]:
    """Sums over lists, and their diagnostics. The weight of a list is the mean over its slots, so that it has mean 1;
    its reward is the sum, which is in n_slots * reward_range."""
    weights, floor = entry.weights(log), log.n_slots * reward_range[0]
    mean_weights = weights.mean(axis=1)
    terms = np.zeros((N_TERMS, len(log)))
    terms[COUNT] = 1.0
    terms[LOGGED] = log.rewards.sum(axis=1)
    signed = entry.estimator.transform is zero_weights
    if signed:
        terms[TARGET] = (weights * log.rewards).sum(axis=1)
    else:
        terms[WEIGHT] = mean_weights
        terms[REWARD] = (weights * log.rewards).sum(axis=1)
        more, above_floor = np.maximum(weights - 1, 0.0), log.rewards - reward_range[0]
        less = more - (weights - 1)
        terms[MORE_WEIGHT], terms[LESS_WEIGHT] = more.mean(axis=1), less.mean(axis=1)
        terms[GAIN], terms[LOSS] = (more * above_floor).sum(axis=1), (less * above_floor).sum(axis=1)
        if entry.estimator.uses_model:
            chosen, target = log.predictions
            terms[TARGET] = (_shifted(weights) * target).sum(axis=1)
            terms[CHOSEN] = (weights * chosen).sum(axis=1)
    estimator = replace(entry.estimator, uses_model=entry.estimator.uses_model or signed)
    sums = EstimateSums(estimator, np.inf, 0.0 if signed else floor)
    if signed:
        sums.difference_control[LOGGED] = -1.0
    counts = RowCounts(reward_range[0])
    counts.n_rows = len(log)
    is_positive = log.rewards > reward_range[0]
    counts.n_positive = int(np.count_nonzero(is_positive & (weights != 0)))
    counts.n_changed_positive = int(np.count_nonzero(is_positive & (weights != 1)))
    counts.max_weight = float(mean_weights.max())
    mass = log.prefix_unlogged_mass
    if mass is not None:  # of a slot's weight; an item at its position is no less likely to be in the log
        is_whole = entry.weights is whole_list_weights
        counts.unlogged = float((mass[:, -1] if is_whole else mass.mean(axis=1)).sum())
    observed = EstimateSums(replace(estimator, transform=identity_weights, uses_model=False), np.inf, 0.0)
    weight_terms = np.zeros((N_TERMS, len(log)))
    weight_terms[COUNT], weight_terms[WEIGHT], weight_terms[LOGGED] = 1.0, mean_weights, terms[LOGGED]
    sums.add(_by_group(terms, log))
    observed.add(_by_group(weight_terms, log))
    if signed:
        rewards = log.n_slots * reward_range[0], log.n_slots * reward_range[1]
        bounds = np.outer([mean_weights.min(), mean_weights.max()], rewards)
        sums.control_low = min(sums.control_low, float(bounds.min()))
        sums.control_high = max(sums.control_high, float(bounds.max()))
        bounds = np.outer([mean_weights.min() - 1, mean_weights.max() - 1], rewards)
        sums.difference_control_low = min(sums.difference_control_low, float(bounds.min()))
        sums.difference_control_high = max(sums.difference_control_high, float(bounds.max()))
    support = support_from_sums(counts, observed)
    variances = log.weight_variances
    if variances is not None:
        # Of a mean of prefix weights, each draw counts in the slots from its own on.
        parts = np.ones(log.n_slots) if entry.weights is whole_list_weights else np.arange(log.n_slots, 0, -1)
        parts = parts / parts[0]
        total, expected = float((variances @ parts**2).sum()), 1 - (support.unlogged_mass or 0.0)
        effective = len(log) / (1 + total / len(log) / expected**2) if expected > 0 else 0.0
        support = replace(
            support,
            mean_weight_error=max(support.mean_weight_error, float(np.sqrt(total)) / len(log)),
            effective_size=min(support.effective_size, effective),
        )
    return sums, support


def _by_group(terms: FloatArray, log: LoggedSlates) -> FloatArray:
    if log.groups is None:
        return terms
    groups = GroupTerms()
    groups.add(terms, log.groups)
    return groups.observations


def _shifted(weights: FloatArray) -> FloatArray:
    """The weights of the slot before; 1 before the first."""
    return np.concatenate([np.ones((len(weights), 1)), weights[:, :-1]], axis=1)
