"""LinUCB with one model for all actions (Li, Chu, Langford & Schapire, WWW 2010; shared parameters as in OFUL)."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import for_chunks
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.linear_policy import LinearPolicy
from zhiyin.policies.probabilities import greedy_probabilities
from zhiyin.policies.slot_probabilities import GREEDY, SlotValues


@dataclasses.dataclass
class LinUCB(LinearPolicy):
    """The action of the highest upper bound xᵀθ + α √(xᵀA⁻¹x).

    Without a `floor` the choice is deterministic, and a log of it says little about other policies.
    """

    alpha: float = param(0.5, "width of the bound in standard deviations", at_least=0, tune=(0.05, 4), log=True)

    def _prepare(self, sets: ActionSets) -> ActionSets:
        """With upper bounds as scores; scores of the caller have no bounds, and are not used."""
        posterior, features = self._posterior_of(sets)
        bounds = posterior.expected(features) + self.alpha * posterior.deviation(features)
        return dataclasses.replace(sets, scores=bounds, features=None)

    def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        bounds, out = sets.scores, np.empty(len(sets.actions))
        for_chunks(lambda a, b: greedy_probabilities(bounds, sets.offsets, out, a, b), len(seeds), run)
        return out

    def slot_values(self, sets: ActionSets, seeds: np.ndarray) -> SlotValues | None:
        bounds = self._prepare(sets).scores
        return None if bounds is None else SlotValues.of(GREEDY, bounds)
