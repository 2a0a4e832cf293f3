"""The items that a request may get, cached by its filter and by what is visible at the moment."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict

import numpy as np

from zhiyin.models.masked_search import Mask

# Entries of the cache, each some bytes an item.
MAX_CACHED = 16


@dataclasses.dataclass(frozen=True, eq=False)
class EligibleItems:
    """The items that a request may get.

    Parameters
    ----------
    bits: bool[n_items], new items included.
    trained: those that the model was trained with.
    """

    bits: np.ndarray
    trained: Mask

    @classmethod
    def of(cls, mask: Mask, visible: np.ndarray | None, candidates: np.ndarray, n_trained: int) -> EligibleItems:
        """Items that pass a filter, are visible and are candidates at all; the first `n_trained` codes are trained."""
        if not mask.is_sparse:
            bits = candidates & mask.bits
            if visible is not None:
                bits &= visible
            return cls(bits, Mask.of(bits[:n_trained]))
        rows = mask.rows[candidates[mask.rows]]
        if visible is not None:
            rows = rows[visible[rows]]
        bits = np.zeros(len(candidates), dtype=bool)
        bits[rows] = True
        return cls(bits, Mask.of_rows(rows[rows < n_trained], n_trained))


class EligibleItemsCache:
    """Eligible items by filter mask and visible items, both by identity. Any number of threads may use one.

    Parameters
    ----------
    candidates: bool[n_items], items that may be listed at all.
    n_trained: codes that the model was trained with.
    """

    def __init__(self, candidates: np.ndarray, n_trained: int) -> None:
        self.candidates, self.n_trained = candidates, n_trained
        # The entries hold the mask and the array they belong to, so that an identity is never reused.
        self._entries: OrderedDict[tuple[int, int], tuple[Mask, np.ndarray | None, EligibleItems]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, mask: Mask, visible: np.ndarray | None, store: bool) -> EligibleItems:
        """store: keep it for later requests, as is worthwhile for masks that come from a cache themselves."""
        key = (id(mask), id(visible))
        with self._lock:
            entry = self._entries.get(key)
        if entry is not None and entry[0] is mask and entry[1] is visible:
            return entry[2]
        eligible = EligibleItems.of(mask, visible, self.candidates, self.n_trained)
        if store:
            with self._lock:
                self._entries[key] = (mask, visible, eligible)
                while len(self._entries) > MAX_CACHED:
                    self._entries.popitem(last=False)
        return eligible
