"""How far the probabilities of a slot may be from those of the greedy action, as kernels.

What they give is drawn from and logged. Probabilities are float64, those of one slot lie at [first, last).
"""

from __future__ import annotations

from zhiyin.core.parallel import kernel

# How far the probabilities of a slot may be from summing to 1.
TOLERANCE = 1e-9


@kernel
def slot_share(share, n_slots):
    """The probability that a slot may differ so that a list of n_slots differs with at most `share`."""
    return 1.0 - (1.0 - share) ** (1.0 / n_slots)


@kernel
def is_distribution(probabilities, first, last, barred):
    """Whether they are none below 0, sum to 1, and are exactly 0 where bool `barred`."""
    total = 0.0
    for at in range(first, last):
        p = probabilities[at]
        if not (p >= 0.0) or (barred[at] and p != 0.0):
            return False
        total += p
    return abs(total - 1.0) <= TOLERANCE


@kernel
def bar_losses(probabilities, first, expected, first_expected, n, greedy, most):
    """Give the greedy action the probability of those whose expected reward is more than `most` below its own.

    The n actions lie at [first, first + n) and [first_expected, first_expected + n); greedy: from 0.
    """
    for at in range(n):
        if at != greedy and expected[first_expected + greedy] - expected[first_expected + at] > most:
            probabilities[first + greedy] += probabilities[first + at]
            probabilities[first + at] = 0.0


@kernel
def limit_exploration(probabilities, first, last, greedy, bound):
    """Mix with the greedy action so that all others together have at most `bound`."""
    others = 0.0
    for at in range(first, last):
        if at != greedy:
            others += probabilities[at]
    if others <= bound:
        return
    left = 0.0
    for at in range(first, last):
        if at != greedy:
            probabilities[at] *= bound / others
            left += probabilities[at]
    probabilities[greedy] = 1.0 - left
