"""Traces of lists that a policy has decided, for tests of rewards and learning."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from zhiyin.pipeline.decision_record import DecisionInfo, encode_decision
from zhiyin.pipeline.list_policy import ListDecision
from zhiyin.policies.action_sets import action_keys
from zhiyin.store.traces import Trace

START = 1_700_000_000_000_000
SECOND = 1_000_000


@dataclasses.dataclass
class Clock:
    """A clock that a test sets, microseconds UTC."""

    now: int = START

    def __call__(self) -> int:
        return self.now


def decided_trace(
    list_id: str,
    time: int,
    items: Sequence[str] = ("a", "b", "c"),
    *,
    slots: Sequence[int] | None = None,
    features: np.ndarray | None = None,
    user: str | None = "alice",
    placement: str = "home",
    mode: str = "online",
    control: bool = False,
    version: int = 1,
    layout: str = "layout",
    more: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    pmfs: np.ndarray | None = None,
    shortlist: Sequence[str] | None = None,
    baseline: Sequence[int] | None = None,
) -> Trace:
    """The trace of a list. `more`: of the decision; `head`: of the list. `shortlist`: by default the items decided.

    pmfs: float64[s, m]; by default each slot has the item that it shows with certainty.
    """
    places = list(range(len(items))) if slots is None else list(slots)
    shown = [items[place] for place in places]
    candidates = list(shown if shortlist is None else shortlist)
    chosen = np.array([candidates.index(item) for item in shown], dtype=np.int16)
    if pmfs is None:
        pmfs = np.zeros((len(shown), len(candidates)))
        pmfs[np.arange(len(shown)), chosen] = 1.0
    propensities = pmfs[np.arange(len(shown)), chosen]
    decision = ListDecision(
        action_keys(candidates), np.full(len(candidates), -1, np.int32),
        np.array(places, dtype=np.int16), chosen, chosen,
        chosen if baseline is None else np.array(baseline, dtype=np.int16), pmfs, propensities,
        np.cumprod(propensities), features, False, 0.0,
    )  # fmt: skip
    info = DecisionInfo(placement, "LinTS", mode, 0, "", control, layout)
    part, arrays = encode_decision(decision, info)
    part["decision"] |= more or {}
    return Trace(list_id, user, time, version, placement, {"items": list(items), **part, **(head or {})}, arrays)
