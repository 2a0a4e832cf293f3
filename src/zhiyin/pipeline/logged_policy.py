"""A policy that gives the probabilities which a trace holds, so that the list of a decision is drawn again."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.run import Run
from zhiyin.pipeline.decision_record import DecisionRecord
from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.policy import Policy


@dataclasses.dataclass
class LoggedPolicy(Policy):
    """Gives each slot of one list, in order, the probabilities that were logged for it. Used for one list, once.

    Actions that are not in the logged shortlist have probability 0.
    """

    @classmethod
    def of(cls, record: DecisionRecord) -> LoggedPolicy:
        """Of a decision whose trace holds its shortlist and its probabilities."""
        assert record.keys is not None
        assert record.pmfs is not None
        policy = cls()
        policy._order = np.argsort(record.keys)
        policy._keys, policy._pmfs, policy._slot = record.keys[policy._order], record.pmfs, 0
        return policy

    def __post_init__(self) -> None:
        super().__post_init__()
        self._order = np.zeros(0, np.int64)
        self._keys, self._pmfs, self._slot = np.zeros(0, np.int64), np.zeros((0, 0)), 0

    def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        if self._slot >= len(self._pmfs) or not len(self._keys):
            return np.zeros(len(sets.actions))
        pmf = self._pmfs[self._slot][self._order]
        self._slot += 1
        at = np.minimum(np.searchsorted(self._keys, sets.actions), len(self._keys) - 1)
        return np.where(self._keys[at] == sets.actions, pmf[at], 0.0)
