"""What is being chosen right now: events of the store's log, each worth half for every half-life that passed.

An event counts with its weight, as the version in use has it. Dislikes and hides are no interest, and do not count
against it either: else a few accounts could keep a rival's items off the list.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from zhiyin.data.event_schema import EventSchema
from zhiyin.store.database import Store

if TYPE_CHECKING:
    from zhiyin.service.version_view import View

# Hours after which an event counts half; events that are read at the start, and in one look.
HALF_LIFE, BACK, PART = 24.0, 100_000, 100_000
# Microseconds that a clock may be set back before all is read anew.
BACKWARDS = 60_000_000
# Items that are remembered.
ITEMS = 1_000_000
_SCHEMA = {"item": pl.String, "worth": pl.Float64}


class Trending:
    """Worth of items by what came in lately. `look` is for one thread, `worth` for all."""

    def __init__(self, store: Store, half_life: float = HALF_LIFE) -> None:
        self._store, self._half = store, half_life * 3.6e9
        self._lock = threading.Lock()
        self._kept: tuple[View, np.ndarray] | None = None
        self._begin()

    def _begin(self) -> None:
        """Know nothing yet, as of now."""
        self._seq = max(0, self._store.last_seq - BACK)
        # Worths as of a moment: what an event is worth only grows with its time, so old ones need no touching.
        self._since = self._looked = self._store.clock()
        with self._lock:
            self._items = pl.DataFrame(schema=_SCHEMA)

    def look(self, view: View) -> None:
        """Take in what came since the last look, and have it at hand for a view."""
        fresh = False
        now = self._store.clock()
        if now < self._looked - BACKWARDS:  # worths of a clock that ran ahead outweigh all others
            self._begin()
            fresh = True
        self._looked = now
        while len(part := self._store.events(self._seq, PART, ("seq", "item", "time", "kind", "value"))):
            self._seq, fresh = int(part["seq"][-1]), True
            self._add(part, view.loaded.schema)
        if fresh or self._kept is None or self._kept[0].ids is not view.ids:
            self._kept = (view, self._aligned(view))

    def worth(self, view: View) -> np.ndarray:
        """float32[all items], comparable within one answer; minus infinity for what nobody chose lately."""
        kept = self._kept
        return kept[1] if kept is not None and kept[0].ids is view.ids else self._aligned(view)

    def _add(self, part: pl.DataFrame, schema: EventSchema) -> None:
        now = self._store.clock()
        weight = schema.weights(part["kind"], part["value"])
        part = part.with_columns(weight=weight).filter(pl.col("weight") > 0)
        # A clock that runs ahead must not make an item trend for ever.
        age = (pl.col("time").clip(upper_bound=now) - self._since) / self._half
        some = part.select("item", (pl.col("weight") * (age * float(np.log(2))).exp()).alias("worth"))
        items = pl.concat([self._items, some]).group_by("item").agg(pl.col("worth").sum())
        if now - self._since > 20 * self._half:
            items = items.with_columns(pl.col("worth") * 2.0 ** -((now - self._since) / self._half))
            self._since = now
        if len(items) > ITEMS:
            items = items.top_k(ITEMS // 2, by="worth")
        with self._lock:
            self._items = items

    def _aligned(self, view: View) -> np.ndarray:
        with self._lock:
            items = self._items
        worth = np.full(len(view.ids), -np.inf, dtype=np.float32)
        if len(items):
            codes = view.encode(items["item"])
            known = codes >= 0
            worth[codes[known]] = items["worth"].to_numpy()[known]
        return worth
