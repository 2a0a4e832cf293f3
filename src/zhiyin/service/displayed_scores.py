"""Scores of lists, of log scores: the one place that decides which items are of equal score.

A log score is log2 of a sum of weights that halve with every half-life, as of 1970; see `store.stream_definitions`.
"""

from __future__ import annotations

import numpy as np

# Log scores are rounded to multiples of this. The same events summed in another order, as streams do, give a log score
# that differs by the rounding of float64: 4e-12 for a sum, and less than 1e-8 for any number of them. Rounded, items
# with the same events are of equal score whoever has summed, and equal scores are ordered by popularity everywhere.
# It is more than the rounding of float32, relative 1.2e-7, so scores that differ here differ as float32, too.
LOG_SCORE_STEP = 2.0**-20
# The largest score of a list is at least 2 to the power of this, so that months without events leave an order.
_MIN_LARGEST = -64.0


def displayed_scores(log_scores: np.ndarray, now: int, half_life: int) -> np.ndarray:
    """float32[n]: the sums of weights that log scores, float64[n], stand for, as of now.

    Parameters
    ----------
    now: microseconds UTC. half_life: microseconds.
    """
    if not len(log_scores):
        return np.zeros(0, dtype=np.float32)
    exponents = _rounded(log_scores) - now / half_life
    exponents += max(0.0, _MIN_LARGEST - float(exponents.max()))
    return np.exp2(exponents).astype(np.float32)


def relative_scores(log_scores: np.ndarray) -> np.ndarray:
    """float64[n]: scores, from above 0 to 1, as multiples of the largest one. log_scores: float64[n], n > 0."""
    rounded = _rounded(log_scores)
    return np.exp2(rounded - rounded.max())


def _rounded(log_scores: np.ndarray) -> np.ndarray:
    return np.round(log_scores / LOG_SCORE_STEP) * LOG_SCORE_STEP
