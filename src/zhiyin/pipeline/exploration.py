"""Exploration: now and then one slot of a list goes to an item that did not make it, with a known probability.

A policy is an input of the arranging step (`Rulebook.arrange`): it gets the replacements that keep every rule of the
list (`Openings`) and gives the probability of each; the arranging step draws by them, so that the propensities of a
list are the probabilities that it was drawn with.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import kernel

# Candidates behind a list that may take each of its slots.
TAIL = 50


@dataclasses.dataclass(frozen=True, eq=False)
class Openings:
    """Replacements that keep every rule: one item of a list of n requests by one that did not make it.

    Entries lie together by request, then by slot, the best item first: e in all. The item qualifies, and in its slot,
    with the rest of the list as it is, exceeds no cap, repeats no variant and takes no share below its minimum. Pinned
    slots are not among them.

    Parameters
    ----------
    n: requests. owners: int64[e], request of each entry. slots: int64[e], from 0. rows: int64[e], the item's place
        among the candidates.
    items: int32[e], item codes. scores: float32[e], what the items are worth. present: int32[e], who has the slot now.
    """

    n: int
    owners: np.ndarray
    slots: np.ndarray
    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    present: np.ndarray

    def __len__(self) -> int:
        return len(self.owners)


class Policy(Protocol):
    """Chooses among replacements."""

    def __call__(self, openings: Openings) -> np.ndarray:
        """float64[e]: the probability of each replacement, at most one a list; with what a request's probabilities lack
        of 1 its list stays as it is."""
        ...


@dataclasses.dataclass(frozen=True)
class OneSlot:
    """With probability `rate` one slot is drawn evenly from those that have a replacement, and evenly one of these."""

    rate: float

    def __call__(self, openings: Openings) -> np.ndarray:
        if not len(openings):
            return np.zeros(0)
        owners, slots = openings.owners, openings.slots
        begins = np.flatnonzero(np.concatenate([[True], (np.diff(owners) != 0) | (np.diff(slots) != 0)]))
        sizes = np.diff(np.append(begins, len(owners)))
        open_slots = np.bincount(owners[begins], minlength=openings.n)
        return self.rate / (open_slots[owners] * np.repeat(sizes, sizes))


def drawn(openings: Openings, policy: Policy, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw by a policy: which entries take place, int64, and the probability of every entry, float64[e].

    seeds: uint64[n]; the same seed draws the same. Raises DataError for probabilities that are none.
    """
    chances = np.asarray(policy(openings), dtype=np.float64)
    if chances.shape != (len(openings),) or not (chances >= 0).all():
        raise DataError("a policy gives no probabilities", remedy="one number from 0 to 1 for each replacement")
    sizes = np.bincount(openings.owners, minlength=openings.n)
    total = np.bincount(openings.owners, weights=chances, minlength=openings.n)
    if (total > 1 + 1e-9).any():
        raise DataError("the probabilities of a policy exceed 1", remedy="those of a request sum to at most 1")
    ends = np.cumsum(sizes)
    sums = np.concatenate([[0.0], np.cumsum(chances)])
    begun = sums[ends - sizes]
    uniform = uniforms(np.asarray(seeds, dtype=np.uint64))
    takes = np.flatnonzero((uniform < total) & (sizes > 0))
    at = np.searchsorted(sums, begun[takes] + uniform[takes], side="right") - 1
    # Rounding may reach the next request, or an entry that has no probability.
    at = np.clip(at, (ends - sizes)[takes], ends[takes] - 1)
    at = at[chances[at] > 0]
    return at, chances


@kernel
def uniforms(seeds):
    """float64[n] in [0, 1): a number for each seed, the same for the same seed."""
    out = np.empty(len(seeds))
    for row in range(len(seeds)):
        out[row] = np.float64(mix(mix(seeds[row] + GOLDEN) ^ GOLDEN) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
    return out
