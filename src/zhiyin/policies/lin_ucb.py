"""LinUCB with one model for all actions (Li, Chu, Langford & Schapire, WWW 2010; shared parameters as in OFUL)."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import for_chunks
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.linear_policy import ScoredPolicy
from zhiyin.policies.probabilities import greedy_probabilities


@dataclasses.dataclass
class LinUCB(ScoredPolicy):
    """The action of the highest upper bound xᵀθ + α √(xᵀA⁻¹x).

    Without a `floor` the choice is deterministic, and a log of it says little about other policies.
    """

    alpha: float = param(0.5, "width of the bound in standard deviations", at_least=0, tune=(0.05, 4), log=True)

    def _scores(self, sets: ActionSets) -> np.ndarray:
        """float64[m], upper bounds; scores of the caller have none, and are not used."""
        posterior, features = self._posterior_of(sets)
        return posterior.expected(features) + self.alpha * posterior.deviation(features)

    def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        bounds, out = sets.scores, np.empty(len(sets.actions))
        for_chunks(lambda a, b: greedy_probabilities(bounds, sets.offsets, out, a, b), len(seeds), run)
        return out
