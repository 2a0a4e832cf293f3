"""Events to the service."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from zhiyin.client.api_call import Call, Calls, as_json, said_of
from zhiyin.client.api_types import Columns, Event, Fate, Kept, Moment
from zhiyin.client.errors import ApiError
from zhiyin.core.errors import ConfigError
from zhiyin.core.uid import fresh_id

BATCH = 1_000  # events in a request


def event(
    user: str,
    item: str,
    *,
    kind: str = "event",
    time: Moment | None = None,
    value: float | None = None,
    id: str | None = None,
    list_id: str | None = None,
) -> Call[Fate]:
    """Bring one event; answered once it is on the disk. Raises ApiError for one that is rejected."""

    def read(said: Any) -> Fate:
        fate = _fates(said).events[0]
        if fate.status == "rejected":
            raise ApiError(400, f"the event was rejected: {fate.reason}")
        return fate

    made = sendable(Event(user, item, kind, time, value, id or fresh_id(), list_id))
    return Call("POST", "/v1/events", read, body=as_json({"events": [made]}))


def events(events: Iterable[Event | Columns]) -> Calls[Kept]:
    """Bring many events, a thousand at a time. Of a mapping without an id one is made before the first try.

    Where this raises, some may be kept: bring the same `Event` objects (or ids) again, and none is kept twice.
    """

    def calls() -> Iterator[Call[Kept]]:
        rows = iter(events)
        while batch := [sendable(row) for row in itertools.islice(rows, BATCH)]:
            yield Call("POST", "/v1/events", _fates, body=as_json({"events": batch}))

    def join(kept: list[Kept]) -> Kept:
        return Kept([fate for part in kept for fate in part.events], sum(part.rejected for part in kept))

    return Calls(calls(), join)


def sendable(event: Event | Columns) -> dict[str, Any]:
    """An event as the service takes it, with an id."""
    said = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)} if isinstance(event, Event) else event
    said = said_of(**{"id": fresh_id(), **said})
    if isinstance(moment := said.get("time"), datetime):
        said["time"] = microseconds(moment)
    return said


def microseconds(moment: datetime) -> int:
    """A moment since 1970, UTC. Raises ConfigError for one without its zone."""
    if moment.tzinfo is None:
        raise ConfigError("a time without its zone", remedy="datetime.now(timezone.utc), or microseconds UTC")
    return round(moment.timestamp() * 1e6)


def _fates(said: Any) -> Kept:
    rows = [Fate(row.get("id") or "", row["status"], row.get("reason") or "") for row in said["events"]]
    return Kept(rows, int(said["rejected"]))
