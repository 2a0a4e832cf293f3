"""Events in the background: a shop's request never waits for them."""

from __future__ import annotations

import atexit
import logging
import random
import threading
import time as clock
from collections import deque
from types import TracebackType
from typing import Literal

from zhiyin.client.api_call import as_json
from zhiyin.client.api_types import Event, Moment
from zhiyin.client.clients import Client
from zhiyin.client.errors import ApiError
from zhiyin.client.event_calls import BATCH, sendable
from zhiyin.core.errors import ConfigError, ZhiyinError
from zhiyin.core.uid import fresh_id

log = logging.getLogger("zhiyin")
# Seconds between two tries at most: by itself, and where the service asks for it.
LONGEST, PATIENCE = 30.0, 600.0


class EventsFullError(ZhiyinError):
    """More events wait to be sent than `Events` may hold."""


class Events:
    """Sends events from a thread of its own, so that a request of the shop never waits for them.

    Parameters
    ----------
    client: is used, and not closed.
    most: events that may wait. full: what `add` does beyond: "raise" EventsFullError, or "drop" the oldest that waits.
    batch, every: it sends as soon as so many wait, and else after so many seconds.

    While the service is out of reach, busy, full or broken events wait and are tried again, later each time and as it
    asks with Retry-After; ids keep each from being kept twice. Only what it says can never be kept is given up, and
    where one event spoils a request, that one alone. `sent`, `rejected` (by the service) and `dropped` (here) count.
    Use it with `with`, or call `close`.
    """

    def __init__(
        self,
        client: Client,
        most: int = 10_000,
        full: Literal["raise", "drop"] = "raise",
        *,
        batch: int = 100,
        every: float = 1.0,
    ) -> None:
        if most < 1 or not 1 <= batch <= BATCH or every <= 0 or full not in ("raise", "drop"):
            raise ConfigError("most, full, batch or every is out of range", remedy=f"batch is 1 to {BATCH}")
        self.sent = self.rejected = self.dropped = 0
        self._client, self._most, self._full, self._batch, self._every = client, most, full, batch, every
        self._waiting: deque[Event] = deque()
        self._going: list[Event] = []
        self._closed = self._hurry = False
        self._size, self._after = batch, 0.0  # events of the next request; seconds that the service asks to wait for
        self._until = float("inf")
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="zhiyin-events", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def add(
        self,
        user: str,
        item: str,
        *,
        kind: str = "event",
        time: Moment | None = None,
        value: float | None = None,
        id: str | None = None,
        list_id: str | None = None,
    ) -> str:
        """Take an event, to be sent soon; its id. Without a time it is given this moment."""
        moment = clock.time_ns() // 1000 if time is None else time
        event = Event(user, item, kind, moment, value, id or fresh_id(), list_id)
        as_json(sendable(event))  # what cannot be sent is said here, to who brings it
        with self._change:
            if self._closed:
                raise EventsFullError("events are no longer taken: this was closed")
            if len(self._waiting) + len(self._going) >= self._most:
                if self._full == "raise":
                    raise EventsFullError(f"{self._most} events wait to be sent", remedy='or Events(..., full="drop")')
                self.dropped += 1
                if not self._waiting:  # all are on their way
                    return event.id
                self._waiting.popleft()
            self._waiting.append(event)
            if len(self._waiting) >= self._batch:
                self._change.notify_all()
        return event.id

    def flush(self, timeout: float = 5.0) -> bool:
        """Send what waits now; whether all was sent within so many seconds."""
        with self._change:
            self._hurry = True
            self._change.notify_all()
            return self._change.wait_for(lambda: not self._waiting and not self._going, timeout)

    def close(self, timeout: float = 5.0) -> int:
        """Send what waits, then end; how many events could not be sent within so many seconds."""
        with self._change:
            self._closed, self._until = True, clock.monotonic() + timeout
            self._change.notify_all()
        self._thread.join(timeout + 1)
        atexit.unregister(self.close)
        left = len(self._waiting) + len(self._going)
        if left:
            log.warning("events: %d could not be sent", left)
        return left

    def __enter__(self) -> Events:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        failed = 0
        while True:
            with self._change:
                if not failed:
                    self._change.wait_for(
                        lambda: self._closed or self._hurry or len(self._waiting) >= self._batch, self._every
                    )
                if not self._going:
                    self._going = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
                if not self._going:
                    self._hurry, failed = False, 0
                    self._change.notify_all()
                    if self._closed:
                        return
                    continue
            failed = 0 if self._try() else failed + 1
            with self._change:
                if failed:  # the same events again, a little later each time
                    wait = min(LONGEST, self._every * 2.0 ** min(failed - 1, 10)) * random.uniform(0.5, 1.0)
                    wait = max(wait, min(self._after, PATIENCE))
                    self._change.wait_for(lambda: self._closed, min(wait, max(0.0, self._until - clock.monotonic())))
                    if self._closed and clock.monotonic() >= self._until:
                        return
                    if self._closed:  # the end is near: once more, without a hurry that heats the machine
                        self._change.wait(min(0.2, max(0.0, self._until - clock.monotonic())))

    def _try(self) -> bool:
        """Send what goes; whether that is settled, one way or the other."""
        try:
            kept = self._client.events(self._going)
        except ApiError as error:
            self._after = error.after
            if error.worth_another_try and error.status != 500:
                return False
            if len(self._going) > 1 and error.status not in (403, 404):  # one of them may spoil the rest
                self._fewer()
                return not error.worth_another_try
            if error.worth_another_try:
                self._aside()
                return False
            log.warning("events: %d were refused with status %d", len(self._going), error.status)
            lost = len(self._going)
        else:
            lost = kept.rejected
        with self._change:
            self.sent += len(self._going) - lost
            self.rejected += lost
            self._going, self._after = [], 0.0
            self._size = min(self._batch, 2 * self._size)
        return True

    def _fewer(self) -> None:
        """Have only half of what goes sent next."""
        with self._change:
            self._size = max(1, len(self._going) // 2)
            self._waiting.extendleft(reversed(self._going[self._size :]))
            del self._going[self._size :]

    def _aside(self) -> None:
        """Have what goes sent after all others that wait."""
        with self._change:
            self._waiting.extend(self._going)
            self._going = []
