"""Exposure targets: what share of all exposure a group had over many lists, and what that means for the next one.

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

# A deficit counts up to so many lists: a target that cannot be reached does not push harder for ever.
MOST = 100.0


class Target(Protocol):
    """`rules.Exposure`, as far as it is needed here."""

    @property
    def target(self) -> float: ...


def deficits(targets: Sequence[Target], sums: np.ndarray) -> np.ndarray:
    """float64[groups]: lists' worth of exposure that each group lacks of its target; negative: it has more.

    sums: float64[groups, 3], the group's exposure, all exposure, lists.
    """
    sums = np.asarray(sums, dtype=np.float64).reshape(len(targets), 3)
    got, total, lists = sums.T
    wanted = np.array([target.target for target in targets], dtype=np.float64)
    lacks = np.zeros(len(targets))
    some = (total > 1e-12) & (lists > 1e-12)
    lacks[some] = (wanted[some] * total[some] - got[some]) * lists[some] / total[some]
    return np.clip(lacks, -MOST, MOST)


def weights_of(places: np.ndarray) -> np.ndarray:
    """float64[m]: exposure of places from 0."""
    return 1 / np.log2(np.asarray(places) + 2.0)
