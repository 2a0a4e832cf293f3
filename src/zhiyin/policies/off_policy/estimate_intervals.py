"""Intervals of an estimate, by name, from the sums of its terms.

An estimate is a mean of weighted rewards, whose few large terms make its variance, plus the mean of a control (the
reward model's part), which is bounded and varies little. The first gets the interval asked for, the second an empirical
Bernstein interval with a small part of the error probability; the two are added.

The difference to the log's own mean reward is such a control, plus mean gains, minus mean losses: what the target earns
more and less than the log on the rows that it weights more and less. Both are sums of few large terms, so each gets an
interval of the kind asked for. Clopper–Pearson's have half of the error probability each, and the ends of one are
added to the contrary ends of the other, which holds whatever the two depend on. Gamma intervals are joined by the root
of the squared distances of their ends (MOVER; Zou and Donner, Statistics in Medicine 2008), since gains and losses come
from different rows. Where all weights are 1, the interval is 0 to 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.policies.off_policy.confidence_sequences import (
    gamma_exponential_bound,
    normal_mixture_bound,
    normal_mixture_rho,
)
from zhiyin.policies.off_policy.estimate_sums import COUNT, GAIN, LOSS, N_TERMS, EstimateSums
from zhiyin.policies.off_policy.intervals import (
    clopper_pearson,
    empirical_bernstein,
    normal_interval,
    scaled_clopper_pearson,
    weighted_poisson_interval,
)

CLOPPER_PEARSON, GAMMA, NORMAL, BERNSTEIN, ANYTIME = (
    "clopper_pearson", "gamma", "normal", "empirical_bernstein", "anytime",
)  # fmt: skip
INTERVALS = (CLOPPER_PEARSON, GAMMA, NORMAL, BERNSTEIN, ANYTIME)
# The normal approximation needs as many positive outcomes and effective observations; below them it covers too little.
NORMAL_MIN_POSITIVES = 300
NORMAL_MIN_EFFECTIVE_SIZE = 1000.0
# The part of the error probability that the control's interval gets.
CONTROL_ALPHA_SHARE = 0.2
# Intrinsic time, in squares of the largest term, at which the boundary of rare rewards is narrowest.
_RARE_INTRINSIC_TIME = 10.0


@dataclass(frozen=True)
class IntervalSettings:
    """How intervals are made.

    Parameters
    ----------
    method: one of INTERVALS.
    alpha: one minus the confidence.
    reward_low, reward_high: the range of a reward.
    max_weight: the largest weight that the two policies allow; None: the largest in the log stands for it.
    planned_observations: where an anytime interval is to be narrowest.
    normal_allowed: whether the log has what the normal approximation needs.
    normal_difference_allowed: whether it has so on the rows that the two policies choose differently often.
    """

    method: str
    alpha: float
    reward_low: float
    reward_high: float
    max_weight: float | None
    planned_observations: int
    normal_allowed: bool
    normal_difference_allowed: bool = False


def check_interval(method: str) -> None:
    """Raise ConfigError for a method that is not one of INTERVALS."""
    if method not in INTERVALS:
        raise ConfigError(f"there is no interval {method!r}", remedy=suggest(method, list(INTERVALS)))


def interval_of(sums: EstimateSums, settings: IntervalSettings) -> tuple[float, float, str]:
    """(low, high, method used) around an estimate; a normal interval that is not allowed becomes Clopper–Pearson."""
    method = settings.method
    if method == NORMAL and not settings.normal_allowed:
        method = CLOPPER_PEARSON
    if method == ANYTIME:
        # A growing log goes over from bounded rewards to the normal approximation: each has half of the error
        # probability.
        settings = replace(settings, alpha=settings.alpha / 2)
    if method == NORMAL or (method == ANYTIME and settings.normal_allowed):
        low, high = _by_standard_error(sums, settings, method)
    else:
        if method in (CLOPPER_PEARSON, GAMMA) and not sums.largest_weight:
            method = BERNSTEIN  # no weighted rewards: predictions, or weights of either sign
        low, high = _by_parts(sums, settings, method)
    # An interval of the same quantity by other sums (IPS for SNIPS) may miss the estimate; a wider one holds as well.
    value = sums.value
    if settings.reward_low >= 0:
        low = max(low, 0.0)  # no policy earns less than nothing where no reward is negative
    return min(low, value), max(high, value), method


def difference_interval_of(sums: EstimateSums, settings: IntervalSettings) -> tuple[float, float, str]:
    """(low, high, method used) around the estimate minus the log's own mean reward; see the module."""
    method = settings.method
    if method == NORMAL and not settings.normal_difference_allowed:
        method = CLOPPER_PEARSON
    if method == ANYTIME:
        settings = replace(settings, alpha=settings.alpha / 2)
    if method == NORMAL or (method == ANYTIME and settings.normal_difference_allowed):
        low, high = _around(sums.difference, sums.difference_error, sums, settings, method)
    else:
        if method in (CLOPPER_PEARSON, GAMMA) and not (sums.largest_more or sums.largest_less):
            method = BERNSTEIN
        low, high = _difference_by_parts(sums, settings, method)
    return min(low, sums.difference), max(high, sums.difference), method


