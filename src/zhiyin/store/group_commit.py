"""Group commit: events of many requests in one transaction; each request is told when its own are on the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import log
from zhiyin.store.errors import StoreAwayError, StoreFullError
from zhiyin.store.event_log import MAX_EVENTS_PER_TRANSACTION
from zhiyin.store.records import Event
from zhiyin.store.store import Store


class StoreBusyError(ZhiyinError):
    """The queue of events is full; nothing of this request was stored."""


class CommitTimeoutError(ZhiyinError):
    """The events were not committed in time; whether they will be is not known. A retry by id stores none twice."""


class StoreClosedError(ZhiyinError):
    """The store takes no more events; nothing of this request was stored."""


# Events of one request, and the future that is done when they are committed.
Request = tuple[list[Event], Future[list[int]]]
# Events after which, and seconds after which, the write-ahead log is written back.
CHECKPOINT_EVENTS, CHECKPOINT_SECONDS = 20_000, 5.0


class GroupCommitWriter:
    """A queue of events and the thread that writes them.

    While a transaction is on its way to the disk, events gather for the next one; so a single event costs a share of a
    commit, and no request waits for two commits.

    Parameters
    ----------
    waiting: events in the queue at most; beyond it `submit` raises StoreBusyError at once.
    """

    def __init__(self, store: Store, waiting: int = 50_000) -> None:
        self.store, self.max_waiting = store, waiting
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._lock, self._waiting, self._closed = threading.Lock(), 0, False
        self._is_failing = False  # whether the last transaction failed: one line in the log is enough
        self._thread = threading.Thread(target=self._run, name="zhiyin-writer", daemon=True)
        self._thread.start()
        self._n_written, self._checkpoint_due, self._ended = 0, threading.Event(), threading.Event()
        self._checkpoint_thread = threading.Thread(target=self._run_checkpoints, name="zhiyin-write-back", daemon=True)
        self._checkpoint_thread.start()

    @property
    def waiting(self) -> int:
        """Events that are not yet committed."""
        return self._waiting

    def submit(self, events: Sequence[Event], *, validated: bool = False) -> Future[list[int]]:
        """Queue events for the next transaction. The future is done when they are committed; see
        `Store.append_validated` for its result.

        Parameters
        ----------
        validated: the events come from `records.validated_event`; others are validated here.

        Raises DataError for an event that is not valid, StoreBusyError where the queue is full and StoreClosedError
        after `close`. The future raises StoreFullError or StoreAwayError where the events were not stored.
        """
        checked = list(events) if validated else [event.validated(self.store.clock()) for event in events]
        if len(checked) > MAX_EVENTS_PER_TRANSACTION:
            raise DataError(f"{len(checked):,} events at once", remedy=f"at most {MAX_EVENTS_PER_TRANSACTION:,}")
        done: Future[list[int]] = Future()
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store is closing", remedy="try again")
            if self._waiting + len(checked) > self.max_waiting:
                raise StoreBusyError(f"{self._waiting:,} events wait to be written", remedy="try again in a second")
            self._waiting += len(checked)
            self._queue.put((checked, done))
        return done

    def close(self) -> None:
        """Write the queue, then stop."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._ended.set()
        self._checkpoint_due.set()
        self._checkpoint_thread.join()

    def _run(self) -> None:
        stop = False
        while not stop:
            first = self._queue.get()
            if first is None:
                return
            group, size = [first], len(first[0])
            while size < MAX_EVENTS_PER_TRANSACTION:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    stop = True
                    break
                if size + len(following[0]) > MAX_EVENTS_PER_TRANSACTION:
                    self._commit(group)
                    group, size = [], 0
                group.append(following)
                size += len(following[0])
            self._commit(group)

    def _run_checkpoints(self) -> None:
        """Write SQLite's write-ahead log back, so that no commit is the one that has to.

        First, what the first events and histories would have to wait for is read.
        """
        try:
            self.store.load_tail()
        except Exception as error:  # whoever needs it reads it
            log.debug("store: the newest events are not read: %s", error)
        while not self._ended.is_set():
            self._checkpoint_due.wait(CHECKPOINT_SECONDS)
            self._checkpoint_due.clear()
            if self._n_written and not self._ended.is_set():
                self._n_written = 0
                try:
                    self.store.checkpoint()
                except Exception as error:  # the log grows, and SQLite writes it back itself
                    log.debug("store: the log is not written back: %s", error)

    def _commit(self, group: list[Request]) -> None:
        size = sum(len(events) for events, _ in group)
        try:
            # Requests that were cancelled meanwhile are left out; from here on none can be.
            self._write([(events, done) for events, done in group if done.set_running_or_notify_cancel()])
        finally:
            with self._lock:
                self._waiting -= size

    def _write(self, group: list[Request]) -> None:
        """Commit requests together. Where that fails for another reason than the state of the database, halves are
        committed on their own, so that a request that cannot be stored does not fail the others."""
        if not group:
            return
        try:
            new = self.store.append_validated([event for events, _ in group for event in events])
        except Exception as error:  # the thread goes on: the next transaction may succeed
            if len(group) > 1 and not isinstance(error, StoreFullError | StoreAwayError):
                middle = len(group) // 2
                self._write(group[:middle])
                self._write(group[middle:])
                return
            if not self._is_failing:
                log.warning("store: events are not written: %s", error)
            self._is_failing = True
            for _, done in group:
                done.set_exception(error)
            return
        self._is_failing = False
        self._n_written += len(new)
        if self._n_written >= CHECKPOINT_EVENTS:
            self._checkpoint_due.set()
        start = 0
        for events, done in group:
            done.set_result(new[start : start + len(events)])
            start += len(events)
