"""LogFollower: reads the store's log in batches, from its last events on, for what counts the events of all users."""

from __future__ import annotations

from abc import ABC, abstractmethod

import polars as pl

from zhiyin.data.event_schema import EventSchema
from zhiyin.store.store import Store

# Events that are read at the start.
MAX_START_EVENTS = 100_000
# Microseconds that the clock may be set back before all is counted anew.
MAX_CLOCK_STEP_BACK = 60_000_000


class LogFollower(ABC):
    """Events of interest in the order of arrival, each once. One thread calls `follow`.

    An event of no weight, or of a negative one such as a dislike, is left out: it is no interest, but it does not count
    against an item either, otherwise a few accounts could keep a rival's items off a list. Where the clock is set back,
    all is counted anew: an event of a clock that ran ahead would outweigh all others.

    Parameters
    ----------
    batch_events: events that are read at once.
    columns: of the store's events that `add` needs.
    """

    def __init__(self, store: Store, batch_events: int, columns: tuple[str, ...]) -> None:
        self._store, self._batch_events = store, batch_events
        self._columns = tuple(dict.fromkeys((*columns, "seq", "time", "received", "kind", "value")))
        self.restart()

    def restart(self) -> None:
        """Count anew, from the last MAX_START_EVENTS events on."""
        self._seq = max(0, self._store.last_seq - MAX_START_EVENTS)
        self._followed_at = self._store.clock()
        self.reset()

    def follow(self, schema: EventSchema) -> bool:
        """Count the events since the last call. Returns whether there were any, or all was counted anew."""
        now, is_changed = self._store.clock(), False
        if now < self._followed_at - MAX_CLOCK_STEP_BACK:
            self.restart()
            is_changed = True
        self._followed_at = now
        while len(batch := self._store.events(self._seq, self._batch_events, self._columns)):
            weight = schema.weights(batch["kind"], batch["value"])
            # A clock that runs ahead must not make an event count for longer than others.
            time = pl.min_horizontal("time", "received").clip(upper_bound=now)
            events = batch.with_columns(weight=weight, time=time).filter(pl.col("weight") > 0)
            if len(events):
                self.add(events)
            self._seq, is_changed = int(batch["seq"][-1]), True
        return is_changed

    @abstractmethod
    def reset(self) -> None:
        """Drop all counts."""

    @abstractmethod
    def add(self, events: pl.DataFrame) -> None:
        """Count events. Columns: those asked for, `weight` above 0, and `time`, at most when the event arrived."""
