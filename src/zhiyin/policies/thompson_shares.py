"""How often each action is the best in draws of a posterior: the probabilities of two-stage Thompson sampling."""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import kernel


@kernel
def shares_of_draws(values, first, last, taken, out):
    """out[first:last]: share of the draws in which each action that is not taken has the highest value; ties share."""
    for row in range(first, last):
        out[row] = 0.0
    for draw in range(len(values)):
        best = -np.inf
        for row in range(first, last):
            best = max(best, -np.inf if taken[row] else values[draw, row])
        ties = 0
        for row in range(first, last):
            ties += values[draw, row] == best and not taken[row]
        share = 1.0 / ties
        for row in range(first, last):
            if values[draw, row] == best and not taken[row]:
                out[row] += share
    for row in range(first, last):
        out[row] /= len(values)
