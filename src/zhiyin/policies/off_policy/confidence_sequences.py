"""Boundaries that hold at all times at once: for results that someone may look at while the log grows.

Mixture boundaries of Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence
sequences", Annals of Statistics 2021. S is a sum of centred observations, v its intrinsic time (the sum of variances);
the probability that S ever exceeds the boundary is at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq
from scipy.special import gammainc, gammaincc, gammaln, log_ndtr

_FAR = 1e300


def normal_mixture_rho(v_opt: float, alpha: float) -> float:
    """The parameter with which the two-sided normal mixture is (nearly) narrowest at intrinsic time `v_opt`."""
    scale = 2 * math.log(1 / alpha)
    return v_opt / (scale + math.log(1 + scale))


def normal_mixture_bound(v: float, rho: float, alpha: float) -> float:
    """The two-sided boundary: |S| stays below it at every v, with probability at least 1 - alpha.

    This is the mixture sequential probability ratio test with a Gaussian prior.
    """
    return math.sqrt((v + rho) * (math.log1p(v / rho) + 2 * math.log(1 / alpha)))


def normal_log_mixture(s: float, v: float, rho: float) -> float:
    """The logarithm of the two-sided normal mixture martingale at sum `s` and intrinsic time `v`."""
    return 0.5 * math.log(rho / (v + rho)) + s * s / (2 * (v + rho))


def one_sided_normal_log_mixture(s: float, v: float, rho: float) -> float:
    """The logarithm of the one-sided (half-normal) mixture: grows with positive sums only."""
    return 0.5 * math.log(4 * rho / (v + rho)) + s * s / (2 * (v + rho)) + float(log_ndtr(s / math.sqrt(v + rho)))


def one_sided_normal_bound(v: float, rho: float, alpha: float) -> float:
    """The one-sided boundary: S stays below it at every v, with probability at least 1 - alpha."""
    return _crossing(lambda s: one_sided_normal_log_mixture(s, v, rho), math.log(1 / alpha), math.sqrt(v + rho))


def gamma_exponential_log_mixture(s: float, v: float, rho: float, scale: float) -> float:
    """The logarithm of the gamma-exponential mixture for sums that are sub-exponential with `scale`.

    A sum of observations in an interval of length `scale`, with v the sum of squared distances from predictions made
    before each observation, is such a sum (empirical Bernstein, theorem 4 of the paper).
    """
    prior = rho / scale**2
    posterior = (v + rho) / scale**2
    drift = (scale * s + v) / scale**2
    rate = drift + prior
    if rate <= 0:
        return -math.inf
    leading = prior * math.log(prior) - float(gammaln(prior)) - math.log(float(gammainc(prior, prior)))
    upper_tail = float(gammaincc(posterior, rate))
    mass = float(gammainc(posterior, rate))
    log_mass = math.log1p(-upper_tail) if mass > 0.5 else (math.log(mass) if mass > 0 else -math.inf)
    return leading + float(gammaln(posterior)) + log_mass - posterior * math.log(rate) + drift


def gamma_exponential_bound(v: float, rho: float, scale: float, alpha: float) -> float:
    """The one-sided boundary of sub-exponential sums: S stays below it at every v, with probability 1 - alpha."""
    return _crossing(
        lambda s: gamma_exponential_log_mixture(s, v, rho, scale), math.log(1 / alpha), math.sqrt(v + rho) + scale
    )


def _crossing(log_mixture: Callable[[float], float], threshold: float, step: float) -> float:
    """The sum at which an increasing log mixture reaches the threshold."""
    high = step
    while log_mixture(high) < threshold and high < _FAR:
        high *= 2
    return float(brentq(lambda s: log_mixture(s) - threshold, 0.0, high, xtol=1e-12, rtol=1e-12))
