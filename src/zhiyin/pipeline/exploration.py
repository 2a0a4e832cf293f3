"""Exploration: with a known probability, one slot of a list goes to an item that did not make the list.

A policy is an input of `Rulebook.arrange`: it gets the replacements that satisfy every rule (`Replacements`) and
returns the probability of each. `explore` draws by them, so the propensities of a list are the probabilities
of the draw.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import kernel
from zhiyin.core.prng import uniform_of
from zhiyin.pipeline import slot_allocation
from zhiyin.pipeline.slate import Slates

# Candidates behind a list that are offered for each of its slots.
MAX_REPLACEMENTS_PER_SLOT = 50


@dataclasses.dataclass(frozen=True, eq=False)
class Replacements:
    """Replacements that satisfy every rule: of one item in a list of n requests by one that did not make it.

    Entries lie together by request, then by slot, the best item first: e in all. The item qualifies, and in its slot,
    with the rest of the list as it is, exceeds no cap, repeats no variant and takes no share below its minimum. Pinned
    slots are not among them.

    Parameters
    ----------
    n: requests.
    owners: int64[e], request of each entry.
    slots: int64[e], from 0.
    rows: int64[e], position of the item among the candidates.
    items: int32[e], item codes.
    scores: float32[e], scores of the items.
    current: int32[e], the item that has the slot now.
    """

    n: int
    owners: np.ndarray
    slots: np.ndarray
    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    current: np.ndarray

    def __len__(self) -> int:
        return len(self.owners)


class ExplorationPolicy(Protocol):
    """Chooses among replacements."""

    def __call__(self, replacements: Replacements) -> np.ndarray:
        """float64[e]: the probability of each replacement. At most one of a list takes place; with the remaining
        probability of a request its list stays as it is."""
        ...


@dataclasses.dataclass(frozen=True)
class OneSlot:
    """With probability `rate`, a slot is drawn uniformly from those that have replacements, then one of these."""

    rate: float

    def __call__(self, replacements: Replacements) -> np.ndarray:
        if not len(replacements):
            return np.zeros(0)
        owners, slots = replacements.owners, replacements.slots
        begins = np.flatnonzero(np.concatenate([[True], (np.diff(owners) != 0) | (np.diff(slots) != 0)]))
        sizes = np.diff(np.append(begins, len(owners)))
        open_slots = np.bincount(owners[begins], minlength=replacements.n)
        return self.rate / (open_slots[owners] * np.repeat(sizes, sizes))


def draw_replacements(
    replacements: Replacements, policy: ExplorationPolicy, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw by a policy: the chosen entries, int64, and the probability of every entry, float64[e].

    seeds: uint64[n]; the same seed draws the same. Raises DataError for probabilities that are none.
    """
    probabilities = np.asarray(policy(replacements), dtype=np.float64)
    if probabilities.shape != (len(replacements),) or not (probabilities >= 0).all():
        raise DataError("a policy gives no probabilities", remedy="one number from 0 to 1 for each replacement")
    sizes = np.bincount(replacements.owners, minlength=replacements.n)
    total = np.bincount(replacements.owners, weights=probabilities, minlength=replacements.n)
    if (total > 1 + 1e-9).any():
        raise DataError("the probabilities of a policy exceed 1", remedy="those of a request sum to at most 1")
    ends = np.cumsum(sizes)
    sums = np.concatenate([[0.0], np.cumsum(probabilities)])
    sums_before = sums[ends - sizes]
    uniform = uniforms(np.asarray(seeds, dtype=np.uint64))
    takes = np.flatnonzero((uniform < total) & (sizes > 0))
    at = np.searchsorted(sums, sums_before[takes] + uniform[takes], side="right") - 1
    # Rounding may reach the next request, or an entry that has no probability.
    at = np.clip(at, (ends - sizes)[takes], ends[takes] - 1)
    at = at[probabilities[at] > 0]
    return at, probabilities


@dataclasses.dataclass(frozen=True, eq=False)
class Exploration:
    """What a policy changed of lists.

    Parameters
    ----------
    propensities: float64 of all places of the lists.
    places: int64, places whose item was replaced, among the places of all lists.
    displaced: int32, the items that had them.
    """

    propensities: np.ndarray
    places: np.ndarray
    displaced: np.ndarray


def explore(
    slates: Slates,
    assignment: slot_allocation.SlotAssignment,
    constraints: slot_allocation.Constraints,
    policy: ExplorationPolicy,
    seeds: np.ndarray | None,
) -> Exploration:
    """Draw replacements by a policy and write them into `assignment`. seeds: uint64[n]; None: zeros."""
    counts, rows = slot_allocation.allowed_replacements(
        slates.offsets, assignment, constraints, MAX_REPLACEMENTS_PER_SLOT
    )
    owners, slots = np.divmod(np.repeat(np.arange(counts.size), counts.ravel()), counts.shape[1])
    current = slates.items[assignment.rows[owners, slots]]
    replacements = Replacements(len(slates), owners, slots, rows, slates.items[rows], slates.scores[rows], current)
    seeds = np.zeros(len(slates), np.uint64) if seeds is None else seeds
    chosen, probabilities = draw_replacements(replacements, policy, seeds)
    propensities = np.ones(counts.shape)
    np.subtract.at(propensities, (owners, slots), probabilities)
    propensities = np.maximum(propensities, 0.0)
    propensities[owners[chosen], slots[chosen]] = probabilities[chosen]
    filled = assignment.rows >= 0
    place = np.cumsum(filled.ravel()).reshape(filled.shape) - 1
    assignment.rows[owners[chosen], slots[chosen]] = rows[chosen]
    assignment.reasons[owners[chosen], slots[chosen]] = slot_allocation.BY_POLICY
    return Exploration(propensities[filled], place[owners[chosen], slots[chosen]], current[chosen])


@kernel
def uniforms(seeds):
    """float64[n] in [0, 1): a number for each seed, the same for the same seed."""
    out = np.empty(len(seeds))
    for row in range(len(seeds)):
        out[row] = uniform_of(mix(mix(seeds[row] + GOLDEN) ^ GOLDEN))
    return out
