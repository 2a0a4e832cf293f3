"""Thompson sampling in two stages: draws of a posterior, then a choice drawn by how often each action was best.

The probability that a Thompson sampler chooses an action has no closed form, and an estimate of it by other draws than
those of the choice is biased as a propensity. Here draws of the posterior give the share of them in which each action
is best, and the choice is drawn from these shares: they are its exact probabilities.
"""

from __future__ import annotations

import abc
import dataclasses

import numpy as np

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import list_length, param
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.policy import Policy, SlateChoices
from zhiyin.policies.probabilities import draw_one, slot_seed
from zhiyin.policies.slot_probabilities import DRAWS, SlotValues
from zhiyin.policies.thompson_shares import shares_of_draws

# Decisions whose drawn values lie in memory at once, a thread: with 200 actions and 100 draws they fit the L2 cache.
_DECISIONS_PER_CHUNK = 4


@dataclasses.dataclass
class ThompsonPolicy(Policy):
    """p_a = share of the posterior draws in which the value of action a is the highest. A subclass gives `_sample`."""

    draws: int = param(100, "posterior draws a decision: more give finer probabilities", at_least=1, at_most=100_000)

    @abc.abstractmethod
    def _sample(self, sets: ActionSets, seeds: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Values of the actions of the decisions [start, stop) in each draw, float32 or float64[draws, actions]."""

    def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        out = np.empty(len(sets.actions))

        def work(start: int, stop: int) -> None:
            _shares_of_decisions(self._sample(sets, seeds, start, stop), sets.offsets, out, start, stop)

        for_chunks(work, len(seeds), run, _DECISIONS_PER_CHUNK)
        return out

    def slot_values(self, sets: ActionSets, seeds: np.ndarray) -> SlotValues | None:
        """The draws of the posterior: all slots of a list share them."""
        return SlotValues.of(DRAWS, self._sample(self._prepare(sets), seeds, 0, len(seeds)))

    def choose_slates(
        self, sets: ActionSets, k: int, seeds: np.ndarray | None = None, run: Run | None = None
    ) -> SlateChoices:
        """Fill k slots one after the other, each by the shares of the same draws among the actions that are left."""
        k, seeds, run = list_length(k), self._checked_seeds(sets, seeds), run or Run(threads=1)
        eligible, origin = self._prepare(sets).eligible()
        rows = np.full((len(seeds), k), -1, dtype=np.int64)
        propensities = np.zeros((len(seeds), k))

        def work(start: int, stop: int) -> None:
            values = self._sample(eligible, seeds, start, stop)
            _fill_slots(values, eligible.offsets, self.floor, seeds, rows, propensities, start, stop)

        for_chunks(work, len(seeds), run, _DECISIONS_PER_CHUNK)
        return SlateChoices.of(rows if origin is None else np.where(rows >= 0, origin[rows], -1), propensities)


@kernel
def _shares_of_decisions(values, offsets, out, start, stop):
    base = offsets[start]
    taken = np.zeros(offsets[stop] - base, dtype=np.bool_)
    shares = np.empty(len(taken))
    for r in range(start, stop):
        shares_of_draws(values, offsets[r] - base, offsets[r + 1] - base, taken, shares)
    out[base : offsets[stop]] = shares


@kernel
def _fill_slots(values, offsets, floor, seeds, rows, propensities, start, stop):
    base = offsets[start]
    taken = np.zeros(offsets[stop] - base, dtype=np.bool_)
    shares = np.empty(len(taken))
    for r in range(start, stop):
        first, last = offsets[r] - base, offsets[r + 1] - base
        for slot in range(min(rows.shape[1], last - first)):
            shares_of_draws(values, first, last, taken, shares)
            uniform = floor / (last - first - slot)
            for row in range(first, last):
                if floor > 0.0 and not taken[row]:
                    shares[row] = (1.0 - floor) * shares[row] + uniform
            chosen = draw_one(shares, first, last, slot_seed(seeds[r], np.uint64(slot)))
            rows[r, slot] = base + chosen
            propensities[r, slot] = shares[chosen]
            taken[chosen] = True
