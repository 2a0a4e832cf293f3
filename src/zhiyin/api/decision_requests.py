"""Types of decisions among actions that a caller brings: the request, its reward."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from zhiyin.api.feature_values import Features, RawFeatures
from zhiyin.api.requests import Body, Bool, EventKind, EventTime, Filter, Id, K, RequestSubject, Reward
from zhiyin.core.limits import MAX_ITEMS
from zhiyin.core.uid import FRESH_ID_PATTERN

MAX_ACTIONS, MAX_SLOTS = MAX_ITEMS, 50
# Actions times slots, and named numbers of all actions and slots, of one request.
MAX_PROBABILITIES, MAX_TOTAL_FEATURES = 20_000, 20_000


class ActionBody(Body):
    """An action that may be chosen."""

    id: Id
    features: Features = Field(default_factory=dict)


class SlotBody(Body):
    """A place that an action is chosen for. `baseline`: the action that would be there without the policy; left out,
    the first one that is no other slot's; `excluded`: actions that may not be there."""

    id: Id
    features: Features = Field(default_factory=dict)
    baseline: Id | None = None
    excluded: Annotated[list[Id], Field(fail_fast=True, max_length=MAX_ACTIONS)] = Field(default_factory=list)


class CandidatesBody(Body):
    """The items of a placement's list for the user, in place of actions. `placement`: left out, that of the policy."""

    k: K = 50
    placement: Id | None = None
    filter: Filter = ""


_NULL: dict[str, Any] = {"type": "null"}
_RULES: dict[str, Any] = {"allOf": [
    {"oneOf": [
        {"required": ["actions"], "properties": {"actions": {"type": "array"}, "candidates": _NULL}},
        {"required": ["candidates"], "properties": {"candidates": {"type": "object"}, "actions": _NULL}},
    ]},
    {"anyOf": [{"properties": {"slots": _NULL}}, {"properties": {"baseline": _NULL}}]},
    {"anyOf": [{"properties": {"candidates": _NULL}}, {"properties": {"baseline": _NULL}}]},
    {"anyOf": [
        {"properties": {"history": _NULL}},
        {"properties": {"user": _NULL, "session": _NULL, "actions": _NULL}},
    ]},
]}  # fmt: skip


class DecisionRequest(RequestSubject):
    """A choice of one action, or one for each slot, by a policy. Actions and slots have ids of their own.

    `event_id`: of one id there is one decision, the same whenever it is asked for again; left out, one is made. Ids of
    32 hexadecimal digits are the service's own.
    `policy`: a placement whose policy chooses among its caller's own actions. `context`: features of the moment.
    `actions` or `candidates`, of which one is given. `excluded`: actions that may not be chosen. `slots`: left out,
    one slot. `baseline`: of one slot, as there; with candidates, the order of the list is the baseline. `defer`: the
    decision is dropped unless it is activated.
    """

    model_config = ConfigDict(json_schema_extra=_RULES)

    event_id: Annotated[Id, Field(json_schema_extra={"not": {"pattern": FRESH_ID_PATTERN}})] | None = None
    policy: Id
    context: RawFeatures = Field(default_factory=dict)  # type: ignore[assignment]
    actions: Annotated[list[ActionBody], Field(fail_fast=True, min_length=1, max_length=MAX_ACTIONS)] | None = None
    candidates: CandidatesBody | None = None
    excluded: Annotated[list[Id], Field(fail_fast=True, max_length=MAX_ACTIONS)] = Field(default_factory=list)
    slots: Annotated[list[SlotBody], Field(fail_fast=True, min_length=1, max_length=MAX_SLOTS)] | None = None
    baseline: Id | None = None
    defer: Bool = False

    @model_validator(mode="after")
    def _check(self) -> DecisionRequest:
        actions, slots = self.actions or [], self.slots or []
        if (self.actions is None) == (self.candidates is None):
            raise ValueError("actions or candidates: send one of them")
        if self.history is not None and self.candidates is None:
            raise ValueError("history is for candidates: describe the user in context")
        if self.baseline is not None and self.slots is not None:
            raise ValueError("baseline is given beside slots: each slot has its own")
        ids = {action.id for action in actions}
        if len(ids) < len(actions):
            raise ValueError("two actions have one id: give each an id of its own")
        if len({slot.id for slot in slots}) < len(slots):
            raise ValueError("two slots have one id: give each an id of its own")
        named = [self.baseline, *(slot.baseline for slot in slots)]
        baselines = [baseline for baseline in named if baseline is not None]
        if baselines and self.candidates is not None:
            raise ValueError("baseline is given with candidates: the order of their list is the baseline")
        if len(set(baselines)) < len(baselines):
            raise ValueError("two slots have one baseline: an action is in one slot only")
        for baseline in baselines:
            if baseline not in ids:
                raise ValueError(f"the baseline {baseline[:80]!r} is none of the actions")
            if baseline in self.excluded:
                raise ValueError(f"the baseline {baseline[:80]!r} is excluded")
        for slot in slots:
            if slot.baseline is not None and slot.baseline in slot.excluded:
                raise ValueError(f"the baseline {slot.baseline[:80]!r} is excluded from its slot")
        if len(actions) * len(slots) > MAX_PROBABILITIES:
            raise ValueError(f"{len(actions):,} actions for {len(slots)} slots: at most {MAX_PROBABILITIES:,} pairs")
        features = [action.features for action in actions] + [slot.features for slot in slots]
        if sum(map(len, features)) > MAX_TOTAL_FEATURES:
            raise ValueError(f"more than {MAX_TOTAL_FEATURES:,} features of actions and slots")
        return self


class SlotReward(Body):
    """What a slot was worth. `id`: of the slot; of a list, its place from 1."""

    id: Id
    value: Reward


_VALUE_OR_SLOTS: dict[str, Any] = {"oneOf": [
    {"required": ["value"], "properties": {"value": {"type": "number"}, "slots": _NULL}},
    {"required": ["slots"], "properties": {"slots": {"type": "array"}, "value": _NULL}},
]}  # fmt: skip


class RewardRequest(Body):
    """What a decision was worth. `value`: of a decision with one slot; `slots`: of each of them. `id`: of one id only
    the first reward of a slot is kept; left out, each counts. `name`: what it was for, such as click. `time`:
    microseconds UTC when it was earned, kept and told, while its arrival decides whether it is late."""

    model_config = ConfigDict(json_schema_extra=_VALUE_OR_SLOTS)

    value: Reward | None = None
    slots: Annotated[list[SlotReward], Field(fail_fast=True, min_length=1, max_length=MAX_ITEMS)] | None = None
    id: Id | None = None
    name: EventKind | None = None
    time: EventTime | None = None

    @model_validator(mode="after")
    def _check(self) -> RewardRequest:
        if (self.value is None) == (self.slots is None):
            raise ValueError("value or slots: send one of them")
        slots = self.slots or []
        if len({slot.id for slot in slots}) < len(slots):
            raise ValueError("two rewards are of one slot: send their aggregate, or two requests")
        return self
