"""What another policy would have done with a logged decision among a caller's own actions."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.pipeline.action_features import ActionFeatures
from zhiyin.pipeline.decision_record import DecisionRecord
from zhiyin.pipeline.list_policy import ListDecision, ListPolicy
from zhiyin.pipeline.slot_decision import decide_slots
from zhiyin.policies.action_sets import action_keys
from zhiyin.service.decision_trace import EVENT
from zhiyin.store.traces import Trace


def asked_again(
    trace: Trace, record: DecisionRecord, chooses: ListPolicy | None
) -> tuple[np.ndarray, list[str], ListDecision | None]:
    """Ask a policy for the actions of a logged decision with s decided slots. Its trace holds the request in full.

    Parameters
    ----------
    chooses: the policy; None: the baseline stays.

    Returns
    -------
    float64[s], the probability of each logged action given those before; the ids that stand where nothing is drawn;
    the decision that is drawn by, None where nothing is.
    """
    request, places = trace.head["request"], np.array(trace.head[EVENT]["places"], dtype=np.int64)
    ids = [id for id, _ in request["actions"]]
    own = [ids[place] for place in record.baseline.tolist()]
    if chooses is None or chooses.policy is None:
        return (record.chosen == record.baseline).astype(np.float64), own, None
    slots = request.get("slots", [])
    allowed = np.ones((max(1, len(slots)), len(ids)), dtype=bool)
    place_of = {id: place for place, id in enumerate(ids)}
    for row, excluded in enumerate([slot[2] for slot in slots] or [[]]):
        allowed[row, [place_of[id] for id in (*request["excluded"], *excluded) if id in place_of]] = False
    baseline, forced = (np.full(len(allowed), -1, dtype=np.int16) for _ in range(2))
    baseline[places], forced[places] = record.baseline, record.chosen
    numbers = [numbers for _, numbers in request["actions"]]
    features = ActionFeatures(ids, numbers, request["context"], [(slot[0], slot[1]) for slot in slots])
    made = decide_slots(chooses, action_keys(ids), allowed, baseline, features.of_slot, trace.list_id, forced)
    if made.reason:  # it could not choose: the baseline stays
        return (record.chosen == record.baseline).astype(np.float64), own, None
    dense = dataclasses.replace(made, slots=np.arange(len(made), dtype=np.int16))
    return made.propensities, own, dense
