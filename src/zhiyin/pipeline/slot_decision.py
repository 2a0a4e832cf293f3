"""A policy fills slots with actions that a caller brings, by the same limits, draws and records as lists of items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.pipeline.list_policy import ExplorationLimits, ListDecision, ListPolicy
from zhiyin.policies.action_sets import ActionSets, decision_seeds
from zhiyin.policies.exploration_limits import bar_losses, is_distribution, limit_exploration, slot_share
from zhiyin.policies.policy import Policy
from zhiyin.policies.probabilities import draw_one, slot_seed

SlotFeatures = Callable[[int], np.ndarray]


def decide_slots(
    listed: ListPolicy,
    keys: np.ndarray,
    allowed: np.ndarray,
    baseline: np.ndarray,
    features: SlotFeatures,
    event_id: str,
    forced: np.ndarray | None = None,
) -> ListDecision:
    """Fill s slots with m actions, one after the other; an action has one slot at most.

    A slot that no action may have any more is left out. A policy that cannot choose gives the baseline, with a reason.

    Parameters
    ----------
    listed: the policy, its mode and its limits. Mode "apprentice": with the probability `randomisation` a decision
        differs from the baseline, each action that is left being as likely as any other.
    keys: int64[m], action keys.
    allowed: bool[s, m], the actions that each slot may have.
    baseline: int16[s], the action of each slot without a policy, each once; -1: none. An allowed one.
    features: float64[m, d] of all actions in a slot, from 0.
    event_id: of the decision: the same id draws the same.
    forced: int16[s], actions that are given, -1 for slots left out: the decision is theirs, with the probabilities by
        which each would have been chosen, given those before; 0 where it could not be.
    """
    try:
        return _decide(listed, keys, allowed, baseline, features, event_id, forced)
    except DataError:  # the features are not those that were learned with
        return without_policy(keys, baseline, "schema_changed")
    except _InvalidProbabilitiesError:
        return without_policy(keys, baseline, "invalid_probabilities")


def without_policy(keys: np.ndarray, baseline: np.ndarray, reason: str) -> ListDecision:
    """The decision for the baseline where no policy is asked."""
    slots = np.flatnonzero(baseline >= 0).astype(np.int16)
    chosen = baseline[slots].astype(np.int16)
    ones = np.ones(len(slots))
    pmfs = np.zeros((len(slots), len(keys)))
    pmfs[np.arange(len(slots)), chosen] = 1.0
    items = np.full(len(keys), -1, dtype=np.int32)
    return ListDecision(keys, items, slots, chosen, chosen, chosen, pmfs, ones, ones, None, False, 0.0, reason)


def slot_bound(limits: ExplorationLimits, n_slots: int) -> np.ndarray:
    """float64[n_slots]: the probability that a slot is not given to its greedy action, at most.

    So no decision differs from the greedy one with a higher probability than `limits.share`.
    """
    return np.minimum(limits.slot_bounds(n_slots), slot_share(limits.share, max(1, n_slots)))


class _InvalidProbabilitiesError(Exception):
    """A policy gave no probabilities."""


def _decide(
    listed: ListPolicy,
    keys: np.ndarray,
    allowed: np.ndarray,
    baseline: np.ndarray,
    features: SlotFeatures,
    event_id: str,
    forced: np.ndarray | None,
) -> ListDecision:
    policy, mode = listed.policy, listed.mode
    assert policy is not None
    n_slots, m = allowed.shape
    free = np.ones(m, dtype=bool)
    bounds, seed = slot_bound(listed.limits, n_slots), decision_seeds([event_id], listed.name)[0]
    randomisation = slot_share(listed.randomisation, n_slots)
    slots, chosen, greedy, pmfs, targets, rows = [], [], [], [], [], []
    loss, explored = 0.0, False
    for slot in range(n_slots):
        left = allowed[slot] & free
        if not left.any() or (forced is not None and forced[slot] < 0):
            continue
        own = int(baseline[slot])
        if own < 0 or not left[own]:  # given away before: the first one that is left, in the caller's order
            own = int(np.argmax(left))
        phi = features(slot)
        of_slot = np.uint64(slot_seed(seed, np.uint64(slot)))
        pmf, best, expected = _probabilities(policy, keys, phi, left, of_slot)
        if expected is not None:
            bar_losses(pmf, 0, expected, 0, m, best, max(0.0, listed.limits.loss - loss))
        limit_exploration(pmf, 0, m, best, bounds[slot])
        of_policy = pmf
        if mode != "online":
            pmf = _randomised(left, own, randomisation if mode == "apprentice" else 0.0)
        take = int(draw_one(pmf, 0, m, of_slot)) if forced is None else int(forced[slot])
        slots.append(slot)
        chosen.append(take)
        greedy.append(best)
        pmfs.append(pmf)
        targets.append(of_policy)
        rows.append(phi[take])
        if mode == "online":
            explored |= take != best
            loss += 0.0 if expected is None else max(0.0, float(expected[best] - expected[take]))
        else:
            explored |= take != own
        free[take] = False
    drawn_by, believed = (np.array(part).reshape(len(slots), m) for part in (pmfs, targets))
    at = np.arange(len(slots)), np.array(chosen, np.int16)
    given = drawn_by[at]
    return ListDecision(
        keys, np.full(m, -1, dtype=np.int32), np.array(slots, np.int16), at[1],
        np.array(greedy, np.int16), baseline[slots].astype(np.int16), drawn_by, given,
        np.cumprod(given), np.array(rows, np.float32).reshape(len(slots), -1), bool(explored), loss, "", mode,
        None if mode == "online" else believed[at], None if mode == "online" else believed,
    )  # fmt: skip


def _probabilities(
    policy: Policy, keys: np.ndarray, features: np.ndarray, left: np.ndarray, seed: np.uint64
) -> tuple[np.ndarray, int, np.ndarray | None]:
    """float64[m] probabilities of one slot; the greedy action; expected rewards, float64[m], where they are known."""
    rows = np.flatnonzero(left)
    sets = ActionSets.single(keys[rows], features[rows])
    pmf = np.zeros(len(keys))
    pmf[rows] = policy.probabilities(sets, np.array([seed], dtype=np.uint64))
    if not is_distribution(pmf, 0, len(pmf), ~left):
        raise _InvalidProbabilitiesError
    believed = policy.expected_rewards(sets)
    if believed is None:
        return pmf, int(np.argmax(pmf)), None
    expected = np.full(len(keys), -np.inf)
    expected[rows] = believed
    return pmf, int(np.argmax(expected)), expected


def _randomised(left: np.ndarray, own: int, randomisation: float) -> np.ndarray:
    """float64[m]: the baseline's action, but with the probability `randomisation` one of the others that are left."""
    n_others = int(left.sum()) - 1
    pmf = np.where(left, randomisation / max(1, n_others), 0.0)
    pmf[own] = 1.0 - randomisation if n_others else 1.0
    return pmf


def redrawn(pmfs: np.ndarray, slots: np.ndarray, event_id: str, name: str) -> np.ndarray:
    """int16[s]: the actions that a decision draws from logged probabilities: those that it chose.

    Parameters
    ----------
    pmfs: float64[s, m], as logged.
    slots: int16[s], slots of the request, from 0.
    name: of the policy.
    """
    seed = decision_seeds([event_id], name)[0]
    drawn = [
        draw_one(pmf, 0, len(pmf), np.uint64(slot_seed(seed, np.uint64(slot))))
        for pmf, slot in zip(np.asarray(pmfs, dtype=np.float64), slots.tolist())
    ]
    return np.array(drawn, dtype=np.int16)
