"""Action keys of items by their codes: computed once for each item, when it is first asked for."""

from __future__ import annotations

import numpy as np

from zhiyin.data.ids import Ids
from zhiyin.policies.action_sets import action_keys


class ItemKeys:
    """Action keys of the items of a catalogue. Any number of threads may use one."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._keys = np.zeros(len(ids), dtype=np.int64)
        self._is_known = np.zeros(len(ids), dtype=bool)

    def of(self, codes: np.ndarray) -> np.ndarray:
        """int64[m]: keys of items, int32[m] codes; those of their ids as texts (`policies.action_sets.action_keys`)."""
        is_known = self._is_known[codes]
        if not is_known.all():
            missing = np.unique(codes[~is_known])
            self._keys[missing] = action_keys(map(str, self._ids.raw(missing)))
            self._is_known[missing] = True  # after the keys: another thread reads them once they are known
        return self._keys[codes]
