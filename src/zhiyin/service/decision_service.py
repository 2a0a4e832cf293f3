"""DecisionService: decisions among actions that a caller brings, their traces, rewards and activations.

A decision is stored as a list of origin "decision" whose id is the event id: rewards are joined to it, and policies
learn from it, as from any list that a policy decided.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from zhiyin.api.decision_requests import MAX_PROBABILITIES, DecisionRequest, SlotBody
from zhiyin.api.feature_values import named_numbers
from zhiyin.api.requests import PolicySettings, RecommendRequest
from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError
from zhiyin.pipeline.action_features import LAYOUT, ActionFeatures
from zhiyin.pipeline.decision_record import encode_decision
from zhiyin.pipeline.slot_decision import decide_slots, without_policy
from zhiyin.policies.action_sets import action_keys
from zhiyin.service.decision_trace import EVENT, ORIGIN, digest_of, request_head, slots_of
from zhiyin.service.errors import RefusedError
from zhiyin.service.list_service import ListService, LoggedDecision
from zhiyin.service.policy_serving import Layout, PolicyChoice, PolicyServing, uses_features
from zhiyin.service.request_context import CURRENT
from zhiyin.service.trace_encoding import strip_trace, trace_size
from zhiyin.store.traces import Trace


@dataclasses.dataclass(frozen=True)
class Actions:
    """The m actions of a decision, and the features of each, as named numbers.

    Parameters
    ----------
    view_version, seq, digest: of the models that made candidates, and of their settings; (0, 0, "") for own actions.
    """

    ids: list[str]
    features: list[Mapping[str, float]]
    view_version: int = 0
    seq: int = 0
    digest: str = ""


class DecisionService:
    """Makes decisions of one shop. Any number of threads may use one."""

    def __init__(self, list_service: ListService) -> None:
        self.lists = list_service
        self.live, self.store = list_service.live, list_service.live.store

    # -- deciding ------------------------------------------------------------------------------------------------------

    def decide(self, ask: DecisionRequest, event_id: str) -> Trace:
        """The trace of a new decision; it is not stored yet. Raises RefusedError or ConfigError."""
        if self.live.several:
            self.live.catch_up()
        policies, name = self.lists.policies, ask.policy
        version, placement = self.lists.placements.get(name)
        setting = placement.policy
        if policies is None or setting is None or setting.actions != "own":
            what = "has no policy" if setting is None else "decides lists of items, not a caller's own actions"
            remedy = f'PUT /v1/placements/{name} with policy = {{"kind": "lin_ts", "actions": "own"}}'
            raise RefusedError(422, f"policy: placement {name!r} {what}", remedy, field="policy")
        actions = self._actions(ask)
        slots = ask.slots or [SlotBody(id="1", baseline=ask.baseline)]
        allowed = _allowed(actions.ids, slots, ask.excluded)
        baseline = _baseline(actions.ids, slots, allowed)
        owner = ask.user or ask.session
        choice = _choice(policies, name, event_id, owner)
        keys, context = action_keys(actions.ids), named_numbers(ask.context)
        named_slots = [(slot.id, slot.features) for slot in slots] if ask.slots else []
        if choice.policy is None or choice.policy.policy is None:
            decision = without_policy(keys, baseline, "")
        else:
            features = ActionFeatures(actions.ids, actions.features, context, named_slots)
            decision = decide_slots(choice.policy, keys, allowed, baseline, features.of_slot, event_id)
        policies.count(choice, setting, decision, owner)
        info = choice.decided(decision.reason)
        self.lists.on_decision(LoggedDecision(decision, info))
        head, arrays = request_head(actions.ids, actions.features, context, slots, ask), dict[str, np.ndarray]()
        chosen = [actions.ids[place] for place in decision.chosen.tolist()]
        head |= {
            "origin": ORIGIN, "place_version": version, "seq": actions.seq, "house": actions.digest,
            "now": self.store.clock(), "items": chosen, "method": info.kind, "sources": [],
            "anonymous": ask.user is None,
            EVENT: {
                "slots": [slots[slot].id for slot in decision.slots.tolist()], "places": decision.slots.tolist(),
                "deferred": ask.defer, "digest": digest_of(ask),
            },
        }  # fmt: skip
        dense = dataclasses.replace(decision, slots=np.arange(len(decision), dtype=np.int16))
        decision_head, decision_arrays = encode_decision(dense, info)
        arrays |= decision_arrays | {
            "scores": np.zeros(len(chosen), np.float32), "ranks": np.zeros((0, 0), np.int16),
            "propensities": decision.propensities,
        }  # fmt: skip
        head |= decision_head
        current = CURRENT.get()
        if not self.lists.trace_quota.allow("" if current is None else current.key, trace_size(head, arrays)):
            head, arrays = strip_trace(head, arrays)
        return Trace(event_id, owner, head["now"], actions.view_version, name, head, arrays)

    def _actions(self, ask: DecisionRequest) -> Actions:
        """The actions of a request. Raises RefusedError 422 where there are none, or too many for its slots."""
        if ask.actions is not None:
            return Actions([action.id for action in ask.actions], [action.features for action in ask.actions])
        assert ask.candidates is not None
        wanted = ask.candidates
        given = {name: getattr(ask, name) for name in ("user", "session", "history") if getattr(ask, name) is not None}
        given |= {"user_columns": ask.user_columns} if ask.user_columns else {}
        context = {
            name: value
            for part in (ask.context if isinstance(ask.context, list) else [ask.context])
            for name, value in part.items()
            if not isinstance(value, dict | list)
        }
        placement = wanted.placement or ask.policy
        listed = self.lists.create(
            RecommendRequest(placement=placement, k=wanted.k, filter=wanted.filter, context=context, **given),
            is_shown=False,
        )
        ids = [str(item) for item in listed.answer.items]
        if not ids:
            what = f"candidates: the list of {placement!r} is empty"
            raise RefusedError(422, what, "send actions, or a wider filter", field="candidates")
        n_slots = len(ask.slots or [0])
        if len(ids) * n_slots > MAX_PROBABILITIES:
            raise RefusedError(422, f"{len(ids):,} candidates for {n_slots} slots",
                               f"at most {MAX_PROBABILITIES:,} pairs", field="candidates.k")  # fmt: skip
        view = listed.view
        return Actions(
            ids, _list_features(np.asarray(listed.answer.scores)), view.version, view.seq, view.loaded.settings_digest
        )

    def store_new(self, trace: Trace) -> Trace:
        """Store a decision; returns the one that is stored: where another worker was faster, its own."""
        if self.store.append_traces([trace]):
            return trace
        return self.store.trace(trace.list_id) or trace

    # -- rewards -------------------------------------------------------------------------------------------------------

    def is_late(self, trace: Trace) -> bool:
        """Whether the window of a decision has ended: what comes now is not learned from."""
        setting = self._setting(trace.placement)
        if setting is None or self.store.clock() > trace.time + microseconds(setting.window):
            return True
        return self.store.decision_closed(trace.list_id)

    def reward(self, trace: Trace, rewards: Mapping[str, float], id: str, time: int | None, name: str | None) -> bool:
        """Store rewards of slots, by the id of the slot; they are on the disk when this returns.

        Returns whether any is new. Raises RefusedError 422 for a slot that the decision does not have.
        """
        places = {slot: place for place, slot in enumerate(slots_of(trace))}
        for slot in rewards:
            if slot not in places:
                raise RefusedError(422, f"slots: the decision has no slot {slot[:80]!r}", _slots_in_words(list(places)),
                                   field="slots")  # fmt: skip
        when = self.store.clock() if time is None else time
        rows = [(str(places[slot]), value, _reward_id(id, slot)) for slot, value in rewards.items()]
        return any(self.store.append_reported_rewards(trace.list_id, rows, when, name))

    def activate(self, trace: Trace) -> bool:
        """Have a deferred decision count as shown. Returns whether it was not before."""
        if not trace.head[EVENT]["deferred"] or self.store.impressions(trace.list_id):
            return False
        self.store.append_impression(trace.list_id, self.store.clock(), trace.head["items"])
        return True

    def _setting(self, name: str) -> PolicySettings | None:
        """Settings of a policy; None where its placement has none any more."""
        try:
            return self.lists.placements.get(name)[1].policy
        except ConfigError:
            return None


def _choice(policies: PolicyServing, name: str, event_id: str, owner: str | None) -> PolicyChoice:
    """Who makes a decision of a policy."""
    if not policies.live.several:
        policies.controls.refresh()
    served = policies.at(name)
    layout = Layout(LAYOUT) if uses_features(served.policy) else Layout()
    return policies.choice(name, served, policies.controls.get(name), event_id, owner, layout)


def _allowed(ids: Sequence[str], slots: Sequence[SlotBody], excluded: Sequence[str]) -> np.ndarray:
    """bool[s, m]: the actions that each slot may have. Raises RefusedError 422 where a slot has none."""
    place, allowed = {id: n for n, id in enumerate(ids)}, np.ones((len(slots), len(ids)), dtype=bool)
    allowed[:, [place[id] for id in excluded if id in place]] = False
    for row, slot in enumerate(slots):
        allowed[row, [place[id] for id in slot.excluded if id in place]] = False
        if not allowed[row].any():
            what = f"slot {slot.id[:80]!r}" if len(slots) > 1 else "the decision"
            raise RefusedError(422, f"excluded: no action is left for {what}", "exclude fewer, or send more actions",
                               field="excluded")  # fmt: skip
    return allowed


def _baseline(ids: Sequence[str], slots: Sequence[SlotBody], allowed: np.ndarray) -> np.ndarray:
    """int16[s]: the action of each slot without a policy; -1 where none is left."""
    place = {id: n for n, id in enumerate(ids)}
    baseline = np.full(len(slots), -1, dtype=np.int16)
    free = np.ones(len(ids), dtype=bool)
    for row, slot in enumerate(slots):
        if slot.baseline is not None:
            baseline[row] = place[slot.baseline]
            free[baseline[row]] = False
    for row in np.flatnonzero(baseline < 0).tolist():
        left = np.flatnonzero(allowed[row] & free)
        if len(left):
            baseline[row] = left[0]
            free[left[0]] = False
    return baseline


def _list_features(scores: np.ndarray) -> list[Mapping[str, float]]:
    """Features of the items of a list: the reciprocal of their rank, and their score against those of the list."""
    spread = float(scores.std()) if len(scores) else 0.0
    standard = (scores - scores.mean()) / spread if spread > 0 else np.zeros(len(scores))
    return [{"list.rank": 1.0 / (rank + 1), "list.score": float(score)} for rank, score in enumerate(standard)]


def _slots_in_words(slots: Sequence[str]) -> str:
    """How many slots a decision has, and the ids of the first ones.

    >>> _slots_in_words([])
    'it decided no slot'
    >>> _slots_in_words(["1", "2", "3", "4", "5", "6", "7"])
    "its 7 slots: '1', '2', '3', '4', '5' and 2 more"
    """
    if not slots:
        return "it decided no slot"
    names, n_more = ", ".join(map(repr, slots[:5])), len(slots) - 5
    return f"its {len(slots)} slot{'s' * (len(slots) > 1)}: {names}" + (f" and {n_more} more" if n_more > 0 else "")


def _reward_id(id: str, slot: str) -> str:
    """What a reward's id is stored as: of one id each slot has one reward."""
    return hashlib.sha256(f"{len(id)} {id}{slot}".encode()).hexdigest()[:40]
