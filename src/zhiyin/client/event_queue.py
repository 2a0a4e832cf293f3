"""A queue of events that a background thread sends, so that the caller never waits for the network."""

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
from zhiyin.client.api_types import Event, Timestamp
from zhiyin.client.clients import Client
from zhiyin.client.errors import ApiError
from zhiyin.client.event_calls import MAX_EVENTS_PER_REQUEST, event_json
from zhiyin.core.errors import ConfigError, ZhiyinError
from zhiyin.core.uid import fresh_id

log = logging.getLogger("zhiyin")
# Seconds between two attempts at most: by the queue's own backoff, and where the service sends Retry-After.
MAX_BACKOFF_SECONDS, MAX_RETRY_AFTER_SECONDS = 30.0, 600.0


class EventQueueFullError(ZhiyinError):
    """More events wait to be sent than the queue may hold, or the queue is closed."""


class EventQueue:
    """Sends events in batches from a thread of its own. Use it in a `with` block, or call `close`.

    While the service is unreachable, overloaded, out of disk space or failing, events wait and are sent again with
    exponential backoff, or when Retry-After says. Event ids keep a repeated request from storing an event twice. Only
    events that the service refuses for good are given up; where one event makes a request fail, that one alone.

    Parameters
    ----------
    client: sends the requests; the queue does not close it.
    max_events: events that may wait.
    on_full: what `add` does beyond that: "raise" EventQueueFullError, or "drop" the oldest event that waits.
    batch_size: events of one request at most; as many waiting events are sent at once.
    flush_seconds: seconds after which fewer are sent.

    Attributes
    ----------
    sent, rejected, dropped: counts of events: accepted by the service, refused by it, dropped here.
    """

    def __init__(
        self,
        client: Client,
        max_events: int = 10_000,
        on_full: Literal["raise", "drop"] = "raise",
        *,
        batch_size: int = 100,
        flush_seconds: float = 1.0,
    ) -> None:
        valid_batch = 1 <= batch_size <= MAX_EVENTS_PER_REQUEST
        if max_events < 1 or not valid_batch or flush_seconds <= 0 or on_full not in ("raise", "drop"):
            raise ConfigError(
                "max_events, on_full, batch_size or flush_seconds is out of range",
                remedy=f"batch_size is 1 to {MAX_EVENTS_PER_REQUEST}",
            )
        self.sent = self.rejected = self.dropped = 0
        self._client, self._max_events, self._on_full = client, max_events, on_full
        self._batch_size, self._flush_seconds = batch_size, flush_seconds
        self._pending: deque[Event] = deque()
        self._in_flight: list[Event] = []
        self._closed = self._flushing = False
        self._request_size = batch_size  # events of the next request
        self._retry_after = 0.0  # seconds that the service asks to wait for
        self._deadline = float("inf")
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="zhiyin-events", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def add(
        self,
        user: str,
        item: str,
        *,
        kind: str = "event",
        time: Timestamp | None = None,
        value: float | None = None,
        id: str | None = None,
        list_id: str | None = None,
        text: str | None = None,
    ) -> str:
        """Queue an event and return its id. An event without a time gets the present one.

        Raises ConfigError for an event that cannot be sent, EventQueueFullError where the queue is full or closed.
        """
        timestamp = clock.time_ns() // 1000 if time is None else time
        event = Event(user, item, kind, timestamp, value, id or fresh_id(), list_id, text)
        as_json(event_json(event))  # raises here, for the caller, what the thread could only log
        with self._condition:
            if self._closed:
                raise EventQueueFullError("events are no longer taken: this queue is closed")
            if len(self._pending) + len(self._in_flight) >= self._max_events:
                if self._on_full == "raise":
                    raise EventQueueFullError(
                        f"{self._max_events} events wait to be sent", remedy='or EventQueue(..., on_full="drop")'
                    )
                self.dropped += 1
                if not self._pending:  # all are being sent
                    return event.id
                self._pending.popleft()
            self._pending.append(event)
            if len(self._pending) >= self._batch_size:
                self._condition.notify_all()
        return event.id

    def flush(self, timeout: float = 5.0) -> bool:
        """Send all waiting events now. Returns whether all were sent within `timeout` seconds."""
        with self._condition:
            self._flushing = True
            self._condition.notify_all()
            return self._condition.wait_for(lambda: not self._pending and not self._in_flight, timeout)

    def close(self, timeout: float = 5.0) -> int:
        """Send all waiting events, then stop. Returns how many could not be sent within `timeout` seconds."""
        with self._condition:
            self._closed, self._deadline = True, clock.monotonic() + timeout
            self._condition.notify_all()
        self._thread.join(timeout + 1)
        atexit.unregister(self.close)
        n_unsent = len(self._pending) + len(self._in_flight)
        if n_unsent:
            log.warning("events: %d could not be sent", n_unsent)
        return n_unsent

    def __enter__(self) -> EventQueue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        failures = 0
        while True:
            with self._condition:
                if not failures:
                    self._condition.wait_for(
                        lambda: self._closed or self._flushing or len(self._pending) >= self._batch_size,
                        self._flush_seconds,
                    )
                if not self._in_flight:
                    size = min(self._request_size, len(self._pending))
                    self._in_flight = [self._pending.popleft() for _ in range(size)]
                if not self._in_flight:
                    self._flushing, failures = False, 0
                    self._condition.notify_all()
                    if self._closed:
                        return
                    continue
            failures = 0 if self._send() else failures + 1
            with self._condition:
                if failures:  # the same events again, with exponential backoff
                    backoff = self._flush_seconds * 2.0 ** min(failures - 1, 10)
                    delay = min(MAX_BACKOFF_SECONDS, backoff) * random.uniform(0.5, 1.0)
                    delay = max(delay, min(self._retry_after, MAX_RETRY_AFTER_SECONDS))
                    left = max(0.0, self._deadline - clock.monotonic())
                    self._condition.wait_for(lambda: self._closed, min(delay, left))
                    if self._closed and clock.monotonic() >= self._deadline:
                        return
                    if self._closed:  # again until the deadline, but not in a busy loop
                        self._condition.wait(min(0.2, max(0.0, self._deadline - clock.monotonic())))

    def _send(self) -> bool:
        """Send the events in flight. Returns False where the request failed and waits for another attempt."""
        try:
            result = self._client.events(self._in_flight)
        except ApiError as error:
            self._retry_after = error.retry_after
            if error.retryable and error.status != 500:
                return False
            if len(self._in_flight) > 1 and error.status not in (403, 404):  # a single event may be the cause
                self._halve_request()
                return not error.retryable
            if error.retryable:
                self._requeue_last()
                return False
            log.warning("events: %d were refused with status %d", len(self._in_flight), error.status)
            n_rejected = len(self._in_flight)
        else:
            n_rejected = result.rejected
        with self._condition:
            self.sent += len(self._in_flight) - n_rejected
            self.rejected += n_rejected
            self._in_flight, self._retry_after = [], 0.0
            self._request_size = min(self._batch_size, 2 * self._request_size)
        return True

    def _halve_request(self) -> None:
        """Leave the first half of the events in flight; the other half is the first that waits."""
        with self._condition:
            self._request_size = max(1, len(self._in_flight) // 2)
            self._pending.extendleft(reversed(self._in_flight[self._request_size :]))
            del self._in_flight[self._request_size :]

    def _requeue_last(self) -> None:
        """Put the events in flight behind all others that wait."""
        with self._condition:
            self._pending.extend(self._in_flight)
            self._in_flight = []
