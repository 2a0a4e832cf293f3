"""Calls for decisions among actions of the caller, and their rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from zhiyin.api import endpoints
from zhiyin.client.api_call import Call, endpoint_call, known_fields, present_fields
from zhiyin.client.api_types import ActivationResult, Columns, DecidedSlot, Decision, RewardResult, Timestamp
from zhiyin.client.event_calls import microseconds
from zhiyin.core.uid import fresh_id

# Features of an action, a slot or a context, or several objects of them.
Features = Columns | Sequence[Columns]


def decide(
    policy: str,
    actions: Sequence[str | Columns] | Mapping[str, Features] | None = None,
    *,
    event_id: str | None = None,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    context: Features | None = None,
    user_columns: Columns | None = None,
    candidates: Columns | None = None,
    excluded: Sequence[str] | None = None,
    slots: Sequence[str | Columns] | None = None,
    baseline: str | None = None,
    defer: bool | None = None,
) -> Call[Decision]:
    """Have a policy choose an action, or one for each slot. The event id is drawn here: a request that is sent twice
    is one decision.

    Parameters
    ----------
    policy: a placement whose policy chooses among its caller's own actions.
    actions: ids, or {"id", "features"} each, or features by id.
    context: features of the moment, such as {"device": "phone", "hour": 20}.
    user_columns: columns of the user for the list of candidates, over those that are kept.
    candidates: {"k", "placement", "filter"}: the items of a list for the user, in place of actions.
    excluded: ids that may not be chosen.
    slots: ids, or {"id", "features", "baseline", "excluded"} each; None: one slot.
    baseline: the action of one slot without the policy; None: the first one.
    defer: the decision is dropped unless `activate` is called.
    """
    if isinstance(actions, Mapping):
        actions = [{"id": id, "features": features} for id, features in actions.items()]
    request = present_fields(
        event_id=event_id or f"decision-{fresh_id()}", policy=policy, user=user, session=session, history=history,
        context=context, user_columns=user_columns, actions=_objects(actions), candidates=candidates, excluded=excluded,
        slots=_objects(slots), baseline=baseline, defer=defer,
    )  # fmt: skip
    return endpoint_call(endpoints.DECIDE, read=_read_decision, body=request)


def reward(
    event_id: str,
    value: float | None = None,
    *,
    slots: Mapping[str, float] | None = None,
    id: str | None = None,
    name: str | None = None,
    time: Timestamp | None = None,
) -> Call[RewardResult]:
    """What a decision was worth; answered once it is on the disk.

    Parameters
    ----------
    event_id: of the decision; or the id of a list that a policy decided.
    value: of a decision with one slot.
    slots: of each slot, by its id; of a list by its place from 1.
    id: of one id only the first reward is kept; None: one is drawn here, so that a request sent twice counts once.
    name: what it was for, such as "click".
    time: when it was earned, microseconds UTC or a datetime with its time zone; its arrival decides whether it is late.
    """
    request = present_fields(
        value=value, slots=None if slots is None else [{"id": slot, "value": one} for slot, one in slots.items()],
        id=id or fresh_id(), name=name, time=microseconds(time) if isinstance(time, datetime) else time,
    )  # fmt: skip
    return endpoint_call(
        endpoints.REWARD, event_id, read=lambda body: RewardResult(**known_fields(RewardResult, body)), body=request
    )


def activate(event_id: str) -> Call[ActivationResult]:
    """A deferred decision was really shown: it is learned from."""
    return endpoint_call(
        endpoints.ACTIVATE, event_id, read=lambda body: ActivationResult(**known_fields(ActivationResult, body))
    )


def _objects(ids: Sequence[str | Columns] | None) -> list[Columns] | None:
    return None if ids is None else [{"id": one} if isinstance(one, str) else one for one in ids]


def _read_decision(body: Any) -> Decision:
    return Decision(**{**known_fields(Decision, body), "slots": [_read_slot(row) for row in body["slots"]]})


def _read_slot(row: Any) -> DecidedSlot:
    ranking = [(one["id"], one["probability"]) for one in row["ranking"]]
    return DecidedSlot(row["id"], row["action"], row["propensity"], ranking)
