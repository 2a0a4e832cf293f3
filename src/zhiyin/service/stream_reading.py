"""StreamReader: what streams have computed, read within the time of a request, or not at all.

The streamed state is beside the store, never in its place: where it cannot be reached, or answers slowly, its readers
do without it until it answers again. A request waits for it once at most, for as long as the state lets it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import polars as pl

from zhiyin.core.run import log
from zhiyin.service.health_issues import HealthIssue, one_line_reason
from zhiyin.store.records import Event

T = TypeVar("T")

# Seconds between two attempts to reach the state again.
RETRY_SECONDS = 1.0
STREAMS_AWAY = HealthIssue(
    "streams",
    "their state does not answer: histories are read from the store, trending items and co-visits are those of before",
    "see whether the database of [service] streams runs",
)


class StreamState(Protocol):
    """What is read of the results of streams."""

    def version(self, job: str) -> int: ...
    def trending(self, n: int) -> pl.DataFrame: ...
    def covisits(self, items: Sequence[str], n: int) -> pl.DataFrame: ...
    def history(self, user: str) -> tuple[list[Event], int]: ...
    def forget(self, user: str, seq: int) -> None: ...
    def close(self) -> None: ...


class StreamReader:
    """Reads of a streamed state. Any number of threads may use it; one of them calls `poll`.

    Parameters
    ----------
    open_state: connects to the state, and raises where it cannot.
    keep: microseconds after which the store deletes events, so that they do not count in histories; None: never.
    """

    def __init__(self, open_state: Callable[[], StreamState], keep: int | None = None) -> None:
        self._open, self._keep = open_state, keep
        self._state: StreamState | None = None
        self._retry_at = 0.0
        self._lock = threading.Lock()
        self._versions: dict[str, int] = {}
        self.away = False
        self.poll()

    def poll(self) -> None:
        """Reach the state again, where it was away."""
        with self._lock:
            if not self.away and self._state is not None:
                return
            if time.monotonic() < self._retry_at:
                return
            try:
                if self._state is None:
                    self._state = self._open()
                self._state.version("trending")
            except Exception as error:
                self._set_away(error)
            else:
                if self.away:
                    log.info("service: the state of streams answers again")
                self.away = False

    def read(self, call: Callable[[StreamState], T]) -> T | None:
        """What a call of the state returns; None while the state is away."""
        state = self._state
        if self.away or state is None:
            return None
        try:
            return call(state)
        except Exception as error:
            with self._lock:
                self._set_away(error)
            return None

    def _set_away(self, error: Exception) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if not self.away:
            log.warning("service: the state of streams is done without: %s", one_line_reason(error))
        self.away = True

    def version(self, job: str) -> int | None:
        """A number that changes when the results of a job do."""
        return self.read(lambda state: state.version(job))

    def trending(self, n: int) -> pl.DataFrame | None:
        """Frame item, log_score: the n highest."""
        return self.read(lambda state: state.trending(n))

    def covisits(self, items: Sequence[str], n: int) -> pl.DataFrame | None:
        """Frame item, other, log_score: the n highest of each item."""
        return self.read(lambda state: state.covisits(items, n))

    def history(self, user: str, now: int) -> tuple[list[Event], int] | None:
        """Events of a user that the store still has to have, and the number up to which there are no others."""
        found = self.read(lambda state: state.history(user))
        if found is None:
            return None
        events, mark = found
        if self._keep is not None:
            events = [event for event in events if event.time >= now - self._keep]
        return events, mark

    def forget(self, user: str, seq: int) -> None:
        """Drop a user whom the store has forgotten, with all events up to a number."""
        self.read(lambda state: state.forget(user, seq))

    def health_issues(self) -> list[HealthIssue]:
        return [STREAMS_AWAY] if self.away else []

    def close(self) -> None:
        with self._lock:
            if self._state is not None:
                self._state.close()
            self._state, self.away = None, True
            self._retry_at = float("inf")