def _difference_by_parts(sums: EstimateSums, settings: IntervalSettings, method: str) -> tuple[float, float]:
    count = float(sums.totals[COUNT])
    more = sums.largest_more
    if settings.max_weight is not None:
        more = max(more, settings.max_weight - 1)
    reward_width = settings.reward_high - settings.reward_low
    ceilings = {GAIN: more * reward_width, LOSS: sums.largest_less * reward_width}
    has_weighted, has_control = any(ceilings.values()), not sums.difference_control_is_known
    control_alpha = settings.alpha * (CONTROL_ALPHA_SHARE if has_weighted else 1.0)
    mean_control = float(sums.difference_control @ sums.totals) / count
    low = high = mean_control
    if has_control:
        bounds = sums.difference_control_low, sums.difference_control_high
        low, high = _bounded_interval(sums, sums.difference_control, bounds, control_alpha, method)
    if not has_weighted:
        return low, high
    alpha = settings.alpha - (control_alpha if has_control else 0.0)
    if method in (BERNSTEIN, ANYTIME):
        direction = np.zeros(N_TERMS)
        direction[GAIN], direction[LOSS] = 1.0, -1.0
        width = ceilings[GAIN] + ceilings[LOSS]
        part = _signed_interval(sums, direction, width, alpha, method)
        return low + part[0], high + part[1]
    below, above = [], []
    used = [term for term, ceiling in ceilings.items() if ceiling > 0]
    for term in used:
        mean = float(sums.totals[term]) / count
        term_alpha = alpha if method == GAMMA else alpha / len(used)
        ends = _one_sided_terms_interval(sums, term, ceilings[term], term_alpha, method)
        sign = 1.0 if term == GAIN else -1.0
        low, high = low + sign * mean, high + sign * mean
        below.append(mean - ends[0] if term == GAIN else ends[1] - mean)
        above.append(ends[1] - mean if term == GAIN else mean - ends[0])
    if method == GAMMA:
        return low - float(np.hypot.reduce(below)), high + float(np.hypot.reduce(above))
    return low - sum(below), high + sum(above)


def _one_sided_terms_interval(
    sums: EstimateSums, term: int, ceiling: float, alpha: float, method: str
) -> tuple[float, float]:
    """Of the mean of a term that is in [0, ceiling], per decision."""
    count = float(sums.totals[COUNT])
    total, squares = float(sums.totals[term]), float(sums.gram[term, term])
    if method == GAMMA:
        low, high = weighted_poisson_interval(total, squares, ceiling, count, alpha)
        return float(low), float(high)
    low, high = clopper_pearson(total / ceiling, sums.n, alpha)
    scale = ceiling * sums.n / count
    return float(low) * scale, float(high) * scale


def _signed_interval(
    sums: EstimateSums, direction: np.ndarray, width: float, alpha: float, method: str
) -> tuple[float, float]:
    """Of the mean, per decision, of terms of either sign in a range of this length that contains 0."""
    total, squares = sums.sums_along(direction)
    count, n = float(sums.totals[COUNT]), sums.n
    if method == ANYTIME:
        # Squared distances from 0, a prediction that is made before each observation.
        rho = normal_mixture_rho(_RARE_INTRINSIC_TIME * width**2, alpha)
        half = gamma_exponential_bound(squares, rho, width, alpha / 2) / count
        return total / count - half, total / count + half
    variance = max((squares / n - (total / n) ** 2) * n / max(n - 1, 1), 0.0)
    low, high = empirical_bernstein(total / n, variance, width, n, alpha)
    return float(low) * n / count, float(high) * n / count


