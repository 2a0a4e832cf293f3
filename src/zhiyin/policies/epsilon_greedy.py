"""ε-greedy: the best score, but a share of the decisions uniformly at random."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import for_chunks
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.linear_policy import ScoredPolicy
from zhiyin.policies.probabilities import greedy_probabilities
from zhiyin.policies.slot_probabilities import GREEDY, SlotValues


@dataclasses.dataclass
class EpsilonGreedy(ScoredPolicy):
    """The action of the best score; of equal scores each alike. ε is `floor`; 0 is the greedy policy."""

    def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        scores, out = sets.scores, np.empty(len(sets.actions))
        for_chunks(lambda a, b: greedy_probabilities(scores, sets.offsets, out, a, b), len(seeds), run)
        return out

    def slot_values(self, sets: ActionSets, seeds: np.ndarray) -> SlotValues | None:
        return SlotValues.of(GREEDY, self._scores(sets))
