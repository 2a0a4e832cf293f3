"""Handlers of what users do: events, and what was really shown."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import time
from typing import Any

import polars as pl

from zhiyin.api import endpoints
from zhiyin.api.requests import MAX_EVENTS_PER_REQUEST, MAX_REVIEW_CHARS, EventBody, ImpressionBody
from zhiyin.core.errors import DataError
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles, json_response
from zhiyin.service.errors import RefusedError
from zhiyin.service.page_token_access import Visitor
from zhiyin.service.request_json import loads, read_off_loop
from zhiyin.store.group_commit import CommitTimeoutError
from zhiyin.store.records import ADDED_EVENT_FIELDS, Event, validated_event

COMMIT_TIMEOUT_SECONDS = 10.0
# More events than this are taken into account by a thread, so that other requests do not wait for them.
MAX_EVENTS_ON_LOOP = 50
_FIELDS = frozenset(EventBody.model_fields)


@handles(endpoints.EVENTS)
async def store_events(access: Access, body: bytes, content_type: str) -> Any:
    rows = await read_off_loop(_read_rows, body, content_type)
    started, now, events, results = time.perf_counter(), access.store.clock(), [], []
    for row in rows:
        try:
            event = _read_event(row, now)
        except DataError as error:
            results.append({"status": "rejected", "reason": f"{error.message}; {error.remedy}".rstrip("; ")})
        else:
            results.append({"id": event.id, "status": "accepted"})
            events.append(event if access.visitor is None else _of_visitor(event, access.visitor, "id" in row))
    texts = [row["text"] for row, result in zip(rows, results)
             if result["status"] == "accepted" and isinstance(row, dict) and row.get("text")]  # fmt: skip
    if texts:
        events = await access.work.do(_with_review_values, access, rows, results, events)
    if access.visitor is not None and any(event.list_id is not None for event in events):
        await access.work.do(_check_lists, access, access.visitor, events)
    if events:
        numbers = await _commit(access, events)
        new_events = [event.numbered(seq) for event, seq in zip(events, numbers) if seq]
        if any(event.list_id is not None for event in new_events):
            access.tenant.ads.accounts.wake()
        if access.live.state.waits or len(new_events) > MAX_EVENTS_ON_LOOP:
            await access.work.do(access.live.add_events, new_events)
        else:
            access.live.add_events(new_events)
        remaining = iter(numbers)
        for result in results:
            if result["status"] == "accepted" and not next(remaining):
                result["status"] = "known"
    access.tenant.on_events((result["status"] for result in results), time.perf_counter() - started)
    n_rejected = sum(result["status"] == "rejected" for result in results)
    return json_response({"events": results, "rejected": n_rejected}, 200 if n_rejected < len(results) else 400)


@handles(endpoints.IMPRESSIONS)
async def store_impressions(access: Access, list_id: str, body: ImpressionBody) -> Any:
    trace = await access.get_list(list_id)
    if access.visitor is not None:
        access.visitor.check_list(list_id, trace, "list")
    await access.writes.do(access.store.append_impression, list_id, access.store.clock(), body.items)
    listed, shown = trace.head["items"], set(body.items)
    return {
        "list_id": list_id,
        "kept": [item for item in listed if item in shown],
        "inserted": [item for item in body.items if item not in set(listed)],
        "dropped": [item for item in listed if item not in shown],
    }


def _of_visitor(event: Event, visitor: Visitor, has_id: bool) -> Event:
    """An event as a page token may send it. has_id: whether its id was given.

    Raises RefusedError 403 for one of another user: then no event of the request is stored.
    """
    visitor.check(event.user, "user")
    return dataclasses.replace(event, id=visitor.event_id(event.user, event.id)) if has_id else event


def _with_review_values(
    access: Access, rows: list[Any], results: list[dict[str, Any]], events: list[Event]
) -> list[Event]:
    """The accepted events; those with a text and no value have the value of the text, where it says anything."""
    accepted = [row for row, result in zip(rows, results) if result["status"] == "accepted"]
    places = [at for at, row in enumerate(accepted) if row.get("text") and row.get("value") is None]
    values = access.tenant.review_values().values(pl.Series([accepted[at]["text"] for at in places], dtype=pl.String))
    result = list(events)
    for at, value in zip(places, values.tolist()):
        if not math.isnan(value):
            result[at] = dataclasses.replace(events[at], value=value)
    return result


def _check_lists(access: Access, visitor: Visitor, events: list[Event]) -> None:
    """Raises RefusedError 403 for an event that names a list which the visitor may say nothing of."""
    for list_id in {event.list_id for event in events if event.list_id is not None}:
        visitor.check_list(list_id, access.traces.find(list_id), "list_id")


async def _commit(access: Access, events: list[Event]) -> list[int]:
    """What `Store.append_validated` returns for each event, once all are committed.

    Raises CommitTimeoutError after COMMIT_TIMEOUT_SECONDS; what the writer raises, a TimeoutError too, is passed on.
    """
    written = asyncio.wrap_future(access.writer.submit(events, validated=True))
    try:
        done, _ = await asyncio.wait([written], timeout=COMMIT_TIMEOUT_SECONDS)
    finally:
        written.cancel()  # does nothing where it is done; else its result has no reader any more
    if not done:
        raise CommitTimeoutError(
            f"the store did not commit within {COMMIT_TIMEOUT_SECONDS:g} s",
            remedy="send the same events again: of one id only one is kept",
        )
    return written.result()


def _read_rows(body: bytes, content_type: str) -> list[Any]:
    """The events of a body, not yet checked. Raises RefusedError 422 for a body that holds none."""
    try:
        if content_type.partition(";")[0].strip().lower() == "application/x-ndjson":
            if body.count(b"\n") + body.count(b"\r") > 4 * MAX_EVENTS_PER_REQUEST:
                raise RefusedError(422, "too many lines at once", f"at most {MAX_EVENTS_PER_REQUEST:,} events")
            lines = [line for line in body.splitlines() if line.strip()]
            if len(lines) > MAX_EVENTS_PER_REQUEST:
                raise RefusedError(422, f"{len(lines):,} events at once", f"at most {MAX_EVENTS_PER_REQUEST:,}")
            rows: Any = [_read_line(line) for line in lines]
        else:
            batch = loads(body)
            rows = batch["events"] if isinstance(batch, dict) and batch.keys() == {"events"} else None
    except (ValueError, RecursionError):
        raise RefusedError(422, "this is no JSON", 'send {"events": [{"user": "u1", "item": "i1"}]}') from None
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_EVENTS_PER_REQUEST:
        raise RefusedError(422, f"events: a list of 1 to {MAX_EVENTS_PER_REQUEST:,}", 'send {"events": [...]}')
    return rows


def _read_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read_event(row: Any, now: int) -> Event:
    """A checked event. Raises DataError that names the field."""
    if not isinstance(row, dict):
        raise DataError("this is no event", remedy='an object such as {"user": "u1", "item": "i1"}')
    if not row.keys() <= _FIELDS:
        unknown = row.keys() - _FIELDS
        name = min(unknown, key=str)[:80].encode("utf-8", "replace").decode()
        raise DataError(f"{name!r} is no field of an event", remedy=f"one of {', '.join(EventBody.model_fields)}")
    for name in ("user", "item"):
        if name not in row:
            raise DataError(f"{name} is missing", column=name, remedy="each event has a user and an item")
    review = row.get("text")
    if review is not None and (not isinstance(review, str) or len(review) > MAX_REVIEW_CHARS):
        raise DataError("text is no review", column="text", remedy=f"a text of at most {MAX_REVIEW_CHARS:,} characters")
    moment, id, kind = row.get("time"), row.get("id"), row.get("kind")
    if id is not None and not id:
        raise DataError("id is empty", column="id", remedy="a text, or none")
    return validated_event(
        row["user"], row["item"], now if moment is None else moment, "event" if kind is None else kind,
        row.get("value"), id, row.get("list_id"), *map(row.get, ADDED_EVENT_FIELDS), now=now,
    )  # fmt: skip
