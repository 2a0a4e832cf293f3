"""Features that the ranker read, kept in the traces of a sample of lists; `skew` compares them with the log."""

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

# Bytes of features of one list at most: the first items of a long list. Lists that are remembered to be compared.
BYTES, REMEMBERED = 64 * 1024, 50
VALUES, ITEMS = "feature_values", "feature_items"
# Why a list cannot be made again.
DELETED = "events that its ranker knew of were deleted since"


class FeatureLog:
    """Chooses lists and writes their features into traces. Any number of threads may use it.

    Parameters
    ----------
    share: of the lists that a ranker ordered, 0 to 1. per_second: lists at most.
    """

    def __init__(self, share: float = 0.0, per_second: int = 10, clock: Callable[[], float] = time.monotonic) -> None:
        self.share, self.per_second, self._clock = share, per_second, clock
        self._lock = threading.Lock()
        self._second, self._chosen = 0, 0
        # Ids of the newest lists whose features were kept.
        self.remembered: deque[str] = deque(maxlen=REMEMBERED)

    def chooses(self, list_id: str) -> bool:
        """Whether the features of a list are to be kept; drawn by its id, which is random."""
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
    """Put into a trace which state of the index a list was ranked by, and its features where they were asked for."""
    if state is None or answer.method != "ranker":
        return
    head["index"] = [state.seq, state.events]
    features = answer.features
    if features is not None and len(features.items):
        rows = max(1, BYTES // max(1, 4 * len(features.names)))
        head["features"] = hash_of_names(features.names)
        arrays[ITEMS], arrays[VALUES] = features.items[:rows], features.values[:rows]


def read_features(trace: Trace) -> tuple[np.ndarray, np.ndarray] | None:
    """Item codes int32[r] and features float32[r, f] of a trace; None where it holds none."""
    return (trace.arrays[ITEMS], trace.arrays[VALUES]) if VALUES in trace.arrays else None


def hash_of_names(names: Sequence[str]) -> str:
    """Tells apart features whose columns are not the same."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def differences(logged: tuple[np.ndarray, np.ndarray], found: ItemFeatures) -> np.ndarray:
    """float64[r, f]: |logged - found| / max(1, |logged|, |found|); infinite where one is not known, or the item is no
    candidate."""
    items, values = logged
    out = np.full(values.shape, np.inf)
    _, rows, at = np.intersect1d(items, found.items, return_indices=True)
    a, b = values[rows].astype(np.float64), found.values[at].astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b) / np.maximum(1.0, np.maximum(np.abs(a), np.abs(b)))
    out[rows] = np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
    return out
