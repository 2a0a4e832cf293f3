"""Slates of the greatest expected value where the user takes at most one item by weights of choice.

    value(A) = (s_0 q_0 + Σ_{i in A} s_i q_i) / (s_0 + Σ_{i in A} s_i)

The greedy method adds, slot by slot, the item after which this is greatest (Ie et al., arXiv:1905.12767, section 4.3).
The k best by s_i q_i are not such a slate: an item of low value takes choices away from the better ones.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run


def greedy_slates(
    weights: np.ndarray,
    null_weights: np.ndarray,
    values: np.ndarray,
    null_values: np.ndarray,
    k: int,
    run: Run | None = None,
) -> np.ndarray:
    """int64[n, k]: candidates by slot, of equals the earlier.

    Parameters
    ----------
    weights: float64[n, m], s >= 0.
    null_weights: float64[n], s_0 >= 0.
    values: float64[n, m], q.
    null_values: float64[n], q_0.
    k: <= m.
    """
    slates = np.empty((len(weights), k), dtype=np.int64)
    for_chunks(
        lambda a, b: _greedy_slates(weights, null_weights, values, null_values, slates, a, b),
        len(weights),
        run or Run(threads=1),
    )
    return slates


@kernel
def _greedy_slates(weights, null_weights, values, null_values, slates, start, stop):
    m, k = weights.shape[1], slates.shape[1]
    used = np.empty(m, dtype=np.bool_)
    for r in range(start, stop):
        used[:] = False
        numerator, denominator = null_weights[r] * null_values[r], null_weights[r]
        for slot in range(k):
            best, best_value = -1, -np.inf
            for item in range(m):
                if used[item]:
                    continue
                total = denominator + weights[r, item]
                value = null_values[r] if total == 0.0 else (numerator + weights[r, item] * values[r, item]) / total
                if best < 0 or value > best_value:
                    best, best_value = item, value
            used[best] = True
            slates[r, slot] = best
            numerator += weights[r, best] * values[r, best]
            denominator += weights[r, best]
