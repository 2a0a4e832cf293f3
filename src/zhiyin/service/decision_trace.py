"""What a trace holds of a decision among a caller's own actions, beside `pipeline.decision_record`; and its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from zhiyin.api.decision_requests import DecisionRequest, SlotBody
from zhiyin.pipeline.decision_record import decode_decision
from zhiyin.pipeline.slot_decision import redrawn
from zhiyin.service.trace_encoding import MAX_REQUEST_BYTES, TOO_LONG
from zhiyin.store.traces import Trace

ORIGIN = "decision"
# The part of a head with the names of the slots, whether the decision is deferred, and a digest of its request.
EVENT = "decision_event"


def digest_of(ask: DecisionRequest) -> str:
    """Digest of all that a request says but its event id."""
    fields = ask.model_dump(exclude={"event_id"})
    return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def slots_of(trace: Trace) -> list[str]:
    """Ids of the slots that a decision decided; those of a list are their places, from 1."""
    if EVENT in trace.head:
        return list(trace.head[EVENT]["slots"])
    return [str(slot + 1) for slot in trace.arrays["decision_slots"].tolist()]


def decision_json(trace: Trace, ask: DecisionRequest) -> dict[str, Any]:
    """The answer to the request of a decision, from what is stored of it."""
    head = trace.head
    record, event = decode_decision(head, trace.arrays), head[EVENT]
    assert record is not None
    ids = (
        [one.id for one in ask.actions]
        if ask.actions is not None
        else [id for id, _ in head["request"].get("actions", [])]
    )
    by_id = {}
    for row, slot in enumerate(event["slots"]):
        propensity = float(record.propensities[row])
        ranking = [(head["items"][row], propensity)]
        if record.pmfs is not None and ids:
            ranking = _ranking(ids, record.pmfs[row])
        by_id[slot] = {
            "id": slot, "action": head["items"][row], "propensity": propensity,
            "ranking": [{"id": id, "probability": probability} for id, probability in ranking],
        }  # fmt: skip
    every = [slot.id for slot in ask.slots] if ask.slots else ["1"]
    empty: dict[str, Any] = {"action": None, "propensity": None, "ranking": []}
    return {
        "event_id": trace.list_id, "policy": record.info.policy, "snapshot": record.info.snapshot,
        "mode": record.info.mode, "slots": [by_id.get(slot, {"id": slot, **empty}) for slot in every],
        "explored": record.explored, "reason": record.info.reason, "deferred": event["deferred"],
    }  # fmt: skip


def request_head(
    ids: Sequence[str],
    features: Sequence[Mapping[str, float]],
    context: Mapping[str, float],
    slots: Sequence[SlotBody],
    ask: DecisionRequest,
) -> dict[str, Any]:
    """What a head holds of a request: all that its features are computed from, or a digest where that is too long."""
    request: dict[str, Any] = {
        "actions": [[id, numbers] for id, numbers in zip(ids, features)], "context": context, "excluded": ask.excluded,
    }  # fmt: skip
    if ask.slots:
        request["slots"] = [[slot.id, slot.features, slot.excluded] for slot in slots]
    text = orjson.dumps(request)
    if len(text) <= MAX_REQUEST_BYTES:
        return {"request": request}
    digest = hashlib.sha256(text).hexdigest()[:32]
    return {"request": {"bytes": len(text), "sha256": digest}, "not_kept": TOO_LONG}


def _ranking(ids: Sequence[str], pmf: np.ndarray) -> list[tuple[str, float]]:
    """Actions that could be chosen, with their probabilities, the most probable first."""
    order = np.argsort(-pmf, kind="stable")
    return [(ids[place], float(pmf[place])) for place in order.tolist() if pmf[place] > 0]


def redecided(trace: Trace) -> tuple[bool, str]:
    """Whether the logged probabilities of a decision draw the logged actions again; and the reason why not."""
    if "not_kept" in trace.head and "decision_pmfs" not in trace.arrays:
        return False, str(trace.head["not_kept"])
    record = decode_decision(trace.head, trace.arrays)
    if record is None or record.pmfs is None:
        return False, "its probabilities were not kept"
    if (record.propensities == 1).all():  # nothing was drawn
        return True, ""
    places = np.array(trace.head[EVENT]["places"], dtype=np.int16)
    again = redrawn(record.pmfs, places, trace.list_id, trace.placement)
    return (True, "") if (again == record.chosen).all() else (False, "items differ")
