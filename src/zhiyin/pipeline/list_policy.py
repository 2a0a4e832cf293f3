"""The policy of a placement and the decision that it makes of a list.

A list is filled slot by slot. The actions of a slot are the items of the shortlist that may stand there under every
rule, given the slots before. The policy says with what probability it takes each; exploration limits pull that towards
the greedy action; the item is drawn from the result, which is logged as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from zhiyin.core.errors import ConfigError
from zhiyin.core.hashing import mix
from zhiyin.core.limits import MAX_ITEMS
from zhiyin.policies.action_sets import decision_seeds
from zhiyin.policies.policy import Policy
from zhiyin.policies.probabilities import draw, slot_seed

if TYPE_CHECKING:
    from zhiyin.pipeline.item_statistics import ItemStatistics
    from zhiyin.pipeline.list_features import ListFeatures

MODES = ("online", "shadow", "apprentice")
# Items that a policy may choose among, at most.
MAX_SHORTLIST = 1_000


@dataclasses.dataclass(frozen=True)
class ExplorationLimits:
    """How far lists may differ from the greedy one.

    Parameters
    ----------
    share: the probability that a list differs from the greedy one, at most; it holds for every list. Without a policy
        that learns (see `ListPolicy`) it is the probability that one slot is explored.
    slot_shares: the probability that a slot is not given to its greedy item, at most, by slot from 1.
    first_slot: slots before it are greedy, from 1.
    greedy: no slot is explored.
    loss: expected reward that exploring may cost a list, at most, by the policy's own estimate: an item that would cost
        more, given the slots before, has probability 0.

    Raises ConfigError for a value out of its range.
    """

    share: float = 1.0
    slot_shares: Mapping[int, float] = dataclasses.field(default_factory=dict)
    first_slot: int = 1
    greedy: bool = False
    loss: float = math.inf

    def __post_init__(self) -> None:
        for name, value in [("share", self.share), *((f"slot {slot}", x) for slot, x in self.slot_shares.items())]:
            if not 0 <= value <= 1:
                raise ConfigError(f"exploration: {name} = {value!r} is out of range", remedy="a share, from 0 to 1")
        for slot in (*self.slot_shares, self.first_slot):
            if isinstance(slot, bool) or not isinstance(slot, int | np.integer) or not 1 <= slot <= MAX_ITEMS:
                raise ConfigError(
                    f"exploration: {slot!r} is no slot", remedy=f"slots are whole numbers from 1 to {MAX_ITEMS:,}"
                )

    def slot_bounds(self, k: int) -> np.ndarray:
        """float64[k]: the probability that each slot is not given to its greedy item, at most; `share` is not in it."""
        bounds = np.ones(k)
        for slot, share in self.slot_shares.items():
            if slot <= k:
                bounds[slot - 1] = share
        bounds[: k if self.greedy else self.first_slot - 1] = 0.0
        return bounds


@dataclasses.dataclass(frozen=True, eq=False)
class ListPolicy:
    """What chooses the items of the lists of a placement.

    Parameters
    ----------
    policy: gives the probabilities; None: with the probability `limits.share`, one slot that is not pinned goes to an
        item that did not make the list, slot and item drawn evenly among the replacements that keep every rule.
    name: of the placement; two policies do not share their draws.
    features: of the items for the policy; None: policies over scores use the scores of the list.
    shortlist: the best so many items may be chosen.
    mode: "online": the policy decides. "shadow": the list is the one without a policy; the decision says what the
        policy would have done. "apprentice": the list is the one without a policy, except that with the probability
        `randomisation` two of its first five items change places.
    limits: of exploration.
    randomisation: see `mode`.
    actions: int64, action keys of the items that the shortlist is made of; None: the best ones that may be chosen.
    statistics: displays and rewards of items, for features and for the places of the shortlist that are kept for items
        without displays; None: no item was displayed.

    Raises ConfigError for a value out of its range.
    """

    policy: Policy | None
    name: str = ""
    features: ListFeatures | None = None
    shortlist: int = 50
    mode: Literal["online", "shadow", "apprentice"] = "online"
    limits: ExplorationLimits = dataclasses.field(default_factory=ExplorationLimits)
    randomisation: float = 0.02
    statistics: ItemStatistics | None = None
    actions: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.shortlist <= MAX_SHORTLIST:
            raise ConfigError(f"shortlist = {self.shortlist!r} is out of range", remedy=f"from 1 to {MAX_SHORTLIST:,}")
        if self.mode not in MODES:
            raise ConfigError(f"mode = {self.mode!r} is not known", remedy=f"one of {', '.join(MODES)}")
        if not 0 <= self.randomisation <= 1:
            raise ConfigError(f"randomisation = {self.randomisation!r} is out of range", remedy="from 0 to 1")

    @functools.cached_property
    def _salt(self) -> np.uint64:
        return np.uint64(decision_seeds([self.name], "list")[0])

    def seeds(self, requests: np.ndarray) -> np.ndarray:
        """uint64[n]: what the decisions of requests draw with, by the seeds of the requests, uint64[n]."""
        return _salted(np.asarray(requests, dtype=np.uint64), self._salt)

    @classmethod
    def one_slot(cls, rate: float) -> ListPolicy:
        """With probability `rate`, one slot of a list is explored."""
        return cls(None, limits=ExplorationLimits(share=rate))


@dataclasses.dataclass(frozen=True, eq=False)
class ListDecision:
    """The decision that a list is: m items in the shortlist, s open slots, those that are not pinned.

    Parameters
    ----------
    keys: int64[m], action keys of the items of the shortlist (`policies.action_sets.action_keys` of their ids).
    items: int32[m], their codes, best first.
    slots: int16[s], the open slots, from 0.
    chosen: int16[s], positions in the shortlist of the items of the list; -1: of a given list, not in it.
    greedy: int16[s], what the policy believes best in each slot given the slots before.
    baseline: int16[s], what the list would be without a policy.
    pmfs: float64[s, m], the probability of each item in each slot given the slots before, by which the list was drawn;
        0: not allowed. Where nothing is drawn, the item without a policy has 1.
    propensities: float64[s]; `pmfs[range(s), chosen]`, bit for bit, in every mode; 0 of a given item that is not in
        the shortlist.
    prefix_propensities: float64[s], products of the propensities up to each slot.
    features: float32[s, d] of the chosen items, with the position filled in; None: the policy uses none.
    explored: whether the list differs from the greedy one; in "apprentice", from the one without a policy.
    expected_loss: expected rewards of the greedy items of the slots less those of the chosen ones, each given the slots
        before, by the policy's own estimate; >= 0, and 0 where the policy has none.
    reason: why the policy did not decide: "" where it did; "invalid_probabilities", "constant_scores",
        "schema_changed", "invalid_snapshot", "budget_exceeded_time".
    mode: as of the policy.
    target_propensities: float64[s], of the modes "shadow" and "apprentice": the probability with which the policy,
        its limits in force, would have put the chosen item into the slot, given the slots before; None in "online".
    target_pmfs: float64[s, m], likewise of all items; None in "online" and where the policy could not be asked.
    """

    keys: np.ndarray
    items: np.ndarray
    slots: np.ndarray
    chosen: np.ndarray
    greedy: np.ndarray
    baseline: np.ndarray
    pmfs: np.ndarray
    propensities: np.ndarray
    prefix_propensities: np.ndarray
    features: np.ndarray | None
    explored: bool
    expected_loss: float
    reason: str = ""
    mode: str = "online"
    target_propensities: np.ndarray | None = None
    target_pmfs: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.slots)


def redraw(pmfs: np.ndarray, slots: np.ndarray, seed: int, name: str = "") -> np.ndarray:
    """int16[s]: the positions that a list drew from logged probabilities: those of `ListDecision.chosen`.

    Parameters
    ----------
    pmfs: float64[s, m], as logged.
    slots: int16[s], as logged.
    seed: of the request.
    name: of the policy.
    """
    s, m = pmfs.shape
    seeds = ListPolicy(None, name).seeds(np.array([seed % 2**64], dtype=np.uint64))
    chosen = np.empty(s, dtype=np.int64)
    slot_seeds = slot_seed(np.repeat(seeds, s), slots.astype(np.uint64))
    draw(np.ascontiguousarray(pmfs, dtype=np.float64).ravel(), np.arange(s + 1) * m, slot_seeds, chosen, 0, s)
    return (chosen - np.arange(s) * m).astype(np.int16)


def _salted(seeds: np.ndarray, salt: np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(mix(seeds ^ salt), dtype=np.uint64)
