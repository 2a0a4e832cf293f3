"""Statistical significance: bootstrap intervals, paired tests against the best, Holm's correction, sample sizes.

The unit of all of them is the user. A user who was evaluated in several windows has several dependent rows; `groups`
holds the user of each row, and the rows of a user are drawn, and counted, together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
from scipy import sparse

from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run

_BLOCK_BYTES = 64 * 2**20
_STREAM = 211


def bootstrap_interval(
    values: np.ndarray,
    run: Run,
    rounds: int = 1000,
    level: float = 0.95,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the mean over rows: (low[m], high[m]) of values [n, m].

    The quantiles of the means of `rounds` draws of users with replacement, each with all of their rows (the cluster
    bootstrap); all columns share their draws. NaN is left out of the mean. The quantiles are (1 ± level) / 2, moved out
    by what few users need: Φ(-t √(g / (g - 1))) for g users, t the quantile of Student's t with g - 1 degrees of
    freedom. Needs 64 MiB beside the values. Efron & Tibshirani, An introduction to the bootstrap, 1993, ch. 13; Davison
    & Hinkley, Bootstrap methods and their application, 1997, 3.8 (clusters); Hesterberg, What teachers should know
    about the bootstrap, The American Statistician 2015 (few rows).

    Parameters
    ----------
    rounds: 0 gives no interval: NaN.
    groups: [n], whose each row is, of any type that can be sorted; None where each row is another user's.
    """
    values = np.asarray(values, dtype=np.float64)
    n, m = values.shape
    low, high = np.full(m, np.nan), np.full(m, np.nan)
    if not n or not rounds:
        return low, high
    missing = np.isnan(values)
    some = np.flatnonzero(missing.any(axis=0))
    # One product gives the sums of all columns and of how many rows they are: of all, and where values are missing.
    table = np.hstack([np.where(missing, 0.0, values), np.ones((n, 1)), ~missing[:, some]])
    if groups is not None:
        table = _by_group(groups) @ table
    users = len(table)
    key = run.rng(_STREAM).integers(2**63, dtype=np.uint64)
    means = np.empty((rounds, m))
    block = min(rounds, max(1, _BLOCK_BYTES // (8 * users)))
    counts = np.empty((block, users))
    for first in range(0, rounds, block):
        size = min(block, rounds - first)
        for_chunks(partial(_draw, counts, key, first), size, run, chunk=1)
        sums = counts[:size] @ table
        present = np.repeat(sums[:, m : m + 1], m, axis=1)
        present[:, some] = sums[:, m + 1 :]
        with np.errstate(invalid="ignore"):
            means[first : first + size] = sums[:, :m] / present
    # A column may be empty in a draw or altogether; a whole column of NaN stays NaN.
    empty = np.isnan(means).all(axis=0)
    if not empty.all():
        low[~empty], high[~empty] = np.nanquantile(means[:, ~empty], _tails(level, users), axis=0)
    return low, high


def standard_error(values: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float, int]:
    """(mean, its standard error, number of users) of values [n]; NaN is left out.

    The mean over rows is a ratio of sums over users, Σ y_u / Σ n_u; its error is that of the linearised ratio,
    √(g / (g - 1) Σ (y_u - mean n_u)²) / Σ n_u, for g users: the usual s / √n where each user has one row. Infinite for
    fewer than two users.
    """
    values = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(values)
    values = values[there]
    if not len(values):
        return math.nan, math.inf, 0
    mean = float(values.mean())
    rest = values - mean
    if groups is not None:
        rest = _by_group(np.asarray(groups)[there]) @ rest
    users = len(rest)
    if users < 2:
        return mean, math.inf, users
    return mean, float(np.sqrt(users / (users - 1) * (rest @ rest))) / len(values), users


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values, float64[n], and its interval by Student's t; NaN for both ends where n = 1."""
    from scipy.stats import t as t_distribution  # takes a while to import

    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(t_distribution.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def paired_tests(values: Mapping[str, np.ndarray], best: str, groups: np.ndarray | None = None) -> dict[str, float]:
    """p of each other model against the best: two-sided paired t-tests over users, corrected by `holm`.

    t = mean(d) / se(d) with g - 1 degrees of freedom, d the differences of the rows that have both values, se as in
    `standard_error`, g the number of users. Differences that are all equal, or of fewer than two users, cannot be
    tested: p = 1. With hundreds of users the t-test agrees with randomisation tests: Smucker, Allan & Carterette, A
    comparison of statistical significance tests, CIKM 2007.
    """
    others = [name for name in values if name != best]
    raw = [_paired(values[best] - values[name], groups) for name in others]
    return dict(zip(others, holm(np.array(raw)).tolist()))


def holm(p: np.ndarray) -> np.ndarray:
    """p values adjusted for being m tests: p̃_(i) = max_{j<=i} min(1, (m - j + 1) p_(j)), in the order given.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def users_needed(deviation: float, distance: float, level: float = 0.95, power: float = 0.8) -> int | None:
    """How many users it takes for the low end of an interval to lie above a bound, with this probability.

    n = ((z_(1 + level) / 2 + z_power) deviation / distance)², rounded up, at least 2; None where the mean is not above
    the bound, so that no number of users would do.

    Parameters
    ----------
    deviation: the standard deviation of one user's value; distance: how far the true mean lies above the bound.

    >>> users_needed(0.1, 0.01)
    785
    """
    from scipy.special import ndtri

    if not distance > 0:
        return None
    root = (ndtri((1 + level) / 2) + ndtri(power)) * deviation / distance
    return max(2, math.ceil(root**2)) if root < 1e9 else None


def _tails(level: float, users: int) -> list[float]:
    """The quantiles of an interval, as wide as so many users need."""
    from scipy.special import ndtr, stdtrit

    tail = (1 - level) / 2
    if users > 1:
        tail = float(ndtr(stdtrit(users - 1, tail) * math.sqrt(users / (users - 1))))
    return [tail, 1 - tail]


def _by_group(groups: np.ndarray) -> sparse.csr_matrix:
    """[g, n]: sums the rows of each group."""
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    n = len(codes)
    return sparse.csr_matrix((np.ones(n), (codes, np.arange(n))), shape=(int(codes.max(initial=-1)) + 1, n))


def _paired(differences: np.ndarray, groups: np.ndarray | None) -> float:
    """Two-sided p of the t-test that the mean difference is zero."""
    from scipy.special import stdtr

    mean, error, users = standard_error(differences, groups)
    d = differences[~np.isnan(differences)]
    if users < 2 or np.ptp(d) <= 1e-12 * np.abs(d).max() or not error > 0:
        return 1.0
    return float(2 * stdtr(users - 1, -abs(mean / error)))


@kernel
def _draw(counts: np.ndarray, key: np.uint64, first: int, start: int, stop: int) -> None:
    """counts[r, u] = how often draw `first` + r took user u, in n draws.

    SplitMix64, a stream a draw: the answer depends on the seed, not on threads or blocks. Steele, Lea &
    Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    n = counts.shape[1]
    for row in range(start, stop):
        counts[row] = 0.0
        state = mix(key + np.uint64(first + row))
        for _ in range(n):
            state += GOLDEN
            # The upper 32 bits times n, again its upper half: uniform on [0, n) up to n / 2^32.
            counts[row, ((mix(state) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)] += 1.0
