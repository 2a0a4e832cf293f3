"""Updates the feature index of the version in use from the store's log: the ranker knows of events since training.

Each process follows the log by its sequence number, from the last event that the version has learned, or that a
snapshot knows of. Many events at once are not read here, where that would disturb answers, but by the process that
makes the snapshot, which is then taken over. Events of items that no catalogue describes yet wait until one does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import polars as pl

from zhiyin.core.run import log
from zhiyin.ranking.live_index import NO_EVENTS, IndexState
from zhiyin.service.feature_snapshot import FeatureSnapshots, read_waiting
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.loaded_version import LoadedVersion
from zhiyin.service.version_view import View
from zhiyin.store.store import Store

# Events that are added at once beside answering; a request may wait for as long as these become a frame, some 5 ms.
BATCH_EVENTS = 2_000
# Pause after them, as a multiple of the time that they took.
PAUSE_FACTOR = 2.0
# Events that are read at once where no request waits.
READ_EVENTS = 25_000
# More events than these are read by the process that makes snapshots.
MANY_EVENTS = 100_000
# A snapshot is made when so many events, and such a share of all, came since the last one, and not more often than so
# many seconds: each is a copy of the whole index.
SNAPSHOT_EVENTS, SNAPSHOT_SHARE, SNAPSHOT_SECONDS = 50_000, 0.1, 60.0
# Seconds between two looks for a snapshot that somebody waits for.
LOOK_SECONDS = 0.1
# Events after training that an index holds, some 60 bytes each, twice.
MAX_INDEX_EVENTS = 20_000_000
# Events of unknown items that wait; the newest are kept.
MAX_WAITING_EVENTS = 100_000
COLUMNS = ("seq", "user", "item", "time", "kind", "value")


class FeatureIndexUpdater:
    """Keeps the index of one version current. One thread calls `update`.

    After each update the index holds what the store holds after the events that the version has learned: nothing of
    users who were forgotten since. With more than MANY_EVENTS a snapshot without them is made first, in some seconds.
    What the version itself has learned of them stays in its counts, which name nobody, until the next training.

    Parameters
    ----------
    snapshots: None: there are none, all events are added here.
    """

    def __init__(self, store: Store, loaded: LoadedVersion, snapshots: FeatureSnapshots | None = None) -> None:
        self.store, self.loaded, self.index, self._snapshots = store, loaded, loaded.index, snapshots
        self._forget_count = store.forget_count()
        self._waiting = pl.DataFrame()
        self._ids: object = None
        self._is_full, self._complete_at = False, time.monotonic()
        # Whether the last update left events to the next one.
        self.is_behind = False
        # Set where the log was seen to have lost events: the next update rebuilds the index.
        self.stale = False
        # Whether the index holds events that were deleted, until a snapshot without them is there.
        self._is_outdated = False
        # Events that were in the index when a snapshot was last made or read, and when that was.
        self._snapshot_events, self._snapshot_at = 0, -math.inf
        if snapshots is not None:
            snapshots.read_again(loaded.version)

    def update(self, view: View, seconds: float | None = None, *, beside: bool = False) -> None:
        """Add the events that were stored since the last update.

        Parameters
        ----------
        seconds: after which the rest is left to the next update; None: all are added.
        beside: whether requests are answered meanwhile: between a few events there is a pause.
        """
        if self.index is None:
            return
        begun = time.monotonic()
        until = math.inf if seconds is None else begun + seconds
        self._drop_deleted(view, beside)
        if not self._catch_up_by_snapshot(view, wait=seconds is None):
            self.is_behind = True
            return
        self._add_waiting(view)
        batch_events = BATCH_EVENTS if beside or seconds is not None else READ_EVENTS
        while self.index.events < MAX_INDEX_EVENTS and len(
            batch := self.store.events(self.index.seq, batch_events, COLUMNS)
        ):
            batch_begun = time.monotonic()
            known, unknown = encode_events(batch, view)
            self.index.append(known, int(batch["seq"][-1]), len(batch))
            if len(unknown):
                self._waiting = pl.concat([self._waiting, unknown], how="diagonal").tail(MAX_WAITING_EVENTS)
            if self._snapshots is not None and self._snapshots.closed:
                return
            if time.monotonic() >= until and self.index.seq < self.store.last_seq:
                self.is_behind = True
                return
            if beside and len(batch) == batch_events:
                time.sleep(PAUSE_FACTOR * (time.monotonic() - batch_begun))
        self.is_behind = False  # not before: /ready is asked meanwhile
        if self.index.events < MAX_INDEX_EVENTS:
            self._complete_at = begun
        elif not self._is_full:
            self._is_full = True
            log.warning("service: %d events since version %d are as many as its feature index takes: train a new one",
                        self.index.events, self.loaded.version)  # fmt: skip
        self._make_snapshot_now_and_then()

    # -- deleted events -----------------------------------------------------------------------------------------------

    def _drop_deleted(self, view: View, beside: bool) -> None:
        """Rebuild the index, or have that done, where users were forgotten or the log has lost events."""
        forget_count = self.store.forget_count()
        if forget_count != self._forget_count or self.stale:
            self._forget_count, self.stale, self._is_outdated = forget_count, False, True
        if not self._is_outdated:
            return
        assert self.index is not None
        if self._take_snapshot(view, after=-1):
            return
        if self.index.events <= MANY_EVENTS or self._snapshots is None or not self._snapshots.make(view.version):
            self.rebuild(view, beside)

    def rebuild(self, view: View, beside: bool = False) -> None:
        """Replace the events of the index by those that the store holds now, after some were deleted.

        The cost grows with the events since the version.
        """
        assert self.index is not None
        events, count, self._waiting = read_events(
            self.store, view, self.index.learned_seq, self.index.seq, beside=beside
        )
        self.index.replace(events, self.index.seq, count)
        self._is_outdated = False

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def _catch_up_by_snapshot(self, view: View, wait: bool) -> bool:
        """Take over a snapshot where many events are missing. Returns whether the others may be added here.

        Parameters
        ----------
        wait: until there is one.
        """
        assert self.index is not None
        if self._snapshots is None:
            return True
        if self._snapshot_at == -math.inf:  # the first time
            self._snapshot_at = time.monotonic()
            self._take_snapshot(view, after=self.index.seq)
        while self._missing > MANY_EVENTS and self.index.events < MAX_INDEX_EVENTS:
            if self._take_snapshot(view, after=self.index.seq):
                continue
            if not self._snapshots.make(view.version):
                return True
            if not wait:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    @property
    def _missing(self) -> int:
        """At most how many events of the log are not in the index."""
        assert self.index is not None
        return self.store.last_seq - self.index.seq

    def _take_snapshot(self, view: View, after: int) -> bool:
        """Know what a snapshot knows of, where there is a new one with events after a sequence number."""
        assert self.index is not None
        found = None if self._snapshots is None else self._snapshots.newest(view, after)
        if found is None:
            return False
        self.index.replace_by(found.copies, found.seq, found.events)
        self._waiting, self._ids = read_waiting(self.store, found.waiting, COLUMNS), None
        self._forget_count, self._is_outdated = found.forget_count, False
        self._snapshot_events, self._snapshot_at = found.events, time.monotonic()
        return True

    def _make_snapshot_now_and_then(self) -> None:
        assert self.index is not None
        if self._snapshots is None or time.monotonic() - self._snapshot_at < SNAPSHOT_SECONDS:
            return
        new = self.index.events - self._snapshot_events
        if new < max(SNAPSHOT_EVENTS, SNAPSHOT_SHARE * self.index.events):
            return
        if self._snapshots.age(self.loaded.version) < SNAPSHOT_SECONDS or self._snapshots.make(self.loaded.version):
            self._snapshot_events = self.index.events
        self._snapshot_at = time.monotonic()

    # -- state --------------------------------------------------------------------------------------------------------

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
            known, self._waiting = encode_events(self._waiting, view)
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


def read_events(
    store: Store, view: View, after: int, until: int, *, beside: bool = False
) -> tuple[pl.DataFrame, int, pl.DataFrame]:
    """Encoded events of the log in (after, until], the number of rows read, and the events of unknown items.

    beside: as `FeatureIndexUpdater.update` takes it.
    """
    known, unknown, count = [NO_EVENTS], [pl.DataFrame()], 0
    for batch in _batches(store, after, until, BATCH_EVENTS if beside else READ_EVENTS):
        begun = time.monotonic()
        encoded, rest = encode_events(batch, view)
        known.append(encoded)
        unknown.append(rest.tail(MAX_WAITING_EVENTS))
        count += len(batch)
        if beside:
            time.sleep(PAUSE_FACTOR * (time.monotonic() - begun))
    return pl.concat(known), count, pl.concat(unknown, how="diagonal").tail(MAX_WAITING_EVENTS)


def _batches(store: Store, after: int, until: int, size: int) -> Iterator[pl.DataFrame]:
    while after < until and len(batch := store.events(after, size, COLUMNS)):
        after = int(batch["seq"][-1])
        yield batch.filter(pl.col("seq") <= until)


def encode_events(events: pl.DataFrame, view: View) -> tuple[pl.DataFrame, pl.DataFrame]:
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
