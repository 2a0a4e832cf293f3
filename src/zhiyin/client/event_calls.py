"""Calls that send events."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.requests import MAX_EVENTS_PER_REQUEST
from zhiyin.client.api_call import Call, CallSequence, endpoint_call, present_fields
from zhiyin.client.api_types import Columns, Event, EventResult, EventsResult, Timestamp
from zhiyin.client.errors import ApiError
from zhiyin.core.errors import ConfigError
from zhiyin.core.uid import fresh_id


def event(
    user: str,
    item: str,
    *,
    kind: str = "event",
    time: Timestamp | None = None,
    value: float | None = None,
    id: str | None = None,
    list_id: str | None = None,
    text: str | None = None,
) -> Call[EventResult]:
    """Send one event; answered once it is on the disk. Raises ApiError for an event that is rejected."""

    def read(body: Any) -> EventResult:
        result = _read_results(body).events[0]
        if result.status == "rejected":
            raise ApiError(400, f"the event was rejected: {result.reason}")
        return result

    payload = event_json(Event(user, item, kind, time, value, id or fresh_id(), list_id, text))
    return endpoint_call(endpoints.EVENTS, read=read, body={"events": [payload]})


def events(events: Iterable[Event | Columns]) -> CallSequence[EventsResult]:
    """Send many events, at most MAX_EVENTS_PER_REQUEST in a request. A mapping without an id is given one.

    Where this raises, some events may be stored: send the same `Event` objects (or ids) again, and none is stored
    twice.
    """

    def calls() -> Iterator[Call[EventsResult]]:
        rows = iter(events)
        while batch := [event_json(row) for row in itertools.islice(rows, MAX_EVENTS_PER_REQUEST)]:
            yield endpoint_call(endpoints.EVENTS, read=_read_results, body={"events": batch})

    def join(parts: list[EventsResult]) -> EventsResult:
        return EventsResult([result for part in parts for result in part.events], sum(part.rejected for part in parts))

    return CallSequence(calls(), join)


def event_json(event: Event | Columns) -> dict[str, Any]:
    """The JSON object of an event, with an id."""
    fields = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)} if isinstance(event, Event) else event
    payload = present_fields(**{"id": fresh_id(), **fields})
    if isinstance(time := payload.get("time"), datetime):
        payload["time"] = microseconds(time)
    return payload


def microseconds(time: datetime) -> int:
    """Microseconds since 1970, UTC. Raises ConfigError for a datetime without a time zone."""
    if time.tzinfo is None:
        raise ConfigError("a time without its zone", remedy="datetime.now(timezone.utc), or microseconds UTC")
    return round(time.timestamp() * 1e6)


def _read_results(body: Any) -> EventsResult:
    results = [EventResult(row.get("id") or "", row["status"], row.get("reason") or "") for row in body["events"]]
    return EventsResult(results, int(body["rejected"]))
