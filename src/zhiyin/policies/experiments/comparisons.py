"""Is an arm better than the control: Welch's test, ratios by the delta method, CUPED, sample-ratio check.

Every comparison gives a difference with its interval and p-value, at a number of units fixed beforehand. Who looks
while the experiment runs takes `always_valid`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.policies.experiments.arm_statistics import Sample
from zhiyin.policies.off_policy.confidence_sequences import normal_log_mixture, normal_mixture_bound, normal_mixture_rho

MIN_UNITS = 2


@dataclasses.dataclass(frozen=True)
class Difference:
    """Treatment minus control.

    Parameters
    ----------
    estimate: difference of the means, or of the ratios.
    low, high: interval. p_value: of no difference.
    control, treatment: the two values.
    standard_error: of the estimate. level: confidence of the interval.
    method: name of the test.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    control: float
    treatment: float
    standard_error: float
    level: float
    method: str

    @property
    def lift(self) -> float:
        """The difference as a share of the control; NaN where that is 0."""
        return self.estimate / self.control if self.control else math.nan


def welch(control: Sample, treatment: Sample, level: float = 0.95) -> Difference:
    """Difference of means with unequal variances (Welch, Biometrika 1947)."""
    _check(control, treatment)
    parts = np.array([control.variance / control.n, treatment.variance / treatment.n])
    error = math.sqrt(parts.sum())
    freedom = parts.sum() ** 2 / (parts**2 / (np.array([control.n, treatment.n]) - 1)).sum() if error else math.inf
    return _difference(control.mean, treatment.mean, error, freedom, level, "welch")


def ratio(control: Sample, treatment: Sample, level: float = 0.95) -> Difference:
    """Difference of ratios Σy / Σx, whose unit is the user, by the delta method (Deng, Knoblich & Lu, KDD 2018).

    Raises DataError where the denominators of an arm sum to 0.
    """
    _check(control, treatment)
    values, variances = [], []
    for sample in (control, treatment):
        if sample.x == 0:
            raise DataError("the denominators of an arm sum to 0", remedy="a longer experiment, or another metric")
        value, mean_x = sample.y / sample.x, sample.x / sample.n
        spread = sample.variance - 2 * value * sample.covariance + value**2 * sample.variance_x
        values.append(value)
        variances.append(max(spread, 0.0) / mean_x**2 / sample.n)
    return _difference(values[0], values[1], math.sqrt(sum(variances)), math.inf, level, "delta method")


def difference_of_ratios(
    control_y: np.ndarray, control_x: np.ndarray, treatment_y: np.ndarray, treatment_x: np.ndarray, level: float = 0.95
) -> Difference:
    """Difference of Σy / Σx, where a unit may have a part in both arms, by the delta method over the units.

    So it is where arms are drawn anew for each unit now and then: y and x are weighted by the inverse of the
    probability of the arm (Hájek's estimator), and 0 where the unit did not have the arm.

    Parameters
    ----------
    control_y, control_x, treatment_y, treatment_x: float[n], of each unit.

    Raises DataError where the denominators of an arm sum to 0.
    """
    n = len(control_y)
    totals = [float(control_x.sum()), float(treatment_x.sum())]
    if n < MIN_UNITS or min(totals) == 0:
        raise DataError("an arm has no units, or denominators that sum to 0", remedy="wait for more")
    values = [float(y.sum()) / total for y, total in zip((control_y, treatment_y), totals)]
    parts = (treatment_y - values[1] * treatment_x) / totals[1] - (control_y - values[0] * control_x) / totals[0]
    error = math.sqrt(float(parts @ parts) * n / (n - 1))
    return _difference(values[0], values[1], error, math.inf, level, "inverse probabilities")


def cuped(control: Sample, treatment: Sample, level: float = 0.95) -> Difference:
    """Difference of means, less what x from before the experiment explains (Deng, Xu, Kohavi & Walker, WSDM 2013).

    θ = cov(y, x) / var(x) over both arms; the variance falls by the factor 1 - ρ².
    """
    _check(control, treatment)
    within_x = control.variance_x * (control.n - 1) + treatment.variance_x * (treatment.n - 1)
    within_xy = control.covariance * (control.n - 1) + treatment.covariance * (treatment.n - 1)
    theta = within_xy / within_x if within_x > 0 else 0.0
    overall = (control.x + treatment.x) / (control.n + treatment.n)
    means, variances = [], []
    for sample in (control, treatment):
        means.append(sample.mean - theta * (sample.x / sample.n - overall))
        spread = sample.variance - 2 * theta * sample.covariance + theta**2 * sample.variance_x
        variances.append(max(spread, 0.0) / sample.n)
    return _difference(means[0], means[1], math.sqrt(sum(variances)), math.inf, level, "cuped")


def always_valid(difference: Difference, control: Sample, treatment: Sample, planned_units: int) -> Difference:
    """The same difference with an interval and p-value that hold however often, and whenever, somebody looks.

    A normal mixture (Howard et al., Annals of Statistics 2021; the mSPRT of Johari, Pekelis & Walsh, 2015).

    Parameters
    ----------
    planned_units: units of both arms at which the interval is to be narrowest; fixed before the experiment begins.
    """
    if planned_units < MIN_UNITS:
        raise ConfigError(f"planned_units = {planned_units}", remedy="the number of units that are expected in all")
    alpha, n = 1 - difference.level, control.n + treatment.n
    variance = difference.standard_error**2 * n  # of one unit's part of the difference
    rho = normal_mixture_rho(planned_units * variance, alpha)
    if variance == 0:
        return dataclasses.replace(difference, method=f"always valid, {difference.method}")
    half = normal_mixture_bound(n * variance, rho, alpha) / n
    evidence = normal_log_mixture(n * difference.estimate, n * variance, rho)
    return dataclasses.replace(
        difference,
        low=difference.estimate - half,
        high=difference.estimate + half,
        p_value=min(1.0, math.exp(-evidence)) if evidence > -700 else 1.0,
        method=f"always valid, {difference.method}",
    )


def sample_ratio_p_value(units: Sequence[int], weights: Sequence[float]) -> float:
    """Chi-square p-value of the numbers of units in the arms, given their weights (Fabijan et al., KDD 2019).

    Below .001 the assignment or the log is broken, and no comparison of the arms means anything.
    """
    counts, shares = np.asarray(units, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if counts.shape != shares.shape or len(counts) < 2 or (shares <= 0).any() or counts.sum() <= 0:
        raise DataError("units and weights of the arms do not fit", remedy="one number > 0 of each an arm")
    return float(stats.chisquare(counts, counts.sum() * shares / shares.sum()).pvalue)


def _difference(
    control: float, treatment: float, error: float, freedom: float, level: float, method: str
) -> Difference:
    if not 0 < level < 1:
        raise ConfigError(f"level = {level}", remedy="a confidence between 0 and 1, such as .95")
    estimate = treatment - control
    normal, upper = math.isinf(freedom), (1 + level) / 2
    half = float(special.ndtri(upper) if normal else special.stdtrit(freedom, upper)) * error
    p_value = float(estimate == 0)
    if error:
        z = -abs(estimate) / error
        p_value = 2 * float(special.ndtr(z) if normal else special.stdtr(freedom, z))
    return Difference(estimate, estimate - half, estimate + half, p_value, control, treatment, error, level, method)


def _check(*samples: Sample) -> None:
    if min(sample.n for sample in samples) < MIN_UNITS:
        raise DataError("an arm has fewer than two units", remedy="wait for more")
