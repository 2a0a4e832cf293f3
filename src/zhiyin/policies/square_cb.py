"""SquareCB: inverse gap weighting over any scorer (Foster & Rakhlin, ICML 2020)."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import for_chunks
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.linear_policy import ScoredPolicy
from zhiyin.policies.probabilities import square_cb_probabilities
from zhiyin.policies.slot_probabilities import SQUARE_CB, SlotValues


@dataclasses.dataclass
class SquareCB(ScoredPolicy):
    """p_a = 1 / (K + γ (best - score_a)), the rest to the best; γ = scale · √(K t) after t outcomes.

    γ grows with what was learned, so that exploration fades. `by_actions` off gives VW's γ = scale · √t.
    """

    scale: float = param(4.0, "more: nearer to greedy", at_least=0, tune=(0.1, 1000), log=True)
    exponent: float = param(0.5, "growth of γ with the number of outcomes; 0: γ is the scale", at_least=0, at_most=1)
    by_actions: bool = param(True, "whether γ grows with the number of actions too")

    def gamma(self, n_actions: np.ndarray) -> np.ndarray:
        """float64[n]: γ of decisions among n_actions, int64[n]."""
        base = self.n_updates * n_actions if self.by_actions else np.full(len(n_actions), self.n_updates)
        return self.scale * np.power(base.astype(np.float64), self.exponent)

    def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        scores, out = sets.scores, np.empty(len(sets.actions))
        gamma = self.gamma(np.diff(sets.offsets))
        for_chunks(lambda a, b: square_cb_probabilities(scores, sets.offsets, gamma, out, a, b), len(seeds), run)
        return out

    def slot_values(self, sets: ActionSets, seeds: np.ndarray) -> SlotValues | None:
        n_outcomes = self.n_updates if self.by_actions else -self.n_updates
        return SlotValues.of(SQUARE_CB, self._scores(sets), self.scale, self.exponent, n_outcomes)
