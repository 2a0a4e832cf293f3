"""Handlers of decisions among a caller's own actions: decide, reward, activate."""

from __future__ import annotations

from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.decision_requests import DecisionRequest, RewardRequest
from zhiyin.core.uid import fresh_id, is_fresh_id
from zhiyin.pipeline.decision_record import HEAD
from zhiyin.service.authentication import Access
from zhiyin.service.decision_service import DecisionService
from zhiyin.service.decision_trace import EVENT, decision_json, digest_of, slots_of
from zhiyin.service.endpoint_dispatch import handles
from zhiyin.service.errors import RefusedError
from zhiyin.store.traces import Trace


@handles(endpoints.DECIDE)
async def decide(access: Access, body: DecisionRequest) -> Any:
    ask, event_id = access.own(body), body.event_id
    decisions = DecisionService(access.list_service)
    if event_id is not None:
        if is_fresh_id(event_id):
            what = "event_id: 32 hexadecimal digits are an id that the service makes itself"
            remedy = "put a word before it, such as 'order-', or leave event_id out"
            raise RefusedError(422, what, remedy, field="event_id")
        if access.visitor is not None:  # a page makes up ids of its own user alone
            event_id = access.visitor.event_id(access.visitor.name, event_id)
        stored = await access.work.do(access.traces.find, event_id)
        if stored is not None:
            return decision_json(_same(stored, ask), ask)
    trace = await access.work.do(decisions.decide, ask, event_id or fresh_id())
    if event_id is None:
        access.traces.put(trace)
    else:  # on the disk before it is answered: whoever asks again, of whatever worker, is told the same
        trace = _same(await access.writes.do(decisions.store_new, trace), ask)
    return decision_json(trace, ask)


@handles(endpoints.REWARD)
async def reward(access: Access, event_id: str, body: RewardRequest) -> Any:
    trace, decisions = await _decision(access, event_id), DecisionService(access.list_service)
    slots = slots_of(trace)
    if body.value is not None:
        if len(slots) != 1:
            raise RefusedError(422, f"value: the decision has {len(slots)} slots", "send slots", field="value")
        rewards = {slots[0]: body.value}
    else:
        rewards = {one.id: one.value for one in body.slots or []}
    if body.time is not None and body.time > access.store.clock():
        raise RefusedError(422, "time: this is ahead of the clock", "microseconds UTC, or leave it out", field="time")
    late = await access.work.do(decisions.is_late, trace)
    is_new = await access.writes.do(decisions.reward, trace, rewards, body.id or fresh_id(), body.time, body.name)
    return {"event_id": event_id, "status": "accepted" if is_new else "known", "late": late}


@handles(endpoints.ACTIVATE)
async def activate(access: Access, event_id: str) -> Any:
    trace, decisions = await _decision(access, event_id), DecisionService(access.list_service)
    if EVENT not in trace.head:
        raise RefusedError(422, f"{event_id!r} is a list, which is never deferred", "send its impressions")
    late = await access.work.do(decisions.is_late, trace)
    is_new = await access.writes.do(decisions.activate, trace)
    return {"event_id": event_id, "status": "activated" if is_new else "known", "late": late}


async def _decision(access: Access, event_id: str) -> Trace:
    """The trace of a decision, or of a list that a policy decided. Raises RefusedError 404 or 403."""
    trace = await access.find_list(event_id)
    if trace is None:
        raise RefusedError(404, f"decision {event_id!r} is not known", "decisions are kept for a while only")
    if access.visitor is not None:
        access.visitor.check_list(event_id, trace, "decision")
    if HEAD not in trace.head:
        raise RefusedError(404, f"list {event_id!r} was not decided by a policy, so it takes no reported rewards",
                           f"give its placement {trace.placement!r} a policy, for the lists from then on; "
                           "or send events that name the list")  # fmt: skip
    return trace


def _same(stored: Trace, ask: DecisionRequest) -> Trace:
    """A stored decision. Raises RefusedError 409 where it is one for another request."""
    if EVENT not in stored.head or stored.head[EVENT]["digest"] != digest_of(ask) or stored.placement != ask.policy:
        what = "a decision of this id for another request" if EVENT in stored.head else "a list of this id"
        raise RefusedError(409, f"event_id: there is {what}", "send the same request, or another id", field="event_id")
    return stored
