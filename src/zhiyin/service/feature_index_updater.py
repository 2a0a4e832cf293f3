"""The store's log into the feature index of the version in use, so that the ranker knows what happened since training.

Each process follows the log by its sequence number, from the last event that the version has learned on. Events of
items that nobody has described yet wait until somebody does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from zhiyin.core.run import log
from zhiyin.ranking.live_index import IndexState, LiveIndex
from zhiyin.store.database import Store

if TYPE_CHECKING:
    from zhiyin.service.version_view import Loaded, View

# Events of one reading; events after the version's that an index holds (some 60 bytes each, twice); events of unknown
# items that wait, the newest.
PART, MOST, WAITING = 100_000, 20_000_000, 100_000
# Events as an index takes them: items in codes, times in microseconds.
NO_EVENTS = pl.DataFrame(
    schema={"item": pl.Int32, "time": pl.Int64, "kind": pl.String, "value": pl.Float64, "weight": pl.Float32}
)
_COLUMNS = ("seq", "user", "item", "time", "kind", "value")


class FeatureIndexUpdater:
    """Keeps the index of one version current. One thread looks.

    What is in the index is, after each look, what the store holds after the version's own events: of users who were
    forgotten since nothing is left. What the version itself has learned of them stays in its counts, which name nobody,
    until the next training.
    """

    def __init__(self, store: Store, loaded: Loaded) -> None:
        self.store, self.loaded, self.index = store, loaded, loaded.index
        self._forgettings = store.forget_count()
        self._waiting = pl.DataFrame()
        self._ids: object = None
        self._full, self._complete = False, time.monotonic()
        # Set where the log was found to have lost events: the next look makes the index anew.
        self.stale = False

    def look(self, view: View) -> None:
        """Hear of what came in since the last look."""
        if self.index is None:
            return
        begun = time.monotonic()
        forgettings = self.store.forget_count()
        if forgettings != self._forgettings or self.stale:
            self._forgettings, self.stale = forgettings, False
            self.rebuild(view)
        self._retry(view)
        while self.index.events < MOST and len(part := self.store.events(self.index.seq, PART, _COLUMNS)):
            known, unknown = _coded(part, view)
            self.index.append(known, int(part["seq"][-1]), len(part))
            if len(unknown):
                self._waiting = pl.concat([self._waiting, unknown], how="diagonal").tail(WAITING)
        if self.index.events < MOST:
            self._complete = begun
        elif not self._full:
            self._full = True
            log.warning("service: %d events since version %d are as many as its feature index takes: train a new one",
                        self.index.events, self.loaded.version)  # fmt: skip

    def rebuild(self, view: View) -> None:
        """Know what the store holds now, after events were deleted. Costs what the events since the version cost."""
        assert self.index is not None
        events, count, self._waiting = _read(self.store, view, self.index.learned_seq, self.index.seq)
        self.index.replace(events, self.index.seq, count)

    @property
    def age(self) -> float:
        """Seconds since all events of the store were in the index; 0 where there is none to feed."""
        return 0.0 if self.index is None else max(0.0, time.monotonic() - self._complete)

    def _retry(self, view: View) -> None:
        """Items that were described meanwhile have codes now."""
        assert self.index is not None
        if view.ids is self._ids:
            return
        self._ids = view.ids
        if len(self._waiting):
            known, self._waiting = _coded(self._waiting, view)
            if len(known):
                self.index.append(known, self.index.seq, 0)


def index_at(store: Store, view: View, seq: int) -> IndexState | None:
    """The index of a view's version as of a sequence number of the store's log, made of what the version learned and of
    the log, without what serving had in memory; None where the version has none."""
    index = view.loaded.index
    if index is None:
        return None
    events, count, _ = _read(store, view, index.learned_seq, seq)
    return IndexState(index.learned.with_events(events), seq, count)


def _read(store: Store, view: View, after: int, until: int) -> tuple[pl.DataFrame, int, pl.DataFrame]:
    """Coded events of the log in (after, until], how many rows there were, and those of unknown items."""
    known, unknown, count = [NO_EVENTS], [pl.DataFrame()], 0
    for part in _parts(store, after, until):
        coded, rest = _coded(part, view)
        known.append(coded)
        unknown.append(rest.tail(WAITING))
        count += len(part)
    return pl.concat(known), count, pl.concat(unknown, how="diagonal").tail(WAITING)


def _parts(store: Store, after: int, until: int) -> Iterator[pl.DataFrame]:
    while after < until and len(part := store.events(after, PART, _COLUMNS)):
        after = int(part["seq"][-1])
        yield part.filter(pl.col("seq") <= until)


def _coded(part: pl.DataFrame, view: View) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events that the version has not learned, as an index takes them, and those of items that a view does not know."""
    loaded = view.loaded
    part = loaded.unlearned_rows(part)
    codes = view.encode(part["item"])
    weights = loaded.schema.weights(part["kind"], part["value"])
    known = pl.Series(codes >= 0)
    frame = part.select("time", "kind", "value").with_columns(
        pl.Series("item", codes, dtype=pl.Int32), pl.Series("weight", weights, dtype=pl.Float32)
    )
    return frame.filter(known).select(NO_EVENTS.columns), part.filter(~known)


def live_index(model: object, seq: int) -> LiveIndex | None:
    """The index of a fitted model; None where no ranker reads one, or the log has no times."""
    builder = getattr(model, "builder_", None)
    if builder is None or not builder.index.has_times:
        return None
    return LiveIndex(builder.index, seq)
