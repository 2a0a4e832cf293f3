"""What a trace holds of a decision of a policy: written once with the list, read by replay, learning and evaluation.

Numbers are stored as they were computed, float64, never rounded: a propensity is the very number that was drawn by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from zhiyin.pipeline.list_policy import ListDecision
from zhiyin.policies.action_sets import action_keys

HEAD = "decision"
# Types of the arrays of a decision, by the field of `DecisionRecord`; in a trace their names begin with "decision_".
_TYPES: Mapping[str, Any] = {
    "keys": np.int64, "slots": np.int16, "chosen": np.int16, "greedy": np.int16, "baseline": np.int16,
    "pmfs": np.float64, "propensities": np.float64, "prefix": np.float64, "target": np.float64, "features": np.float32,
    "target_pmfs": np.float64,
}  # fmt: skip
# Names that differ in a decision.
_FIELDS = {"prefix": "prefix_propensities", "target": "target_propensities"}
# What a trace without room for all of it goes without.
_LARGE = ("decision_pmfs", "decision_target_pmfs", "decision_keys")


@dataclasses.dataclass(frozen=True)
class DecisionInfo:
    """By what a decision was made.

    Parameters
    ----------
    policy: name of the policy: its placement.
    kind: name of its class, or "one_slot".
    mode: "online", "guarded", "apprentice", "shadow", "control" or "fallback".
    snapshot: number of the learned state; 0: the prior.
    reason: code of why the policy did not decide as its settings say; "": it did.
    control: whether the list is one of those that the baseline always makes.
    layout: digest of the names of the features; "": without features.
    version_free: the first so many features mean the same with every version of the models; -1: all.
    vectors: digest of what the other features are made of; "": there are none.
    arm: of an experiment.
    """

    policy: str
    kind: str
    mode: str
    snapshot: int = 0
    reason: str = ""
    control: bool = False
    layout: str = ""
    version_free: int = -1
    vectors: str = ""
    arm: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class DecisionRecord:
    """A decision as a trace has it: m actions in the shortlist, s slots that were open.

    Parameters
    ----------
    info: by what it was made.
    items: raw ids of the actions chosen, one a slot.
    slots: int16[s], slots of the list, from 0.
    chosen, greedy, baseline: int16[s], positions in the shortlist; -1: not in it.
    propensities: float64[s], of the chosen actions, each given the slots before it: `pmfs[range(s), chosen]`, bit for
        bit, whatever the mode.
    prefix: float64[s], products of the propensities up to the slot.
    features: float32[s, d] of the chosen actions; None: the policy learns without.
    explored: whether the list differs from the greedy one.
    loss: what exploring is expected to have cost, in reward; 0 where that is not known.
    target: float64[s], the probability by which the policy itself would have given each slot its item, where the
        baseline decided; None where the policy did.
    keys: int64[m], keys of the shortlist; None where the trace had no room for them.
    pmfs: float64[s, m], what was drawn by; where nothing was drawn, the chosen action has 1. None likewise.
    target_pmfs: float64[s, m], what the policy itself would have drawn by, where the baseline decided; None likewise,
        and where the policy decided or was not asked.
    """

    info: DecisionInfo
    items: tuple[str, ...]
    slots: np.ndarray
    chosen: np.ndarray
    greedy: np.ndarray
    baseline: np.ndarray
    propensities: np.ndarray
    prefix: np.ndarray
    features: np.ndarray | None
    explored: bool
    loss: float
    target: np.ndarray | None = None
    keys: np.ndarray | None = None
    pmfs: np.ndarray | None = None
    target_pmfs: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.slots)

    def chosen_keys(self) -> np.ndarray:
        """int64[s], keys of the actions chosen."""
        return action_keys(self.items)


def encode_decision(decision: ListDecision, info: DecisionInfo) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a trace holds of a decision: the part of its head under `HEAD`, and its arrays."""
    part: dict[str, Any] = {
        "policy": info.policy, "kind": info.kind, "mode": info.mode, "snapshot": int(info.snapshot),
        "reason": info.reason, "control": bool(info.control), "layout": info.layout,
        "version_free": int(info.version_free), "vectors": info.vectors, "explored": bool(decision.explored),
        "loss": float(decision.expected_loss),
    }  # fmt: skip
    if info.arm:
        part["arm"] = info.arm
    arrays = {}
    for name, kind in _TYPES.items():
        value = getattr(decision, _FIELDS.get(name, name))
        if value is not None:
            arrays[f"decision_{name}"] = np.ascontiguousarray(value, dtype=kind)
    return {HEAD: part}, arrays


def decode_decision(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> DecisionRecord | None:
    """The decision of a trace; None where the list was made without a policy."""
    part = head.get(HEAD)
    if part is None or "decision_slots" not in arrays:
        return None
    info = DecisionInfo(
        part["policy"], part["kind"], part["mode"], part["snapshot"], part["reason"], part["control"], part["layout"],
        part.get("version_free", -1), part.get("vectors", ""), part.get("arm", ""),
    )  # fmt: skip
    values = {name: arrays.get(f"decision_{name}") for name in _TYPES}
    items = tuple(head["items"][slot] for slot in arrays["decision_slots"].tolist())
    return DecisionRecord(info, items, explored=part["explored"], loss=part["loss"], **values)  # type: ignore[arg-type]


def without_large_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a decision alone that stay in a trace which has no room for all of it."""
    return {name: part for name, part in arrays.items() if name.startswith("decision_") and name not in _LARGE}
