"""Kernels for probabilities of actions: ε floor, greedy, softmax, SquareCB, draws, Plackett–Luce.

Actions of n decisions lie one after the other, those of decision r at [offsets[r], offsets[r + 1]). Each kernel works
on the decisions [start, stop) and writes float64 probabilities that sum to 1 for each of them.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import compiled, kernel
from zhiyin.core.prng import uniform_of

# Streams of random numbers of one seed that must not depend on each other.
CHOICE_STREAM, POSTERIOR_STREAM, GUMBEL_STREAM = np.uint64(1), np.uint64(2), np.uint64(3)


@kernel
def stream_state(seed, stream):
    """uint64, not 0: the state of a random generator of one of the streams of a seed."""
    return mix(mix(seed + stream * GOLDEN) ^ GOLDEN) | np.uint64(1)


@kernel
def slot_seed(seed, slot):
    """The seed that a slot of a slate draws with; that of slot 0 is the decision's. Also for arrays of seeds."""
    return seed + slot * np.uint64(0xD1B54A32D192ED03)


@kernel
def mix_floor(probabilities, offsets, floor, start, stop):
    """p ← (1 - floor) p + floor / K, with K actions in the decision."""
    if floor == 0.0:
        return
    for r in range(start, stop):
        first, last = offsets[r], offsets[r + 1]
        share = floor / (last - first)
        for row in range(first, last):
            probabilities[row] = (1.0 - floor) * probabilities[row] + share


@partial(compiled, inline="always")  # as a call it is slower
def _best_score(scores, first, last):
    """The best score of the rows [first, last), and how many rows have it."""
    best, ties = scores[first], 0
    for row in range(first, last):
        if scores[row] > best:
            best, ties = scores[row], 1
        elif scores[row] == best:
            ties += 1
    return best, ties


@kernel
def greedy_probabilities(scores, offsets, out, start, stop):
    """1 for the best score; ties share it."""
    for r in range(start, stop):
        first, last = offsets[r], offsets[r + 1]
        best, ties = _best_score(scores, first, last)
        for row in range(first, last):
            out[row] = 1.0 / ties if scores[row] == best else 0.0


@kernel
def softmax_probabilities(scores, offsets, temperature, out, start, stop):
    """p_a ∝ exp(score_a / temperature)."""
    for r in range(start, stop):
        first, last = offsets[r], offsets[r + 1]
        best = scores[first]
        for row in range(first + 1, last):
            best = max(best, scores[row])
        total = 0.0
        for row in range(first, last):
            out[row] = np.exp((scores[row] - best) / temperature)
            total += out[row]
        for row in range(first, last):
            out[row] /= total


@kernel
def square_cb_probabilities(scores, offsets, gamma, out, start, stop):
    """p_a = 1 / (K + γ (best - score_a)) for all but the best, which has the rest; ties share it.

    Foster & Rakhlin (ICML 2020), algorithm 1. gamma: float64[n], γ of each decision, >= 0.
    """
    for r in range(start, stop):
        first, last = offsets[r], offsets[r + 1]
        best, ties = _best_score(scores, first, last)
        size, others = np.float64(last - first), 0.0
        for row in range(first, last):
            out[row] = 1.0 / (size + gamma[r] * (best - scores[row]))
            others += 0.0 if scores[row] == best else out[row]
        for row in range(first, last):
            if scores[row] == best:
                out[row] = (1.0 - others) / ties


@kernel
def draw(probabilities, offsets, seeds, rows, start, stop):
    """rows[r]: the row of an action drawn by the probabilities, by inversion. The same seed draws the same."""
    for r in range(start, stop):
        first, last = offsets[r], offsets[r + 1]
        rows[r] = draw_one(probabilities, first, last, seeds[r])


@kernel
def draw_one(probabilities, first, last, seed):
    """A row of [first, last) drawn by the probabilities, by inversion."""
    uniform = uniform_of(mix(stream_state(seed, CHOICE_STREAM)))
    total, chosen = 0.0, -1
    for row in range(first, last):
        if probabilities[row] > 0.0:
            chosen = row  # the last one with a probability, where rounding leaves the sum below the number drawn
            total += probabilities[row]
            if uniform < total:
                break
    return chosen


@kernel
def plackett_luce(weights, offsets, k, seeds, rows, propensities, start, stop):
    """Slates of k actions without replacement by the Gumbel top-k trick (Kool et al., ICML 2019).

    Parameters
    ----------
    weights: float64[m], >= 0. An action of weight 0 is not drawn.
    rows: int64[n, k], set to the rows of the actions by slot, -1 behind the last.
    propensities: float64[n, k], set to the probability of each action in its slot, given the slots before it:
        w_a / (sum of the weights of those not yet drawn).
    """
    keys = np.empty(k)
    for r in range(start, stop):
        first, last = offsets[r], offsets[r + 1]
        state = stream_state(seeds[r], GUMBEL_STREAM)
        filled = 0
        for row in range(first, last):
            state += GOLDEN
            if weights[row] <= 0.0:
                continue
            uniform = uniform_of(mix(state)) + 2.0**-54
            key = np.log(weights[row]) - np.log(-np.log(uniform))
            if filled == k and key <= keys[k - 1]:
                continue
            slot = filled if filled < k else k - 1
            while slot > 0 and keys[slot - 1] < key:
                keys[slot], rows[r, slot] = keys[slot - 1], rows[r, slot - 1]
                slot -= 1
            keys[slot], rows[r, slot] = key, row
            filled = min(filled + 1, k)
        rows[r, filled:] = -1
        propensities[r, filled:] = 0.0
        # What is left is summed, not subtracted from the total: that would lose its digits.
        left = 0.0
        for row in range(first, last):
            drawn = False
            for slot in range(filled):
                drawn |= rows[r, slot] == row
            left += 0.0 if drawn else weights[row]
        for slot in range(filled - 1, -1, -1):
            left += weights[rows[r, slot]]
            propensities[r, slot] = weights[rows[r, slot]] / left
