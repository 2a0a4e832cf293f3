"""Trending items: weights of recent events, halved with every half-life.

What the service computes itself, from the store's log, and what streams have computed give the same scores.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import numpy as np
import polars as pl

from zhiyin.service.displayed_scores import displayed_scores
from zhiyin.service.log_follower import LogFollower
from zhiyin.service.stream_reading import StreamReader
from zhiyin.service.version_view import View
from zhiyin.store.store import Store
from zhiyin.store.stream_definitions import (
    MAX_TRENDING_ITEMS,
    TRENDING_HALF_LIFE,
    log_score,
    merge_log_scores,
    sum_log_scores,
)

# Events that are read at once.
BATCH_EVENTS = 100_000
# The best items that are read of what streams have computed.
MAX_STREAMED_ITEMS = 20_000
# Pause between two reads, as a multiple of the time that one takes.
_PAUSE_FACTOR = 10.0


class Trending(ABC):
    """Scores of items by recent events. One thread calls `update`, any number of threads `scores`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Ids of items, and float64[n]: log scores of the first n. Ids are only appended, or the list is another one.
        self._counts: tuple[list[str], np.ndarray] = ([], np.zeros(0))
        self._aligned: tuple[View, np.ndarray] | None = None
        # Codes of the first items of a list of ids, for a view's ids.
        self._codes: tuple[object, list[str], np.ndarray] | None = None

    def update(self, view: View) -> None:
        """Take in what happened since the last update, and align the scores with the items of a view."""
        is_changed = self._refresh(view)
        if is_changed or self._aligned is None or self._aligned[0].ids is not view.ids:
            self._aligned = (view, self._align(view))

    def scores(self, view: View) -> np.ndarray:
        """float32[all items]: decayed sums of weights as of the last change; minus infinity: no recent events."""
        aligned = self._aligned
        return aligned[1] if aligned is not None and aligned[0].ids is view.ids else self._align(view)

    @abstractmethod
    def _refresh(self, view: View) -> bool:
        """Read what happened since the last time into `_counts`. Returns whether they changed."""

    def _align(self, view: View) -> np.ndarray:
        items, log_scores = self._counts
        scores = np.full(len(view.ids), -np.inf, dtype=np.float32)
        codes = self._encoded(view, items, len(log_scores))
        is_known = codes >= 0
        scores[codes[is_known]] = displayed_scores(log_scores[is_known], self._store.clock(), TRENDING_HALF_LIFE)
        return scores

    def _encoded(self, view: View, items: list[str], n: int) -> np.ndarray:
        """Codes of the first n items; only those that came since the last time are looked up."""
        ids, known, codes = self._codes or (None, None, np.zeros(0, np.int32))
        if ids is not view.ids or known is not items:
            codes = np.zeros(0, np.int32)
        if len(codes) < n:
            codes = np.concatenate([codes, view.encode(items[len(codes) : n])])
            self._codes = (view.ids, items, codes)
        return codes[:n]


class EmbeddedTrending(Trending):
    """Trending items of the store's log."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._log = _TrendingLog(store)

    def _refresh(self, view: View) -> bool:
        is_changed = self._log.follow(view.loaded.schema)
        if is_changed:
            self._counts = (self._log.items, self._log.log_scores)
        return is_changed


class _TrendingLog(LogFollower):
    """items, log_scores: as `Trending._counts` has them. What a batch costs does not grow with their number."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, BATCH_EVENTS, ("item",))

    def reset(self) -> None:
        self.items: list[str] = []
        self.log_scores = np.zeros(0)
        self._rows: dict[str, int] = {}

    def add(self, events: pl.DataFrame) -> None:
        score = log_score(pl.col("weight").cast(pl.Float64), pl.col("time"), TRENDING_HALF_LIFE)
        new = events.select("item", log_score=score).group_by("item", maintain_order=True).agg(sum_log_scores())
        ids = new["item"].to_list()
        added = [item for item in ids if item not in self._rows]
        self._rows.update(zip(added, range(len(self.items), len(self.items) + len(added))))
        self.items.extend(added)
        # A new array: others read the one of before.
        log_scores = np.concatenate([self.log_scores, np.full(len(added), -np.inf)])
        rows = np.fromiter(map(self._rows.__getitem__, ids), np.int64, len(ids))
        log_scores[rows] = merge_log_scores(log_scores[rows], new["log_score"].to_numpy())
        self.log_scores = log_scores
        if len(log_scores) > MAX_TRENDING_ITEMS:
            self._keep_best(MAX_TRENDING_ITEMS // 2)

    def _keep_best(self, n: int) -> None:
        best = np.sort(np.argpartition(-self.log_scores, n)[:n])
        self.items, self.log_scores = list(map(self.items.__getitem__, best.tolist())), self.log_scores[best]
        self._rows = dict(zip(self.items, range(n)))


class StreamedTrending(Trending):
    """Trending items as streams have computed them; while they cannot be read, those of before."""

    def __init__(self, store: Store, reader: StreamReader) -> None:
        super().__init__(store)
        self._reader = reader
        self._version: int | None = None
        self._next_read = 0.0

    def _refresh(self, view: View) -> bool:
        begun = time.monotonic()
        version = self._reader.version("trending")
        if version is None or version == self._version or begun < self._next_read:
            return False
        items = self._reader.trending(MAX_STREAMED_ITEMS)
        if items is None:
            return False
        self._counts, self._version = (items["item"].to_list(), items["log_score"].to_numpy()), version
        self._next_read = time.monotonic() + _PAUSE_FACTOR * (time.monotonic() - begun)
        return True
