"""How often each action is the best in draws of a posterior: the probabilities of two-stage Thompson sampling."""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import kernel


@kernel
def shares_of_fewer(values, first, last, taken, best_rows, out):
    """As `shares_of_draws`, of the same draws, slot after slot, with ever more actions taken.

    best_rows: int64[draws], the best action of each draw as of the call before; -1 where it is not known, or where
        several are. Only draws whose best action is taken now are looked through again.
    """
    for row in range(first, last):
        out[row] = 0.0
    for draw in range(len(values)):
        known = best_rows[draw]
        if known >= 0 and not taken[known]:
            out[known] += 1.0
            continue
        best, ties = -np.inf, 0
        for row in range(first, last):
            if not taken[row]:
                value = values[draw, row]
                if value > best:
                    best, ties, known = value, 1, row
                elif value == best:
                    ties += 1
        if ties == 1:
            best_rows[draw] = known
            out[known] += 1.0
            continue
        best_rows[draw] = -1
        share = 1.0 / ties
        for row in range(first, last):
            if values[draw, row] == best and not taken[row]:
                out[row] += share
    for row in range(first, last):
        out[row] /= len(values)


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
