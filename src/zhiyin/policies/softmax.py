"""Softmax (Boltzmann) exploration; its slates are Plackett–Luce."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import for_chunks
from zhiyin.core.params import list_length, param
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.linear_policy import ScoredPolicy
from zhiyin.policies.policy import SlateChoices
from zhiyin.policies.probabilities import plackett_luce, softmax_probabilities
from zhiyin.policies.slot_probabilities import SOFTMAX, SlotValues


@dataclasses.dataclass
class Softmax(ScoredPolicy):
    """p_a ∝ exp(score_a / temperature). A slate of k actions is drawn in one pass by the Gumbel top-k trick."""

    temperature: float = param(1.0, "0: greedy; large: uniform", at_least=1e-9, tune=(0.01, 10), log=True)

    def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        scores, out = sets.scores, np.empty(len(sets.actions))
        for_chunks(
            lambda a, b: softmax_probabilities(scores, sets.offsets, self.temperature, out, a, b), len(seeds), run
        )
        return out

    def slot_values(self, sets: ActionSets, seeds: np.ndarray) -> SlotValues | None:
        return SlotValues.of(SOFTMAX, self._scores(sets), self.temperature)

    def choose_slates(
        self, sets: ActionSets, k: int, seeds: np.ndarray | None = None, run: Run | None = None
    ) -> SlateChoices:
        """Plackett–Luce with the probabilities of the first slot as weights: those of later slots are in proportion."""
        run = run or Run(threads=1)
        k, seeds = list_length(k), self._checked_seeds(sets, seeds)
        weights = self.probabilities(sets, seeds, run)
        rows = np.full((len(seeds), k), -1, dtype=np.int64)
        propensities = np.zeros((len(seeds), k))
        for_chunks(
            lambda a, b: plackett_luce(weights, sets.offsets, k, seeds, rows, propensities, a, b), len(seeds), run
        )
        return SlateChoices.of(rows, propensities)
