"""How sure a figure is: bootstrap intervals over users, paired tests against the best, Holm's correction."""

from __future__ import annotations

from functools import partial

import numpy as np

from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run

_BLOCK_BYTES = 64 * 2**20
_STREAM = 211


def bootstrap_interval(
    values: np.ndarray, run: Run, rounds: int = 1000, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the mean over users: (low[m], high[m]) of values [n, m], one row a user.

    The quantiles (1 ± level) / 2 of the means of `rounds` draws of n users with replacement; all columns
    share their draws. NaN is left out of the mean. Needs 64 MiB beside the values. Efron & Tibshirani, An
    introduction to the bootstrap, 1993, ch. 13.
    """
    values = np.asarray(values, dtype=np.float64)
    n, m = values.shape
    if not n:
        return np.full(m, np.nan), np.full(m, np.nan)
    missing = np.isnan(values)
    some = np.flatnonzero(missing.any(axis=0))
    # One product gives the sums of all columns and, where values are missing, how many were there.
    table = np.hstack([np.where(missing, 0.0, values), ~missing[:, some]])
    key = run.rng(_STREAM).integers(2**63, dtype=np.uint64)
    means = np.empty((rounds, m))
    block = min(rounds, max(1, _BLOCK_BYTES // (8 * n)))
    counts = np.empty((block, n))
    for first in range(0, rounds, block):
        size = min(block, rounds - first)
        for_chunks(partial(_draw, counts, key, first), size, run, chunk=1)
        sums = counts[:size] @ table
        present = np.full((size, m), float(n))
        present[:, some] = sums[:, m:]
        with np.errstate(invalid="ignore"):
            means[first : first + size] = sums[:, :m] / present
    tails = [(1 - level) / 2, (1 + level) / 2]
    # A column may be empty in a draw or altogether; a whole column of NaN stays NaN.
    empty = np.isnan(means).all(axis=0)
    low, high = np.full(m, np.nan), np.full(m, np.nan)
    if not empty.all():
        low[~empty], high[~empty] = np.nanquantile(means[:, ~empty], tails, axis=0)
    return low, high


def paired_tests(values: dict[str, np.ndarray], best: str) -> dict[str, float]:
    """p of each other model against the best: two-sided paired t-tests over users, corrected by `holm`.

    t = mean(d) / (sd(d) / √n) with n - 1 degrees of freedom, d the differences of the users that have both
    values. Differences that are all equal, or fewer than two, cannot be tested: p = 1. With hundreds of users
    the t-test agrees with randomisation tests: Smucker, Allan & Carterette, A comparison of statistical
    significance tests, CIKM 2007.
    """
    others = [name for name in values if name != best]
    return dict(zip(others, holm(np.array([_paired(values[best] - values[name]) for name in others])).tolist()))


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


def _paired(differences: np.ndarray) -> float:
    """Two-sided p of the t-test that the mean difference is zero."""
    from scipy.special import stdtr

    d = differences[~np.isnan(differences)]
    if len(d) < 2 or np.ptp(d) <= 1e-12 * np.abs(d).max():
        return 1.0
    t = d.mean() / (d.std(ddof=1) / np.sqrt(len(d)))
    return float(2 * stdtr(len(d) - 1, -abs(t)))


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
