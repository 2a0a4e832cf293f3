"""Routes for what users do: events, and what was really shown."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from zhiyin.core.errors import DataError
from zhiyin.service.errors import RefusedError
from zhiyin.service.fast_path import FastRoute
from zhiyin.service.openapi_description import REFUSALS
from zhiyin.service.request_json import JsonRoute, loads, read_off_loop
from zhiyin.service.request_models import MOST_EVENTS, EventIn, ShownIn
from zhiyin.service.route_dependencies import ItemId, ScopeDependencies, Tenant, json_response
from zhiyin.service.visitors import Visitor
from zhiyin.store.group_commit import CommitTimeoutError
from zhiyin.store.records import Event, validated_event

# Seconds that a commit is waited for; events that take long to hear of, so that other requests would wait for it.
COMMIT, MANY = 10.0, 50
_FIELDS = frozenset(EventIn.model_fields)
_ONE = EventIn.model_json_schema()
_BODY = {"requestBody": {"required": True, "content": {
    "application/json": {"schema": {
        "type": "object", "required": ["events"], "additionalProperties": False,
        "properties": {"events": {"type": "array", "minItems": 1, "maxItems": MOST_EVENTS, "items": _ONE}},
    }},
    "application/x-ndjson": {"schema": {
        "type": "array", "minItems": 1, "maxItems": MOST_EVENTS, "items": _ONE, "description": "one event a line",
    }},
}}}  # fmt: skip


def routes(needs: ScopeDependencies) -> APIRouter:
    router = APIRouter(tags=["events"], responses=REFUSALS, route_class=JsonRoute)

    @router.post("/v1/events", openapi_extra=_BODY)
    async def bring(request: Request, tenant: Tenant = needs.visitor_events) -> Any:
        """Keep events. Each is accepted, known already, or rejected with its reason; answered once they are on the
        disk, and they count in the very next list, whatever their time. A time more than a day ahead of the clock, or
        before 1971, is rejected; one less far ahead is taken as now."""
        given = await read_off_loop(_given, await request.body(), request.headers.get("content-type", ""))
        return await _bring(given, tenant)

    @router.post("/v1/impressions/{list_id}")
    async def shown(list_id: ItemId, body: ShownIn, tenant: Tenant = needs.visitor_events) -> Any:
        """What was really shown of a list, in order: so that what is learned from it is true."""
        trace = await tenant.find_list(list_id)
        if tenant.visitor is not None and trace is not None and trace.user is not None:
            tenant.visitor.check(trace.user, "list")
        if trace is None:
            raise RefusedError(404, f"list {list_id!r} is not known", "lists are kept for a while only")
        now = tenant.store.clock()
        await tenant.writes.do(tenant.store.append_impression, list_id, now, body.items)
        made, seen = trace.head["items"], set(body.items)
        return json_response({
            "list_id": list_id,
            "kept": [item for item in made if item in seen],
            "inserted": [item for item in body.items if item not in set(made)],
            "dropped": [item for item in made if item not in seen],
        })  # fmt: skip

    return router


async def _bring(given: list[Any], tenant: Tenant) -> Response:
    begun, now, right, said = time.perf_counter(), tenant.store.clock(), [], []
    for one in given:
        try:
            event = _event(one, now)
        except DataError as error:
            said.append({"status": "rejected", "reason": f"{error.message}; {error.remedy}".rstrip("; ")})
        else:
            said.append({"id": event.id, "status": "accepted"})
            right.append(event if tenant.visitor is None else _of_visitor(event, tenant.visitor, "id" in one))
    if tenant.visitor is not None and any(event.list_id is not None for event in right):
        await tenant.work.do(_check_lists, tenant, tenant.visitor, right)
    if right:
        new = await _committed(tenant, right)
        heard = [event.numbered(seq) for event, seq in zip(right, new) if seq]
        if tenant.live.state.waits or len(heard) > MANY:
            await tenant.work.do(tenant.live.heard, heard)
        else:
            tenant.live.heard(heard)
        fate = iter(new)
        for told in said:
            if told["status"] == "accepted" and not next(fate):
                told["status"] = "known"
    tenant.shop.brought((told["status"] for told in said), time.perf_counter() - begun)
    bad = sum(told["status"] == "rejected" for told in said)
    return json_response({"events": said, "rejected": bad}, 200 if bad < len(said) else 400)


def _of_visitor(event: Event, visitor: Visitor, named: bool) -> Event:
    """An event as a page token may bring it. named: whether its id was given. Raises RefusedError 403 for one of
    somebody else: then none of the request is kept."""
    visitor.check(event.user, "user")
    return dataclasses.replace(event, id=visitor.event_id(event.user, event.id)) if named else event


def _check_lists(tenant: Tenant, visitor: Visitor, events: list[Event]) -> None:
    """Raises RefusedError 403 for an event that names a list which was made for somebody else."""
    for list_id in {event.list_id for event in events if event.list_id is not None}:
        trace = tenant.traces.find(list_id)
        if trace is not None and trace.user is not None:
            visitor.check(trace.user, "list_id")


async def _committed(tenant: Tenant, events: list[Event]) -> list[int]:
    """What `Store.append_validated` says of each event, once all are committed.

    Raises CommitTimeoutError after COMMIT seconds; what the writer raises, a TimeoutError too, comes as it is.
    """
    written = asyncio.wrap_future(tenant.writer.submit(events, right=True))
    try:
        done, _ = await asyncio.wait([written], timeout=COMMIT)
    finally:
        written.cancel()  # nothing where it is done; else nobody hears of it any more
    if not done:
        raise CommitTimeoutError(
            f"the store did not commit within {COMMIT:g} s",
            remedy="send the same events again: of one id only one is kept",
        )
    return written.result()


def _given(body: bytes, kind: str) -> list[Any]:
    """The events of a body. Raises RefusedError 422 for one that holds none."""
    try:
        if kind.partition(";")[0].strip().lower() == "application/x-ndjson":
            if body.count(b"\n") + body.count(b"\r") > 4 * MOST_EVENTS:
                raise RefusedError(422, "too many lines at once", f"at most {MOST_EVENTS:,} events")
            lines = [line for line in body.splitlines() if line.strip()]
            if len(lines) > MOST_EVENTS:
                raise RefusedError(422, f"{len(lines):,} events at once", f"at most {MOST_EVENTS:,}")
            found: Any = [_line(line) for line in lines]
        else:
            said = loads(body)
            found = said["events"] if isinstance(said, dict) and said.keys() == {"events"} else None
    except (ValueError, RecursionError):
        raise RefusedError(422, "this is no JSON", 'send {"events": [{"user": "u1", "item": "i1"}]}') from None
    if not isinstance(found, list) or not 1 <= len(found) <= MOST_EVENTS:
        raise RefusedError(422, f"events: a list of 1 to {MOST_EVENTS:,}", 'send {"events": [...]}')
    return found


FAST_ROUTES = {"/v1/events": FastRoute("events", _given, _bring, visitors=True, json=False)}


def _line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _event(given: Any, now: int) -> Event:
    """A checked event. Raises DataError that names the field."""
    if not isinstance(given, dict):
        raise DataError("this is no event", remedy='an object such as {"user": "u1", "item": "i1"}')
    if not given.keys() <= _FIELDS:
        unknown = given.keys() - _FIELDS
        name = min(unknown, key=str)[:80].encode("utf-8", "replace").decode()
        raise DataError(f"{name!r} is no field of an event", remedy=f"one of {', '.join(EventIn.model_fields)}")
    for name in ("user", "item"):
        if name not in given:
            raise DataError(f"{name} is missing", column=name, remedy="each event has a user and an item")
    moment, id, kind = given.get("time"), given.get("id"), given.get("kind")
    if id is not None and not id:
        raise DataError("id is empty", column="id", remedy="a text, or none")
    return validated_event(
        given["user"], given["item"], now if moment is None else moment, "event" if kind is None else kind,
        given.get("value"), id, given.get("list_id"), now,
    )  # fmt: skip
