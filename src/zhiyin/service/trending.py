"""Trending items: weights of recent events, halved with every half-life.

An event counts with its weight, as the version in use has it. Dislikes and hides are no interest, but do not count
against an item either: otherwise a few accounts could keep a rival's items off the list.
"""

from __future__ import annotations

import threading

import numpy as np
import polars as pl

from zhiyin.core.durations import UNITS
from zhiyin.data.event_schema import EventSchema
from zhiyin.service.version_view import View
from zhiyin.store.store import Store

# Hours after which an event counts half.
HALF_LIFE_HOURS = 24.0
# Events that are read at the start, and at once.
MAX_START_EVENTS, BATCH_EVENTS = 100_000, 100_000
# Microseconds that the clock may be set back before all is read again.
MAX_CLOCK_STEP_BACK = 60_000_000
# Items whose scores are held.
MAX_ITEMS = 1_000_000
# Half-lives after which scores are rescaled to the present, before they become too large.
RESCALE_HALF_LIVES = 20
_SCHEMA = {"item": pl.String, "score": pl.Float64}


class Trending:
    """Scores of items by recent events. One thread calls `update`, any number of threads `scores`."""

    def __init__(self, store: Store, half_life_hours: float = HALF_LIFE_HOURS) -> None:
        self._store, self._half_life = store, half_life_hours * UNITS["h"]
        self._lock = threading.Lock()
        self._aligned: tuple[View, np.ndarray] | None = None
        self._reset()

    def _reset(self) -> None:
        """Start without scores, as of now."""
        self._seq = max(0, self._store.last_seq - MAX_START_EVENTS)
        # Scores are as of this moment: a later event has a larger score, and earlier scores need no change.
        self._origin = self._updated = self._store.clock()
        with self._lock:
            self._items = pl.DataFrame(schema=_SCHEMA)

    def update(self, view: View) -> None:
        """Add events since the last update, and align the scores with the items of a view."""
        is_changed = False
        now = self._store.clock()
        if now < self._updated - MAX_CLOCK_STEP_BACK:  # scores of a clock that ran ahead outweigh all others
            self._reset()
            is_changed = True
        self._updated = now
        while len(batch := self._store.events(self._seq, BATCH_EVENTS, ("seq", "item", "time", "kind", "value"))):
            self._seq, is_changed = int(batch["seq"][-1]), True
            self._add(batch, view.loaded.schema)
        if is_changed or self._aligned is None or self._aligned[0].ids is not view.ids:
            self._aligned = (view, self._align(view))

    def scores(self, view: View) -> np.ndarray:
        """float32[all items], comparable within one answer; minus infinity for items without recent events."""
        aligned = self._aligned
        return aligned[1] if aligned is not None and aligned[0].ids is view.ids else self._align(view)

    def _add(self, events: pl.DataFrame, schema: EventSchema) -> None:
        now = self._store.clock()
        weight = schema.weights(events["kind"], events["value"])
        events = events.with_columns(weight=weight).filter(pl.col("weight") > 0)
        # An event of a clock that runs ahead must not make an item trend for ever.
        age = (pl.col("time").clip(upper_bound=now) - self._origin) / self._half_life
        new = events.select("item", (pl.col("weight") * (age * float(np.log(2))).exp()).alias("score"))
        items = pl.concat([self._items, new]).group_by("item").agg(pl.col("score").sum())
        if now - self._origin > RESCALE_HALF_LIVES * self._half_life:
            items = items.with_columns(pl.col("score") * 2.0 ** -((now - self._origin) / self._half_life))
            self._origin = now
        if len(items) > MAX_ITEMS:
            items = items.top_k(MAX_ITEMS // 2, by="score")
        with self._lock:
            self._items = items

    def _align(self, view: View) -> np.ndarray:
        with self._lock:
            items = self._items
        scores = np.full(len(view.ids), -np.inf, dtype=np.float32)
        if len(items):
            codes = view.encode(items["item"])
            is_known = codes >= 0
            scores[codes[is_known]] = items["score"].to_numpy()[is_known]
        return scores