def _by_standard_error(sums: EstimateSums, settings: IntervalSettings, method: str) -> tuple[float, float]:
    return _around(sums.value, sums.standard_error, sums, settings, method)


def _around(
    value: float, standard_error: float, sums: EstimateSums, settings: IntervalSettings, method: str
) -> tuple[float, float]:
    """The interval around a value by its standard error."""
    if method == NORMAL:
        low, high = normal_interval(value, standard_error, settings.alpha)
        return float(low), float(high)
    # The asymptotic confidence sequence (Waudby-Smith et al., Annals of Statistics 2024).
    rho = normal_mixture_rho(settings.planned_observations, settings.alpha)
    deviation = standard_error * np.sqrt(sums.n)
    half = deviation * normal_mixture_bound(sums.n, rho, settings.alpha) / sums.n
    return value - half, value + half


def _by_parts(sums: EstimateSums, settings: IntervalSettings, method: str) -> tuple[float, float]:
    has_control, has_rewards = not sums.control_is_known, sums.largest_weight > 0
    control_alpha = settings.alpha * (CONTROL_ALPHA_SHARE if has_rewards else 1.0)
    control_low, control_high = _control_interval(sums, control_alpha, method)
    if not has_rewards:
        return control_low, control_high
    alpha = settings.alpha - (control_alpha if has_control else 0.0)
    low, high = _reward_interval(sums, settings, alpha, method)
    return control_low + low, control_high + high


def _reward_interval(sums: EstimateSums, settings: IntervalSettings, alpha: float, method: str) -> tuple[float, float]:
    """Of the mean of v * (r - floor), which are in [0, largest weight * range of rewards]."""
    total, squares = sums.weighted_reward
    largest = max(sums.largest_weight, settings.max_weight or 0.0)
    ceiling = largest * (settings.reward_high - settings.reward_low)
    count = float(sums.totals[COUNT])
    mean = total / count
    if method == BERNSTEIN:
        variance = (squares / sums.n - (total / sums.n) ** 2) * sums.n / max(sums.n - 1, 1)
        low, high = empirical_bernstein(total / sums.n, max(variance, 0.0), ceiling, sums.n, alpha)
        scale = sums.n / count
        return max(float(low) * scale, 0.0), float(high) * scale
    if method == ANYTIME:
        rho = normal_mixture_rho(_RARE_INTRINSIC_TIME * ceiling**2, alpha)
        half = gamma_exponential_bound(squares, rho, ceiling, alpha / 2) / count
        return max(mean - half, 0.0), mean + half
    if method == GAMMA:
        low, high = weighted_poisson_interval(total, squares, ceiling, count, alpha)
    else:
        scale = settings.reward_high - settings.reward_low
        low, high = scaled_clopper_pearson(total / scale, largest, count, alpha)
        low, high = scale * low, scale * high
    return float(low), float(high)


def _control_interval(sums: EstimateSums, alpha: float, method: str) -> tuple[float, float]:
    if sums.control_is_known:
        mean = sums.control_sums[0] / float(sums.totals[COUNT])
        return mean, mean
    return _bounded_interval(sums, sums.control, (sums.control_low, sums.control_high), alpha, method)


def _bounded_interval(
    sums: EstimateSums, direction: np.ndarray, bounds: tuple[float, float], alpha: float, method: str
) -> tuple[float, float]:
    """Of the mean, per decision, of a linear combination of terms within bounds (lowest, highest)."""
    total, squares = sums.sums_along(direction)
    count = float(sums.totals[COUNT])
    n, mean = sums.n, total / sums.n
    width = bounds[1] - bounds[0]
    if width <= 0:
        return total / count, total / count
    if method == ANYTIME:
        # Squared distances from the range's middle, a prediction that is made before each observation.
        middle = (bounds[1] + bounds[0]) / 2
        time = squares - 2 * middle * total + n * middle**2
        rho = normal_mixture_rho(_RARE_INTRINSIC_TIME * width**2, alpha)
        half = gamma_exponential_bound(max(time, 0.0), rho, width, alpha / 2) / n
        low, high = mean - half, mean + half
    else:
        variance = max((squares / n - mean**2) * n / max(n - 1, 1), 0.0)
        ends = empirical_bernstein(mean, variance, width, n, alpha)
        low, high = float(ends[0]), float(ends[1])
    return low * n / count, high * n / count
