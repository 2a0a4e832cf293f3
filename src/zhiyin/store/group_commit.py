"""Group commit: events of many requests, one transaction, and each request hears when its own are on the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import log
from zhiyin.store.database import Store
from zhiyin.store.errors import StoreAwayError, StoreFullError
from zhiyin.store.event_log import MAX_EVENTS_PER_TRANSACTION
from zhiyin.store.records import Event


class StoreBusyError(ZhiyinError):
    """More is waiting to be written than may wait; nothing of this request was kept."""


class CommitTimeoutError(ZhiyinError):
    """The events were not committed in time; whether they will be is not known. A retry by id keeps none twice."""


class StoreClosedError(ZhiyinError):
    """The store takes no more events; nothing of this request was kept."""


# Events of one request, and who waits for what became of them.
Request = tuple[list[Event], Future[list[int]]]
# Events after which, and seconds after which, the log is written back.
WRITE_BACK_ROWS, WRITE_BACK_SECONDS = 20_000, 5.0


class GroupCommitWriter:
    """One thread writes what all others bring.

    While a transaction is on its way to the disk, what arrives is gathered for the next one; so a single event costs a
    share of a commit and a commit is never waited for twice.

    Parameters
    ----------
    waiting: events that may wait at most; beyond it `submit` raises StoreBusyError at once.
    """

    def __init__(self, store: Store, waiting: int = 50_000) -> None:
        self.store, self.most = store, waiting
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._lock, self._waiting, self._closed = threading.Lock(), 0, False
        self._streak = False  # whether the last transaction failed: one line in the log is enough
        self._thread = threading.Thread(target=self._work, name="zhiyin-writer", daemon=True)
        self._thread.start()
        self._since, self._full, self._ended = 0, threading.Event(), threading.Event()
        self._back = threading.Thread(target=self._write_back, name="zhiyin-write-back", daemon=True)
        self._back.start()

    @property
    def waiting(self) -> int:
        """Events that are not yet committed."""
        return self._waiting

    def submit(self, events: Sequence[Event], *, right: bool = False) -> Future[list[int]]:
        """Queue events for the next transaction. The future is done when they are committed; see
        `Store.append_validated` for its result.

        Parameters
        ----------
        right: the events come from `records.validated_event`; others are validated here.

        Raises DataError for an event that is not valid, StoreBusyError where the queue is full and StoreClosedError
        after `close`. The future raises StoreFullError or StoreAwayError where the events were not stored.
        """
        checked = list(events) if right else [event.validated(self.store.clock()) for event in events]
        if len(checked) > MAX_EVENTS_PER_TRANSACTION:
            raise DataError(f"{len(checked):,} events at once", remedy=f"at most {MAX_EVENTS_PER_TRANSACTION:,}")
        done: Future[list[int]] = Future()
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store is closing", remedy="try again")
            if self._waiting + len(checked) > self.most:
                raise StoreBusyError(f"{self._waiting:,} events wait to be written", remedy="try again in a second")
            self._waiting += len(checked)
            self._queue.put((checked, done))
        return done

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._ended.set()
        self._full.set()
        self._back.join()

    def _work(self) -> None:
        stop = False
        while not stop:
            first = self._queue.get()
            if first is None:
                return
            group, size = [first], len(first[0])
            while size < MAX_EVENTS_PER_TRANSACTION:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    stop = True
                    break
                if size + len(more[0]) > MAX_EVENTS_PER_TRANSACTION:
                    self._commit(group)
                    group, size = [], 0
                group.append(more)
                size += len(more[0])
            self._commit(group)

    def _write_back(self) -> None:
        """Have SQLite's log written back, so that no commit is the one that has to."""
        while not self._ended.is_set():
            self._full.wait(WRITE_BACK_SECONDS)
            self._full.clear()
            if self._since and not self._ended.is_set():
                self._since = 0
                try:
                    self.store.checkpoint()
                except Exception as error:  # the log grows, and SQLite writes it back itself
                    log.debug("store: the log is not written back: %s", error)

    def _commit(self, group: list[Request]) -> None:
        size = sum(len(events) for events, _ in group)
        try:
            # Whose request was given up meanwhile hears nothing; from here on none can be.
            self._keep([(events, done) for events, done in group if done.set_running_or_notify_cancel()])
        finally:
            with self._lock:
                self._waiting -= size

    def _keep(self, group: list[Request]) -> None:
        """Commit requests together. Where that fails for another reason than the state of the database, halves are
        committed on their own, so that a request that cannot be kept costs the others nothing but time."""
        if not group:
            return
        try:
            new = self.store.append_validated([event for events, _ in group for event in events])
        except Exception as error:  # the writer must live on: the next transaction may succeed
            if len(group) > 1 and not isinstance(error, StoreFullError | StoreAwayError):
                middle = len(group) // 2
                self._keep(group[:middle])
                self._keep(group[middle:])
                return
            if not self._streak:
                log.warning("store: events are not written: %s", error)
            self._streak = True
            for _, done in group:
                done.set_exception(error)
            return
        self._streak = False
        self._since += len(new)
        if self._since >= WRITE_BACK_ROWS:
            self._full.set()
        start = 0
        for events, done in group:
            done.set_result(new[start : start + len(events)])
            start += len(events)
