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
from zhiyin.store.stream_definitions import MAX_TRENDING_ITEMS, TRENDING_HALF_LIFE, log_score, sum_log_scores

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
        # Frame item, log_score.
        self._items = pl.DataFrame(schema={"item": pl.String, "log_score": pl.Float64})
        self._aligned: tuple[View, np.ndarray] | None = None

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
        """Read what happened since the last time into `_items`. Returns whether it changed."""

    def _align(self, view: View) -> np.ndarray:
        items = self._items
        scores = np.full(len(view.ids), -np.inf, dtype=np.float32)
        codes = view.encode(items["item"])
        is_known = codes >= 0
        values = items["log_score"].to_numpy()[is_known]
        scores[codes[is_known]] = displayed_scores(values, self._store.clock(), TRENDING_HALF_LIFE)
        return scores


class EmbeddedTrending(Trending):
    """Trending items of the store's log."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._log = _TrendingLog(store)

    def _refresh(self, view: View) -> bool:
        is_changed = self._log.follow(view.loaded.schema)
        self._items = self._log.items
        return is_changed


class _TrendingLog(LogFollower):
    def __init__(self, store: Store) -> None:
        super().__init__(store, BATCH_EVENTS, ("item",))

    def reset(self) -> None:
        self.items = pl.DataFrame(schema={"item": pl.String, "log_score": pl.Float64})

    def add(self, events: pl.DataFrame) -> None:
        score = log_score(pl.col("weight").cast(pl.Float64), pl.col("time"), TRENDING_HALF_LIFE)
        new = events.select("item", log_score=score)
        items = pl.concat([self.items, new]).group_by("item").agg(sum_log_scores())
        if len(items) > MAX_TRENDING_ITEMS:
            items = items.top_k(MAX_TRENDING_ITEMS // 2, by="log_score")
        self.items = items


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
        self._items, self._version = items, version
        self._next_read = time.monotonic() + _PAUSE_FACTOR * (time.monotonic() - begun)
        return True
