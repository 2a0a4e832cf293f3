"""StreamReader: what streams have computed, read within the time of a request, or not at all.

The streamed state is beside the store, never in its place: where it cannot be reached, or answers slowly, its readers
do without it until it answers again. A request waits for it once at most, for as long as the state lets it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import TypeVar

import polars as pl

from zhiyin.core.call_pool import CallPool
from zhiyin.core.durations import SECOND
from zhiyin.core.errors import ZhiyinError
from zhiyin.core.run import log
from zhiyin.service.health_issues import HealthIssue, one_line_reason
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.stream_state import StreamState, forget_streamed

T = TypeVar("T")

# Seconds that a request waits for the state, and that other threads do.
TIMEOUT_SECONDS, POLL_TIMEOUT_SECONDS = 0.5, 5.0
# Reads at once; further ones wait for their turn within their time.
MAX_READS = 64
# Seconds between two attempts to reach the state again, and between two looks whether it lacks results.
RETRY_SECONDS, CHECK_SECONDS = 1.0, 10.0
# Users who were forgotten while the state was away, and are dropped from it when it is back.
MAX_PENDING_FORGETS = 10_000
STREAMS_AWAY = HealthIssue(
    "streams",
    "their state does not answer: histories are read from the store, trending items and co-visits are those of before",
    "see whether the database of [service] streams runs",
)
STREAMS_INCOMPLETE = HealthIssue(
    "streams",
    "their state was emptied and lacks results whose files are deleted: trending items and co-visits are of later ones",
    "compute them again: end zhiyin serve, then zhiyin stream stop and zhiyin stream start --fresh",
)
# Seconds after which an event that histories of streams lack is a sign that the jobs do not go on.
BEHIND_SECONDS = 600.0
STREAMS_BEHIND = HealthIssue(
    "streams",
    "histories lack events that arrived more than ten minutes ago, and so may trending items and co-visits",
    "see whether the jobs run and what their last failure was, zhiyin stream status; "
    "and whether a file of results is damaged: the log",
)


class StreamReader:
    """Reads of a streamed state. Any number of threads may use it; one of them calls `poll`.

    Parameters
    ----------
    open_state: connects to the state, and raises where it cannot.
    keep: microseconds after which the store deletes events, so that they do not count in histories; None: never.
    store: whose events the state is to follow; None: whether it does is not looked for.

    Attributes
    ----------
    away: whether the state cannot be read at the moment, and is done without.
    """

    def __init__(
        self, open_state: Callable[[], StreamState], keep: int | None = None, store: Store | None = None
    ) -> None:
        self._open, self._keep, self._store = open_state, keep, store
        self._state: StreamState | None = None
        self._retry_at, self._is_closed = 0.0, False
        self._pool = CallPool(MAX_READS, "zhiyin-streams")
        # The attempt to reach the state again that is under way.
        self._attempt: Future[None] | None = None
        # Users who are still to be dropped from the state, with their stores.
        self._pending: dict[str, Store] = {}
        # Why the state is away; empty: it is not.
        self._reason = ""
        self.away = True
        self._is_incomplete, self._is_behind, self._check_at = False, False, 0.0
        self.poll(POLL_TIMEOUT_SECONDS)
        if self.away and not self._reason:
            self._set_away(TimeoutError())

    def poll(self, timeout: float = 0.0) -> None:
        """Reach the state again where it is away: begin to, or see whether it was reached since; then drop from it who
        was forgotten meanwhile.

        timeout: seconds that it is waited for.
        """
        for user, store in [*self._pending.items()]:
            if self.away:
                break
            self.forget(store, user)
        if not self.away and time.monotonic() >= self._check_at:
            self._check()
        if not self.away or self._is_closed or time.monotonic() < self._retry_at:
            return
        self._attempt = self._attempt or self._pool.submit(self._reach)
        try:
            self._attempt.result(timeout)
        except Exception as error:
            if self._attempt.done():
                self._attempt = None
                self._set_away(error)
            return
        self._attempt = None
        if self._reason:
            log.info("service: the state of streams answers again")
        self._reason, self.away = "", False
        self._check()

    def _check(self) -> None:
        """See whether the state lacks results, for good or since the jobs do not go on."""
        found = self.read(lambda state: (state.is_incomplete, state.mark), POLL_TIMEOUT_SECONDS)
        if found is None:
            return
        self._is_incomplete, mark = found
        self._check_at = time.monotonic() + CHECK_SECONDS
        if self._store is None or mark == 0:  # of a state that is not known to be complete nothing is known
            self._is_behind = False
            return
        try:
            missing = self._store.events(mark, 1, ("received",))["received"].to_list()
            self._is_behind = bool(missing) and self._store.clock() - missing[0] > BEHIND_SECONDS * SECOND
        except ZhiyinError as error:  # of the store, which says so itself
            log.debug("service: it is not known how far streams are behind: %s", error)

    def _reach(self) -> None:
        if self._state is None:
            self._state = self._open()
        self._state.version("trending")

    def read(self, call: Callable[[StreamState], T], timeout: float | None = None) -> T | None:
        """What a call of the state returns; None where the state is away or does not answer in time.

        timeout: seconds; None: TIMEOUT_SECONDS, for which a request waits.
        """
        state = self._state
        if self.away or state is None:
            return None
        pool = self._pool
        try:
            future = pool.submit(lambda: call(state))
        except RuntimeError:  # closed since: another thread has found the state away
            return None
        try:
            return future.result(TIMEOUT_SECONDS if timeout is None else timeout)
        except CancelledError:
            return None
        except Exception as error:
            future.cancel()
            if pool is self._pool:
                self._set_away(error)
            return None

    def _set_away(self, error: Exception) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        reason = "it does not answer in time" if isinstance(error, TimeoutError) else one_line_reason(error)
        if not self._reason:
            log.warning("service: the state of streams is done without: %s", reason)
        self._reason, self.away = reason, True
        # Threads of calls that hang are left behind, and end when their calls return.
        pool, self._pool = self._pool, CallPool(MAX_READS, "zhiyin-streams")
        pool.close()

    def version(self, job: str) -> int | None:
        """A number that changes when the results of a job do."""
        return self.read(lambda state: state.version(job), POLL_TIMEOUT_SECONDS)

    def trending(self, n: int) -> pl.DataFrame | None:
        """Frame item, log_score: the n highest."""
        return self.read(lambda state: state.trending(n), POLL_TIMEOUT_SECONDS)

    def covisits(self, items: Sequence[str], n: int) -> pl.DataFrame | None:
        """Frame item, other, log_score: the n highest of each item."""
        return self.read(lambda state: state.covisits(items, n))

    def history(self, user: str, now: int) -> tuple[list[Event], int] | None:
        """Events of a user that are not too old for the store, and the number up to which there are no others.

        now: microseconds UTC.
        """
        found = self.read(lambda state: state.history(user))
        if found is None:
            return None
        events, mark = found
        if self._keep is not None:
            events = [event for event in events if event.time >= now - self._keep]
        return events, mark

    def mark(self) -> int | None:
        """The sequence number up to which all events are in histories."""
        return self.read(lambda state: state.mark)

    def forget(self, store: Store, user: str) -> None:
        """Drop a user whom the store has forgotten; where the state is away, once it is back.

        Until then nothing of the user is read of it: histories of users who were ever forgotten come from the store.
        """

        def drop(state: StreamState) -> bool:
            forget_streamed(store, state, user)
            return True

        if self.read(drop, POLL_TIMEOUT_SECONDS):
            self._pending.pop(user, None)
        elif len(self._pending) < MAX_PENDING_FORGETS:
            self._pending[user] = store
        else:
            log.warning("service: too many users were forgotten while streams are away: zhiyin forget again")

    def health_issues(self) -> list[HealthIssue]:
        """That the state is done without, while it is; or that it lacks results, or is behind."""
        if self.away:
            return [STREAMS_AWAY]
        return [STREAMS_INCOMPLETE] * self._is_incomplete + [STREAMS_BEHIND] * self._is_behind

    def close(self) -> None:
        """Close the connections; nothing is read from then on."""
        self._is_closed, self.away = True, True
        self._pool.close()
        state, self._state = self._state, None
        if state is not None:
            state.close()
