"""Probabilities of a policy for one slot of a list, as a kernel: lists are filled without leaving compiled code.

A policy gives its numbers once a list (`Policy.slot_values`); for each slot they and the actions that are still allowed
make the probabilities, the same as `Policy.probabilities` with the other actions excluded.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import kernel
from zhiyin.policies.thompson_shares import shares_of_fewer

# What the values of a `SlotValues` are.
GREEDY, SOFTMAX, SQUARE_CB, DRAWS = range(4)


@dataclasses.dataclass(frozen=True, eq=False)
class SlotValues:
    """Numbers that the probabilities of any slot of n lists follow from; m actions in all.

    Parameters
    ----------
    rule: GREEDY, SOFTMAX, SQUARE_CB: one score an action; DRAWS: values of the actions in draws of a posterior.
    values: float64[draws, m]; one row where they are scores.
    parameters: float64[3]. SOFTMAX: the temperature. SQUARE_CB: scale, exponent, number of outcomes; a negative number
        of outcomes -t: γ does not grow with the number of actions.
    """

    rule: int
    values: np.ndarray
    parameters: np.ndarray

    @classmethod
    def of(cls, rule: int, values: np.ndarray, *parameters: float) -> SlotValues:
        """`values`: float[m] or float[draws, m]; missing parameters are 0."""
        numbers = np.zeros(3)
        numbers[: len(parameters)] = parameters
        return cls(rule, np.ascontiguousarray(np.atleast_2d(values), dtype=np.float64), numbers)


@kernel
def fill_slot_probabilities(rule, values, parameters, floor, first, last, barred, best_rows, out):
    """out[first:last]: the probability of each action of [first, last); exactly 0 where bool `barred`.

    At least one is not barred. The floor is shared by those that are not. best_rows: see `shares_of_fewer`.
    """
    n_allowed, best = 0, -np.inf
    for row in range(first, last):
        out[row] = 0.0
        if not barred[row]:
            n_allowed += 1
            best = max(best, values[0, row])
    if rule == 3:
        shares_of_fewer(values, first, last, barred, best_rows, out)
    elif rule == 1:
        total = 0.0
        for row in range(first, last):
            if not barred[row]:
                out[row] = np.exp((values[0, row] - best) / parameters[0])
                total += out[row]
        for row in range(first, last):
            out[row] /= total
    else:
        ties, others = 0, 0.0
        base = parameters[2] * n_allowed if parameters[2] >= 0.0 else -parameters[2]
        gamma = parameters[0] * base ** parameters[1]
        for row in range(first, last):
            if barred[row]:
                continue
            if values[0, row] == best:
                ties += 1
            elif rule == 2:
                out[row] = 1.0 / (n_allowed + gamma * (best - values[0, row]))
                others += out[row]
        for row in range(first, last):
            if not barred[row] and values[0, row] == best:
                out[row] = (1.0 - others) / ties
    if floor > 0.0:
        share = floor / n_allowed
        for row in range(first, last):
            if not barred[row]:
                out[row] = (1.0 - floor) * out[row] + share
