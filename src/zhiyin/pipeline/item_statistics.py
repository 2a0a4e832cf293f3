"""What is known of items by showing them: displays, rewards, and the rewards that an average item would have got.

Clicks over expected clicks (Zhang & Jones, "Comparing click logs and editorial labels for training query rewriting",
2007): an item in a good slot is clicked more, so its rewards are compared with those that the slots bring on average.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.parallel import kernel

# Slots with a reward rate of their own; slots behind the last are counted as the last.
MAX_SLOTS = 64
# Displays that the rate of all slots counts as, in the rate of each.
SLOT_PRIOR = 20.0


@dataclasses.dataclass(eq=False)
class ItemStatistics:
    """Sums over the displays of items. Updates in one call or in many give the same state, bit for bit.

    Parameters
    ----------
    keys: int64[n], sorted keys of the items that were shown.
    displays: float64[n]. rewards: float64[n], sums.
    expected: float64[n], sums of the reward rates that the slots had when the item was displayed, at least 0 each.
    slot_displays, slot_rewards: float64[MAX_SLOTS].
    """

    keys: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    displays: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    rewards: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    expected: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    slot_displays: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(MAX_SLOTS))
    slot_rewards: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(MAX_SLOTS))

    @property
    def slot_rates(self) -> np.ndarray:
        """float64[MAX_SLOTS]: mean reward of a display by slot, shrunk to that of all slots."""
        displays = self.slot_displays.sum()
        overall = self.slot_rewards.sum() / displays if displays else 0.0
        result: np.ndarray = (self.slot_rewards + SLOT_PRIOR * overall) / (self.slot_displays + SLOT_PRIOR)
        return result

    def update(self, keys: np.ndarray, slots: np.ndarray, rewards: np.ndarray) -> None:
        """Add displays in the order given. keys: int64[m]. slots: int[m], from 0. rewards: float64[m]."""
        if not len(keys):
            return
        unseen = np.setdiff1d(keys, self.keys)
        if len(unseen):
            places = np.searchsorted(self.keys, unseen)
            self.keys = np.insert(self.keys, places, unseen)
            for name in ("displays", "rewards", "expected"):
                setattr(self, name, np.insert(getattr(self, name), places, 0.0))
        _add(
            np.searchsorted(self.keys, keys), np.minimum(slots, MAX_SLOTS - 1).astype(np.int64),
            np.ascontiguousarray(rewards, dtype=np.float64), self.displays, self.rewards, self.expected,
            self.slot_displays, self.slot_rewards, SLOT_PRIOR,
        )  # fmt: skip

    def displays_of(self, keys: np.ndarray) -> np.ndarray:
        """float64[m]: displays of items, int64[m]; 0 of those that were never shown."""
        out = np.empty(len(keys))
        _look_up(self.keys, self.displays, keys, out)
        return out

    def ratios_of(self, keys: np.ndarray, shrinkage: float = 1.0) -> np.ndarray:
        """float64[m]: (rewards + c) / (expected + c): above 1 for items that bring more than their slots; 1 if unknown.

        shrinkage: c > 0, the expected rewards that the prior counts as.
        """
        out = np.empty(len(keys))
        _ratios(self.keys, self.rewards, self.expected, keys, shrinkage, out)
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        """The state by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ItemStatistics:
        """Of what `arrays` gave. Raises DataError where it does not fit together."""
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            result = cls(**{name: np.array(arrays[name]) for name in names})
        except KeyError as error:
            raise DataError(f"the statistics of items lack {error}", remedy="learn them again from the log") from None
        sizes = {len(getattr(result, name)) for name in ("keys", "displays", "rewards", "expected")}
        slots = {getattr(result, name).shape for name in ("slot_displays", "slot_rewards")}
        if len(sizes) > 1 or slots != {(MAX_SLOTS,)} or (result.keys[1:] <= result.keys[:-1]).any():
            raise DataError("the statistics of items do not fit together", remedy="learn them again from the log")
        return result

    def copy(self) -> ItemStatistics:
        """A copy that later updates do not change."""
        return ItemStatistics(**{name: array.copy() for name, array in self.arrays().items()})


@kernel
def _place(sorted_keys, key):
    """Where a key stands among sorted ones; -1: nowhere."""
    low, high = 0, len(sorted_keys)
    while low < high:
        middle = (low + high) // 2
        if sorted_keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < len(sorted_keys) and sorted_keys[low] == key else -1


@kernel
def _look_up(sorted_keys, values, keys, out):
    """out[n]: the value of keys[n]; 0 where it is not among the sorted ones."""
    for n in range(len(keys)):
        place = _place(sorted_keys, keys[n])
        out[n] = values[place] if place >= 0 else 0.0


@kernel
def _ratios(sorted_keys, rewards, expected, keys, shrinkage, out):
    for n in range(len(keys)):
        place = _place(sorted_keys, keys[n])
        out[n] = (rewards[place] + shrinkage) / (expected[place] + shrinkage) if place >= 0 else 1.0


@kernel
def _add(rows, slots, rewards, item_displays, item_rewards, item_expected, slot_displays, slot_rewards, prior):
    for n in range(len(rows)):
        row, slot = rows[n], slots[n]
        n_displays, total = 0.0, 0.0
        for other in range(len(slot_displays)):
            n_displays += slot_displays[other]
            total += slot_rewards[other]
        overall = total / n_displays if n_displays > 0.0 else 0.0
        item_expected[row] += max(0.0, (slot_rewards[slot] + prior * overall) / (slot_displays[slot] + prior))
        item_displays[row] += 1.0
        item_rewards[row] += rewards[n]
        slot_displays[slot] += 1.0
        slot_rewards[slot] += rewards[n]
