"""Forgets what is older than the settings say: events, and traces of lists; now and then, in a thread of its own."""

from __future__ import annotations

import threading
import time

from zhiyin.core.durations import microseconds
from zhiyin.core.run import log
from zhiyin.data.project_config import ServiceSection
from zhiyin.store.database import Store

# Seconds between two looks; that the clock may run ahead of the time that really passed.
LOOK, JUMP = 600.0, 86_400.0


class RetentionJob:
    """The thread. One is enough for a store, however many processes answer."""

    def __init__(self, store: str, settings: ServiceSection) -> None:
        self._address, self._settings = store, settings
        self._stop = threading.Event()
        self._ahead = _ahead()
        self._thread = threading.Thread(target=self._work, name="zhiyin-tidy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _work(self) -> None:
        while True:
            try:
                self.look()
            except Exception as error:  # serving goes on; the next look may succeed
                log.warning("service: what is too old could not be removed: %s", error)
            if self._stop.wait(LOOK):
                return

    def look(self) -> None:
        """Remove what is too old now. Not while the clock is ahead of what really passed since the start: a clock that
        is set wrong must not have everything deleted."""
        if _ahead() - self._ahead > JUMP:
            log.warning("service: the clock jumped ahead: nothing is removed for its age; restart if it is right")
            return
        now, store = time.time_ns() // 1000, Store(self._address)
        try:
            oldest = max(now - microseconds(self._settings.keep_lists), self._too_many(store))
            for _ in store.drop_lists_in_batches(oldest):
                if self._stop.wait(0.01):
                    return
            if self._settings.keep is not None:
                store.drop_events_before(now - microseconds(self._settings.keep))
        finally:
            store.close()

    def _too_many(self, store: Store) -> int:
        """Before which moment lists have to go so that the rest takes no more than [service] lists_size."""
        (number, size), most = store.trace_count_and_bytes(), self._settings.lists_size << 20
        if size <= most:
            return 0
        return store.list_time_at(int(number * (1 - 0.9 * most / size))) or 0


def _ahead() -> float:
    """Seconds that the clock on the wall is ahead of the one that counts since the machine was started."""
    boot = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the former also counts while a machine sleeps
    return time.time() - time.clock_gettime(boot)
