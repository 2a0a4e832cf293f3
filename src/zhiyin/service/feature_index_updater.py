"""Updates the feature index of the version in use from the store's log: the ranker knows of events since training.

Each process follows the log by its sequence number, from the last event that the version has learned. Events of items
that no catalogue describes yet wait until one does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import polars as pl

from zhiyin.core.run import log
from zhiyin.ranking.live_index import NO_EVENTS, IndexState
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.loaded_version import LoadedVersion
from zhiyin.service.version_view import View
from zhiyin.store.store import Store

# Events that are read at once; a request may wait for as long as these become a frame.
BATCH_EVENTS = 25_000
# Events after training that an index holds, some 60 bytes each, twice.
MAX_INDEX_EVENTS = 20_000_000
# Events of unknown items that wait; the newest are kept.
MAX_WAITING_EVENTS = 100_000
_COLUMNS = ("seq", "user", "item", "time", "kind", "value")


class FeatureIndexUpdater:
    """Keeps the index of one version current. One thread calls `update`.

    After each update the index holds what the store holds after the events that the version has learned: nothing of
    users who were forgotten since. What the version itself has learned of them stays in its counts, which name nobody,
    until the next training.
    """

    def __init__(self, store: Store, loaded: LoadedVersion) -> None:
        self.store, self.loaded, self.index = store, loaded, loaded.index
        self._forget_count = store.forget_count()
        self._waiting = pl.DataFrame()
        self._ids: object = None
        self._is_full, self._complete_at = False, time.monotonic()
        # Whether the last update left events to the next one.
        self.is_behind = False
        # Set where the log was seen to have lost events: the next update rebuilds the index.
        self.stale = False

    def update(self, view: View, seconds: float | None = None) -> None:
        """Add the events that were stored since the last update.

        Parameters
        ----------
        seconds: after which the rest is left to the next update; None: all are added.
        """
        if self.index is None:
            return
        begun = time.monotonic()
        until = math.inf if seconds is None else begun + seconds
        forget_count = self.store.forget_count()
        if forget_count != self._forget_count or self.stale:
            self._forget_count, self.stale = forget_count, False
            self.rebuild(view)
        self._add_waiting(view)
        while self.index.events < MAX_INDEX_EVENTS and len(
            batch := self.store.events(self.index.seq, BATCH_EVENTS, _COLUMNS)
        ):
            known, unknown = _encode_events(batch, view)
            self.index.append(known, int(batch["seq"][-1]), len(batch))
            if len(unknown):
                self._waiting = pl.concat([self._waiting, unknown], how="diagonal").tail(MAX_WAITING_EVENTS)
            if time.monotonic() >= until and self.index.seq < self.store.last_seq:
                self.is_behind = True
                return
        self.is_behind = False  # not before: /ready is asked meanwhile
        if self.index.events < MAX_INDEX_EVENTS:
            self._complete_at = begun
        elif not self._is_full:
            self._is_full = True
            log.warning("service: %d events since version %d are as many as its feature index takes: train a new one",
                        self.index.events, self.loaded.version)  # fmt: skip

    def rebuild(self, view: View) -> None:
        """Replace the events of the index by those that the store holds now, after some were deleted.

        The cost grows with the events since the version.
        """
        assert self.index is not None
        events, count, self._waiting = read_events(self.store, view, self.index.learned_seq, self.index.seq)
        self.index.replace(events, self.index.seq, count)

    def health_issues(self) -> list[HealthIssue]:
        """That the ranker does not know of all events yet, after a start with many events since training."""
        if not self.is_behind or self.index is None:
            return []
        left = max(0, self.store.last_seq - self.index.seq)
        reason = f"the ranker does not know yet of the newest {left:,} events, which came since version "
        reason += f"{self.loaded.version} was trained"
        return [
            HealthIssue("features", reason, "wait until they are added; fewer: train more often, [service] retrain")
        ]

    @property
    def age(self) -> float:
        """Seconds since all events of the store were in the index; 0 where the version has no index."""
        return 0.0 if self.index is None else max(0.0, time.monotonic() - self._complete_at)

    def _add_waiting(self, view: View) -> None:
        """Add waiting events whose items have codes by now."""
        assert self.index is not None
        if view.ids is self._ids:
            return
        self._ids = view.ids
        if len(self._waiting):
            known, self._waiting = _encode_events(self._waiting, view)
            if len(known):
                self.index.append(known, self.index.seq, 0)


def index_at(store: Store, view: View, seq: int) -> IndexState | None:
    """The index of a view's version as of a sequence number, computed from what the version learned and from the log.

    What serving holds in memory takes no part. Returns None where the version has no index.
    """
    index = view.loaded.index
    if index is None:
        return None
    events, count, _ = read_events(store, view, index.learned_seq, seq)
    return IndexState(index.learned.with_events(events), seq, count)


def read_events(store: Store, view: View, after: int, until: int) -> tuple[pl.DataFrame, int, pl.DataFrame]:
    """Encoded events of the log in (after, until], the number of rows read, and the events of unknown items."""
    known, unknown, count = [NO_EVENTS], [pl.DataFrame()], 0
    for batch in _batches(store, after, until):
        encoded, rest = _encode_events(batch, view)
        known.append(encoded)
        unknown.append(rest.tail(MAX_WAITING_EVENTS))
        count += len(batch)
    return pl.concat(known), count, pl.concat(unknown, how="diagonal").tail(MAX_WAITING_EVENTS)


def _batches(store: Store, after: int, until: int) -> Iterator[pl.DataFrame]:
    while after < until and len(batch := store.events(after, BATCH_EVENTS, _COLUMNS)):
        after = int(batch["seq"][-1])
        yield batch.filter(pl.col("seq") <= until)


def _encode_events(events: pl.DataFrame, view: View) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events that the version has not learned, as an index takes them, and those of items unknown to the view."""
    loaded = view.loaded
    events = loaded.new_event_rows(events)
    codes = view.encode(events["item"])
    weights = loaded.schema.weights(events["kind"], events["value"])
    is_known = pl.Series(codes >= 0)
    frame = events.select("time", "kind", "value").with_columns(
        pl.Series("item", codes, dtype=pl.Int32), pl.Series("weight", weights, dtype=pl.Float32)
    )
    return frame.filter(is_known).select(NO_EVENTS.columns), events.filter(~is_known)
