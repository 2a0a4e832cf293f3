"""A reward model of items and slots for `cascade-DR`, which predicts each list from those before it.

The expected reward of an item in a slot is the slot's rate times how much more, or less, the item has earned than its
slots do on average. What it says of a list does not depend on that list's rewards, as doubly robust estimates need.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zhiyin.pipeline.item_statistics import MAX_SLOTS, ItemStatistics
from zhiyin.pipeline.list_policy import ListDecision
from zhiyin.policies.action_sets import action_keys

# Expected rewards that shrink an item's ratio towards 1.
SHRINKAGE = 5.0


class SequentialRewardModel:
    """Predictions of lists in the order in which they are read."""

    def __init__(self) -> None:
        self.statistics = ItemStatistics()

    def predictions(
        self, items: Sequence[str], target_items: Sequence[str], decision: ListDecision | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """float64[k] and float64[k]: expected rewards of the logged items, and of what the target has in their slots
        after the logged items above.

        Parameters
        ----------
        items: ids of the logged list, k.
        target_items: ids of the target's own list, which stand where nothing is drawn; none where it is shorter.
        decision: what the target draws by, given the logged items above; None: nothing is drawn.
        """
        k = len(items)
        rates = self.statistics.slot_rates[np.minimum(np.arange(k), MAX_SLOTS - 1)]
        chosen = rates * self._ratios(action_keys(items))
        target = np.zeros(k)
        n = min(k, len(target_items))
        target[:n] = rates[:n] * self._ratios(action_keys(target_items[:n]))
        if decision is not None and decision.mode != "shadow" and len(decision):
            inside = decision.slots < k
            slots = decision.slots[inside].astype(np.int64)
            target[slots] = rates[slots] * (decision.pmfs[inside] @ self._ratios(decision.keys))
        return chosen, target

    def update(self, items: Sequence[str], rewards: np.ndarray) -> None:
        """Learn from a list. rewards: float64[k], of its slots."""
        self.statistics.update(action_keys(items), np.arange(len(items)), rewards)

    def _ratios(self, keys: np.ndarray) -> np.ndarray:
        return self.statistics.ratios_of(np.ascontiguousarray(keys), SHRINKAGE)
