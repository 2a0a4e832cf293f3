"""Exposure targets: the share of exposure that a group had over many lists, and the boost of the next list.

An item at place r (from 1) has exposure 1 / log2(r + 1). Of each target in `[rules] exposure` three sums are kept: the
group's exposure, all exposure, and lists; they halve every `half_life`. A group's deficit is what it lacks of its
target, counted in lists; it pushes the scores of the group's items until it is made up for, so the share comes out at
least at the target in the long run (the proportional controller of Morik et al., Controlling fairness and bias in
dynamic learning-to-rank, SIGIR 2020, with a target share in place of merit).

    sums = np.zeros((len(rules.exposure), 3))
    answer = answers.ask(Request(user="alice", deficits=deficits(rules.exposure, sums)))
    sums += answer.exposed

The service keeps the sums in the live state (`LiveState.tally`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from zhiyin.core.parallel import compiled

# Bound of a deficit: a target that cannot be reached does not push harder forever.
MAX_DEFICIT_LISTS = 100.0


class Target(Protocol):
    """`rules.Exposure`, as far as it is needed here."""

    @property
    def target(self) -> float: ...


def deficits(targets: Sequence[Target], sums: np.ndarray) -> np.ndarray:
    """float64[groups]: the exposure that each group lacks of its target, in lists; negative: it has more.

    sums: float64[groups, 3], the group's exposure, all exposure, lists.
    """
    sums = np.asarray(sums, dtype=np.float64).reshape(len(targets), 3)
    of_group, total, lists = sums.T
    target = np.array([target.target for target in targets], dtype=np.float64)
    deficit = np.zeros(len(targets))
    some = (total > 1e-12) & (lists > 1e-12)
    deficit[some] = (target[some] * total[some] - of_group[some]) * lists[some] / total[some]
    return np.clip(deficit, -MAX_DEFICIT_LISTS, MAX_DEFICIT_LISTS)


def exposure_weights(places: np.ndarray) -> np.ndarray:
    """float64[m]: exposure of places from 0."""
    return 1 / np.log2(np.asarray(places) + 2.0)


@compiled  # not `kernel`: sums in this order
def score_spread(values):
    """Standard deviation of scores; 1 where all are equal."""
    total = 0.0
    for value in values:
        total += value
    mean, square = total / max(1, len(values)), 0.0
    for value in values:
        square += (value - mean) ** 2
    deviation = np.sqrt(square / max(1, len(values)))
    return deviation if deviation > 0 else 1.0
