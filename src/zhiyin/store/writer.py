"""Group commit: events of many requests, one transaction, and each request hears when its own are on the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import log
from zhiyin.store.database import BATCH, Store
from zhiyin.store.records import Event


class StoreBusyError(ZhiyinError):
    """More is waiting to be written than may wait; nothing of this request was kept."""


class StoreClosedError(ZhiyinError):
    """The store takes no more events; nothing of this request was kept."""


class Writer:
    """One thread writes what all others bring.

    While a transaction is on its way to the disk, what arrives is gathered for the next one; so a single event costs a
    share of a commit and a commit is never waited for twice.

    Parameters
    ----------
    waiting: events that may wait at most; beyond it `submit` raises StoreBusyError at once.
    """

    def __init__(self, store: Store, waiting: int = 50_000) -> None:
        self.store, self.most = store, waiting
        self._queue: queue.SimpleQueue[tuple[list[Event], Future[list[bool]]] | None] = queue.SimpleQueue()
        self._lock, self._waiting, self._closed = threading.Lock(), 0, False
        self._streak = False  # whether the last transaction failed: one line in the log is enough
        self._thread = threading.Thread(target=self._work, name="zhiyin-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Events that are not yet committed."""
        return self._waiting

    def submit(self, events: Sequence[Event]) -> Future[list[bool]]:
        """Done, with `Store.append`'s answer, when the events are committed. Each is checked here, once.

        Raises at once: DataError for an event that cannot be, StoreBusyError where too much waits, StoreClosedError
        after `close`. The future raises StoreFullError or StoreAwayError where the events were not kept.
        """
        checked = [event.checked() for event in events]
        if len(checked) > BATCH:
            raise DataError(f"{len(checked):,} events at once", remedy=f"at most {BATCH:,}")
        done: Future[list[bool]] = Future()
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

    def _work(self) -> None:
        stop = False
        while not stop:
            first = self._queue.get()
            if first is None:
                return
            group, size = [first], len(first[0])
            while size < BATCH:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    stop = True
                    break
                if size + len(more[0]) > BATCH:
                    self._commit(group)
                    group, size = [], 0
                group.append(more)
                size += len(more[0])
            self._commit(group)

    def _commit(self, group: list[tuple[list[Event], Future[list[bool]]]]) -> None:
        size = sum(len(events) for events, _ in group)
        # Whose request was given up meanwhile hears nothing; from here on none can be.
        group = [(events, done) for events, done in group if done.set_running_or_notify_cancel()]
        try:
            new = self.store.keep([event for events, _ in group for event in events])
        except Exception as error:  # the writer must live on: the next transaction may succeed
            if not self._streak:
                log.warning("store: events are not written: %s", error)
            self._streak = True
            for _, done in group:
                done.set_exception(error)
        else:
            self._streak = False
            start = 0
            for events, done in group:
                done.set_result(new[start : start + len(events)])
                start += len(events)
        finally:
            with self._lock:
                self._waiting -= size
