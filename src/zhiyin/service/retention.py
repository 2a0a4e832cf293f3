"""Retention: deletes events and traces of lists that are older than the settings allow, in a thread of its own."""

from __future__ import annotations

import threading
import time

from zhiyin.core.durations import microseconds
from zhiyin.core.run import log
from zhiyin.data.project_config import ServiceSection
from zhiyin.store.store import Store

# Seconds between two runs; seconds that the clock may run ahead of the time that has really passed.
RUN_EVERY_SECONDS, MAX_CLOCK_JUMP = 600.0, 86_400.0


class RetentionJob:
    """The thread that deletes. One is enough for a store, however many processes answer."""

    def __init__(self, store: str, settings: ServiceSection) -> None:
        self._address, self._settings = store, settings
        self._stop = threading.Event()
        self._start_offset = _clock_offset()
        self._thread = threading.Thread(target=self._work, name="zhiyin-tidy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _work(self) -> None:
        while True:
            try:
                self.run()
            except Exception as error:  # serving goes on; the next run may succeed
                log.warning("service: what is too old could not be removed: %s", error)
            if self._stop.wait(RUN_EVERY_SECONDS):
                return

    def run(self) -> None:
        """Delete what is too old now.

        Nothing is deleted while the clock is ahead of the time that has really passed since the start: a clock that is
        set wrong must not delete everything.
        """
        if _clock_offset() - self._start_offset > MAX_CLOCK_JUMP:
            log.warning("service: the clock jumped ahead: nothing is removed for its age; restart if it is right")
            return
        now, store = time.time_ns() // 1000, Store(self._address)
        try:
            oldest = max(now - microseconds(self._settings.keep_lists), self._time_of_excess(store))
            for _ in store.drop_lists_in_batches(oldest):
                if self._stop.wait(0.01):
                    return
            if self._settings.keep is not None:
                store.drop_events_before(now - microseconds(self._settings.keep))
        finally:
            store.close()

    def _time_of_excess(self, store: Store) -> int:
        """The time before which lists are deleted so that the rest takes at most [service] lists_size; 0: none."""
        (number, size), max_size = store.trace_count_and_bytes(), self._settings.lists_size << 20
        if size <= max_size:
            return 0
        return store.list_time_at(int(number * (1 - 0.9 * max_size / size))) or 0


def _clock_offset() -> float:
    """Seconds that the wall clock is ahead of the clock that counts since the machine was started."""
    boot = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the former also counts while a machine sleeps
    return time.time() - time.clock_gettime(boot)
