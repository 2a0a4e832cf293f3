"""Logs the features that the ranker read in the traces of a sample of lists; `feature_skew` checks them."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zhiyin.pipeline.request import Answer
from zhiyin.ranking.examples import ItemFeatures
from zhiyin.ranking.live_index import IndexState
from zhiyin.store.traces import Trace

# Bytes of features of one list: of a long list the first items. Newest lists that wait to be compared.
MAX_FEATURE_BYTES, MAX_RECENT_LISTS = 64 * 1024, 50
# Arrays of a trace.
VALUES, ITEMS = "feature_values", "feature_items"
# Why a list cannot be made again.
EVENTS_DELETED = "events that its ranker knew of were deleted since"


class FeatureLog:
    """Chooses lists and writes their features into traces. Any number of threads may use it.

    Parameters
    ----------
    share: share of the lists that a ranker ordered, 0 to 1.
    per_second: lists a second at most.
    clock: seconds.
    """

    def __init__(self, share: float = 0.0, per_second: int = 10, clock: Callable[[], float] = time.monotonic) -> None:
        self.share, self.per_second, self._clock = share, per_second, clock
        self._lock = threading.Lock()
        self._second, self._chosen = 0, 0
        # Ids of the newest lists whose features were given to their traces.
        self.recent: deque[str] = deque(maxlen=MAX_RECENT_LISTS)

    def chooses(self, list_id: str) -> bool:
        """Whether the features of a list are to be stored; drawn by its id, which is random."""
        if not self.share or int(list_id[-8:], 16) >= self.share * 2**32:
            return False
        second = int(self._clock())
        with self._lock:
            if second != self._second:
                self._second, self._chosen = second, 0
            self._chosen += 1
            return self._chosen <= self.per_second


def write_features(
    head: dict[str, Any], arrays: dict[str, np.ndarray], answer: Answer, state: IndexState | None
) -> None:
    """Write into a trace the state of the index that a list was ranked by, and its features where requested."""
    if state is None or answer.method != "ranker":
        return
    head["index"] = [state.seq, state.events]
    features = answer.features
    if features is not None and len(features.items):
        rows = max(1, MAX_FEATURE_BYTES // max(1, 4 * len(features.names)))
        head["features"] = hash_of_names(features.names)
        arrays[ITEMS], arrays[VALUES] = features.items[:rows], features.values[:rows]


def read_features(trace: Trace) -> tuple[np.ndarray, np.ndarray] | None:
    """Item codes int32[r] and features float32[r, f] of a trace; None where it holds none."""
    return (trace.arrays[ITEMS], trace.arrays[VALUES]) if VALUES in trace.arrays else None


def hash_of_names(names: Sequence[str]) -> str:
    """Hash of the names of features: the same for the same columns."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def differences(logged: tuple[np.ndarray, np.ndarray], recomputed: ItemFeatures) -> np.ndarray:
    """float64[r, f]: |logged - recomputed| / max(1, |logged|, |recomputed|).

    Infinite where one of both is unknown, or the item is no candidate.

    Parameters
    ----------
    logged: item codes int32[r] and features float32[r, f].
    """
    items, values = logged
    out = np.full(values.shape, np.inf)
    _, rows, at = np.intersect1d(items, recomputed.items, return_indices=True)
    a, b = values[rows].astype(np.float64), recomputed.values[at].astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b) / np.maximum(1.0, np.maximum(np.abs(a), np.abs(b)))
    out[rows] = np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
    return out
