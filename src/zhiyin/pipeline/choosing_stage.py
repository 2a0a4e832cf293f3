"""The last stage of a list: a policy chooses its items, slot by slot, among those that the rules let stand there."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.parallel import for_chunks
from zhiyin.core.run import Run, log
from zhiyin.pipeline import slot_choices
from zhiyin.pipeline.list_policy import ListDecision, ListPolicy
from zhiyin.pipeline.slate import Slates
from zhiyin.pipeline.slot_allocation import BY_PIN, BY_POLICY, Constraints, SlotAssignment, allowed_replacements
from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.linear_policy import LinearPolicy
from zhiyin.policies.policy import Policy
from zhiyin.policies.slot_probabilities import DRAWS, SlotValues

# Candidates that did not make the list and are offered for each of its slots where no policy learns.
MAX_REPLACEMENTS_PER_SLOT = 50
# The share of the places of a shortlist that items without displays have, where so many qualify.
NEW_SHARE = 0.1
# Candidates that are looked through for items without displays, times the places of the shortlist.
NEW_SEARCH = 4
# The first slots of a list, two of which may change places in the mode "apprentice".
SWAPPED_SLOTS = 5
# Lists whose posterior draws are in memory at once, a thread.
DRAWN_LISTS = 4

_EMPTY = np.zeros(0)
_FIRST = np.zeros(1, dtype=np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class ListChooser:
    """A policy and what it needs to know of the candidates of a batch.

    Parameters
    ----------
    policy: what chooses.
    keys: action keys, int64, of item codes, int32; None: the codes.
    features: float32[m, d] of the items of the shortlists by their requests int64[m], codes int32[m], places among the
        candidates int64[m] (from 0) and scores float32[m]; None: the policy chooses without.
    without_displays: bool[m], which of some items, int32[m] codes, were never displayed; None: not known.
    position_feature: column of the features that holds the position; -1: none.
    forced: int32[k], a list that is given, for a batch of one: its probabilities are computed, and nothing is drawn.
    reason: why the policy is not to decide; "": it is.
    """

    policy: ListPolicy
    keys: Callable[[np.ndarray], np.ndarray] | None = None
    features: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    without_displays: Callable[[np.ndarray], np.ndarray] | None = None
    position_feature: int = -1
    forced: np.ndarray | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class ChosenLists:
    """What a policy chose for n lists of k slots. `SlotAssignment.rows` holds the lists.

    Parameters
    ----------
    propensities: float64[n, k], of the item of each slot given the slots before; 1 of pinned ones.
    owners, slots: int64, the places whose item is another than without a policy.
    displaced: int32, items that had them.
    decision: of a batch of one.
    forced: float64, of a batch of one with a list that is given: the probability of its item in each of its slots.
    """

    propensities: np.ndarray
    owners: np.ndarray
    slots: np.ndarray
    displaced: np.ndarray
    decision: ListDecision | None = None
    forced: np.ndarray | None = None


@dataclasses.dataclass(eq=False)
class _Lists:
    """Arrays of n lists with m items in their shortlists, as `slot_choices.fill_lists` takes them.

    Parameters
    ----------
    offsets: int64[n + 1]; the shortlist of list r is [offsets[r], offsets[r + 1]).
    rows: int64[m], rows of the items among the candidates.
    lists: int64[n, k], rows of the lists; -1 behind their ends.
    is_open: bool[n, k], slots that are filled and not pinned.
    baseline: int64[n, k], positions in their shortlists of the open slots of the lists without a policy; -1 elsewhere.
    """

    offsets: np.ndarray
    rows: np.ndarray
    lists: np.ndarray
    is_open: np.ndarray
    baseline: np.ndarray
    constraints: Constraints

    @functools.cached_property
    def owners(self) -> np.ndarray:
        if len(self.offsets) == 2:
            return np.zeros(len(self.rows), dtype=np.int64)
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def width(self) -> int:
        return len(self.rows) if len(self.offsets) == 2 else int(np.diff(self.offsets).max(initial=0))


@dataclasses.dataclass(frozen=True, eq=False)
class _Changes:
    """Exchanges of which a list of n, with k slots, has one at most.

    Parameters
    ----------
    starts: int64[n * k + 1]: those of slot s of list r are [starts[r * k + s], starts[r * k + s + 1]).
    positions: int64[e], positions in the shortlist of the items that get the slot.
    chances: float64[e], their probabilities; those of a list sum to 1 at most.
    """

    starts: np.ndarray
    positions: np.ndarray
    chances: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.starts, self.positions, self.chances


@dataclasses.dataclass(eq=False)
class _Filling:
    """What `slot_choices.fill_lists` writes for n lists of k slots, with shortlists of at most w items.

    Parameters
    ----------
    pmfs: float64[n, k, w]; of more than one list float64[n, 1, w], the probabilities of the slot at hand.
    chosen, greedy: int64[n, k], positions in the shortlists; -1: none.
    propensities: float64[n, k]; 1 where nothing is chosen.
    losses: float64[n].
    status: int8[n], DECIDED or INVALID.
    """

    pmfs: np.ndarray
    chosen: np.ndarray
    greedy: np.ndarray
    propensities: np.ndarray
    losses: np.ndarray
    status: np.ndarray

    @classmethod
    def empty(cls, n: int, k: int, width: int) -> _Filling:
        pmfs, none = np.zeros((n, k if n == 1 else 1, width)), np.full((n, k), -1, dtype=np.int64)
        return cls(pmfs, none, none.copy(), np.ones((n, k)), np.zeros(n), np.zeros(n, np.int8))


_NO_CHANGES = _Changes(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0))


def choose(
    slates: Slates,
    assignment: SlotAssignment,
    constraints: Constraints,
    chooser: ListChooser,
    seeds: np.ndarray | None,
    run: Run | None = None,
) -> ChosenLists:
    """Let a policy choose, and write the lists into `assignment`.

    Where the policy fails, its list stays as it was, with the reason in the decision. seeds: uint64[n], of the
    requests; None: zeros.
    """
    run, n, policy = run or Run(threads=1), len(slates), chooser.policy
    seeds = policy.seeds(np.zeros(n, np.uint64) if seeds is None else seeds)
    is_open = (assignment.rows >= 0) & (assignment.reasons != BY_PIN)
    lists, changes = _shortlists(slates, assignment, constraints, chooser, is_open)
    baseline_rows = assignment.rows.copy()
    chooses = _Choosing(slates, lists, chooser, run, seeds)
    if policy.mode == "apprentice":
        changes = _swaps(baseline_rows, lists.baseline, is_open, constraints, policy.randomisation)
    forced = None if chooser.forced is None else _forced_positions(slates, lists, chooser.forced)
    filling, believed = chooses.fill(changes, forced)
    changed = (lists.lists != baseline_rows) if forced is None else np.zeros_like(is_open)
    owners, slots = changed.nonzero()
    displaced = slates.items[baseline_rows[owners, slots]]
    assignment.rows[changed] = lists.lists[changed]
    assignment.reasons[changed] = BY_POLICY
    decision = None
    if n == 1:
        decision = chooses.decision(filling, believed)
    given = None
    if chooser.forced is not None:
        given = _given_probabilities(slates, baseline_rows[0], is_open[0], filling.propensities[0], chooser.forced)
    return ChosenLists(filling.propensities, owners, slots, displaced, decision, given)


def _shortlists(
    slates: Slates, assignment: SlotAssignment, constraints: Constraints, chooser: ListChooser, is_open: np.ndarray
) -> tuple[_Lists, _Changes]:
    """The shortlists, best first, and the exchanges of one slot, where no policy learns."""
    policy = chooser.policy
    n_rows, lists = len(slates.items), assignment.rows.copy()
    draws_one_slot = policy.policy is None and policy.mode == "online"
    if draws_one_slot:
        counts, rows = allowed_replacements(slates.offsets, assignment, constraints, MAX_REPLACEMENTS_PER_SLOT)
        included = np.zeros(n_rows, dtype=bool)
        included[rows] = True
    elif policy.actions is not None and chooser.keys is not None:
        included = np.isin(chooser.keys(slates.items), policy.actions)
    else:
        included = _best_rows(slates, lists[(assignment.reasons == BY_PIN) & (lists >= 0)], chooser)
    offsets, shortlisted = np.empty(len(slates.offsets), np.int64), np.empty(n_rows, np.int64)
    baseline = np.empty(lists.shape, np.int64)
    n_shortlisted = slot_choices.gather_shortlists(
        slates.offsets, included, lists, is_open, offsets, shortlisted, baseline
    )
    result = _Lists(offsets, shortlisted[:n_shortlisted], lists, is_open, baseline, constraints)
    if not draws_one_slot:
        return result, _NO_CHANGES
    before = np.concatenate([[0], np.cumsum(included)])
    flat = counts.ravel()
    owners = np.repeat(np.arange(len(flat)), flat) // lists.shape[1]
    n_open = np.count_nonzero(counts, axis=1)[owners]
    chances = policy.limits.share / (n_open * np.repeat(flat, flat))
    return result, _Changes(np.concatenate([[0], np.cumsum(flat)]), before[rows] - offsets[owners], chances)


def _swaps(
    rows: np.ndarray, baseline: np.ndarray, is_open: np.ndarray, constraints: Constraints, rate: float
) -> _Changes:
    """Exchanges of two of the first slots of lists, int64[n, k] rows: of a list all alike, `rate` together."""
    n, k = rows.shape
    pairs = np.empty((n * SWAPPED_SLOTS * (SWAPPED_SLOTS - 1) // 2, 3), dtype=np.int64)
    starts, groups, limits, members, _ = constraints.arrays
    counts = np.zeros(constraints.n_groups, np.int64)
    n_pairs = slot_choices.swaps(rows, is_open, starts, groups, limits, members, counts, SWAPPED_SLOTS, pairs)
    owners, slots, later = pairs[:n_pairs].T
    sizes = np.bincount(owners * k + slots, minlength=n * k)
    chances = rate / np.bincount(owners, minlength=n)[owners]
    return _Changes(np.concatenate([[0], np.cumsum(sizes)]), baseline[owners, later], chances)


def _best_rows(slates: Slates, pinned: np.ndarray, chooser: ListChooser) -> np.ndarray:
    """bool[rows]: the best rows of each request that are not pinned, as many as the shortlist has places.

    A share of the places is kept for the best items without displays.
    """
    places = chooser.policy.shortlist
    n_rows = len(slates.items)
    available, best = np.ones(n_rows, dtype=bool), np.zeros(n_rows, dtype=bool)
    available[pinned] = False
    near, is_new = np.zeros(0, np.int64), np.zeros(0, dtype=bool)
    if chooser.without_displays is not None:
        near = np.empty(n_rows, np.int64)
        near = near[: slot_choices.first_rows(slates.offsets, available, NEW_SEARCH * places, near)]
        is_new = np.asarray(chooser.without_displays(slates.items[near]), dtype=bool)
    new_places = math.ceil(NEW_SHARE * places)
    slot_choices.mark_best(slates.offsets, available, near, is_new, places, new_places, best)
    return best


def _forced_positions(slates: Slates, lists: _Lists, forced: np.ndarray) -> np.ndarray:
    """int64[1, k]: positions in the shortlist of a given list; -1: not in it."""
    k = lists.lists.shape[1]
    items = slates.items[lists.rows]
    result = np.full((1, k), -1, dtype=np.int64)
    for slot, item in enumerate(forced[:k].tolist()):
        positions = np.flatnonzero(items == item)
        if len(positions):
            result[0, slot] = positions[0]
    return result


def _given_probabilities(
    slates: Slates, rows: np.ndarray, is_open: np.ndarray, propensities: np.ndarray, forced: np.ndarray
) -> np.ndarray:
    """float64: the probability of each item of a given list; a pinned slot has its item for sure."""
    result = np.zeros(len(forced))
    for slot in range(min(len(forced), len(rows))):
        if is_open[slot]:
            result[slot] = propensities[slot]
        elif rows[slot] >= 0:
            result[slot] = float(slates.items[rows[slot]] == forced[slot])
    return result


class _Choosing:
    """Fills lists by a policy, in its mode, and falls back to the lists as they are where it fails."""

    def __init__(self, slates: Slates, lists: _Lists, chooser: ListChooser, run: Run, seeds: np.ndarray) -> None:
        self.slates, self.lists, self.chooser, self.run = slates, lists, chooser, run
        self.seeds, self.baseline = seeds, lists.baseline
        self.policy = chooser.policy
        self.items = slates.items[lists.rows]
        self.keys = self.items.astype(np.int64) if chooser.keys is None else chooser.keys(self.items)
        self.features: np.ndarray | None = None
        self.reasons = np.full(len(slates), chooser.reason, dtype=object)
        self._sets: ActionSets | None = None
        self._expected = _EMPTY

    def fill(self, changes: _Changes, forced: np.ndarray | None) -> tuple[_Filling, _Filling | None]:
        """The lists that are served, and how the policy would have filled them, in the modes where it does not."""
        mode, learns = self.policy.mode, self.policy.policy is not None
        ready = learns and not self.chooser.reason and self._prepare()
        if mode == "online":
            if not learns and not self.chooser.reason:
                return self._repaired(self._fill_by_changes(changes, forced), forced), None
            filling = self._fill_by_policy(forced) if ready else self._as_baseline(forced)
            return self._repaired(filling, forced), None
        if mode == "shadow":
            filling = self._as_baseline(forced)
        else:
            filling = self._repaired(self._fill_by_changes(changes, forced), forced)
        served = self.lists.lists.copy()
        if not ready:
            return filling, None
        self.lists.lists[:] = self._baseline_rows()
        believed = self._repaired(self._fill_by_policy(filling.chosen), filling.chosen)
        self.lists.lists[:] = served
        filling.greedy[:] = believed.greedy
        return filling, believed

    def decision(self, filling: _Filling, believed: _Filling | None) -> ListDecision:
        """The decision of a batch of one. believed: how the policy would have filled it."""
        slots = self.lists.is_open[0].nonzero()[0]
        parts = (filling.chosen, filling.greedy, self.baseline, filling.propensities, filling.pmfs)
        if len(slots) == self.lists.is_open.shape[1]:
            chosen, greedy, baseline, propensities, pmfs = (part[0] for part in parts)
        else:
            chosen, greedy, baseline, propensities, pmfs = (part[0, slots] for part in parts)
        mode = self.policy.mode
        features = None
        if self.features is not None:
            features = self.features[np.maximum(chosen, 0)]
            if self.chooser.position_feature >= 0:
                features[:, self.chooser.position_feature] = position_feature(slots)
        compared = greedy if mode == "online" else baseline
        target = None if mode == "online" else (filling if believed is None else believed).propensities[0, slots]
        return ListDecision(
            keys=self.keys,
            items=self.items.astype(np.int32),
            slots=slots.astype(np.int16),
            chosen=chosen.astype(np.int16),
            greedy=greedy.astype(np.int16),
            baseline=baseline.astype(np.int16),
            pmfs=pmfs,
            propensities=propensities,
            prefix_propensities=np.cumprod(propensities),
            features=features,
            explored=bool((chosen != compared).any()),
            expected_loss=float(filling.losses[0]) if mode == "online" else 0.0,
            reason=self.reasons[0],
            mode=mode,
            target_propensities=target,
            target_pmfs=None if believed is None else believed.pmfs[0, slots],
        )

    # -- inside -----------------------------------------------------------------------------------------------------

    def _baseline_rows(self) -> np.ndarray:
        rows = self.lists.offsets[:-1, None] + np.maximum(self.baseline, 0)
        if not len(self.lists.rows):
            return self.lists.lists
        rows = self.lists.rows[np.minimum(rows, len(self.lists.rows) - 1)]
        return np.where(self.baseline >= 0, rows, self.lists.lists)

    def _prepare(self) -> bool:
        """Features, expected rewards and the actions of the policy; False, with a reason, where they cannot be had."""
        try:
            if not len(self.items):
                return False
            policy, lists, features, scores = self.policy.policy, self.lists, None, None
            assert policy is not None
            row_scores = self.slates.scores[lists.rows]
            if self.chooser.features is not None:
                places = self.slates.places[lists.rows]
                features = self.chooser.features(lists.owners, self.items, places, row_scores)
                self.features = features
            else:
                scores = row_scores.astype(np.float64)
            is_one = len(lists.offsets) == 2
            filled = _FIRST if is_one else np.flatnonzero(np.diff(lists.offsets))
            if len(filled) < len(lists.offsets) - 1:
                # ActionSets holds no decision without actions: lists that are empty are not the policy's to decide.
                offsets = np.append(lists.offsets[filled], lists.offsets[-1])
            else:
                offsets = lists.offsets
            self._filled = filled
            self._sets = _action_sets(offsets, self.keys, features, scores)
            expected = policy.expected_rewards(self._sets)
            self._expected = _EMPTY if expected is None else np.asarray(expected, dtype=np.float64)
            if len(self._expected) and not np.isfinite(self._expected).all():
                return self._fails("invalid_probabilities")
            if features is not None and len(self._expected) and isinstance(policy, LinearPolicy) and policy.n_updates:
                self._refuse_constant(offsets)
        except DataError as error:
            return self._fails("schema_changed", error)
        except Exception as error:
            return self._fails("invalid_snapshot", error)
        return True

    def _refuse_constant(self, offsets: np.ndarray) -> None:
        """A linear policy that has learned something but 0 and expects the same of all items reads broken features."""
        low = np.minimum.reduceat(self._expected, offsets[:-1])
        high = np.maximum.reduceat(self._expected, offsets[:-1])
        constant = (low == high) & (high != 0) & (np.diff(offsets) > 1)
        self.reasons[self._filled[constant]] = "constant_scores"

    def _fails(self, reason: str, error: Exception | None = None) -> bool:
        self.reasons[:] = reason
        if error is not None:
            log.warning("policy %r: %s; lists are made without it: %s", self.policy.name, reason, error)
        return False

    def _as_baseline(self, forced: np.ndarray | None) -> _Filling:
        """The lists as they are, for sure."""
        n, k = self.baseline.shape
        filling = _Filling.empty(n, k, self.lists.width)
        self._make_baseline(filling, np.arange(n), forced)
        return filling

    def _make_baseline(self, filling: _Filling, owners: np.ndarray, forced: np.ndarray | None) -> None:
        """Set some lists of a filling to what they are without a policy."""
        baseline, is_open = self.baseline[owners], self.lists.is_open[owners]
        at, slots = np.nonzero(is_open)
        if filling.pmfs.shape[1] == baseline.shape[1]:
            filling.pmfs[owners] = 0.0
            filling.pmfs[owners[at], slots, baseline[at, slots]] = 1.0
        filling.chosen[owners] = baseline if forced is None else np.where(is_open, forced[owners], -1)
        filling.greedy[owners] = baseline
        filling.propensities[owners] = 1.0 if forced is None else np.where(is_open, forced[owners] == baseline, 1.0)
        filling.losses[owners] = 0.0

    def _repaired(self, filling: _Filling, forced: np.ndarray | None) -> _Filling:
        """A filling whose lists that have a reason not to be decided are those without a policy."""
        self.reasons[(filling.status != slot_choices.DECIDED) & (self.reasons == "")] = "invalid_probabilities"
        bad = np.flatnonzero(self.reasons != "")
        if len(bad):
            self.lists.lists[bad] = self._baseline_rows()[bad]
            self._make_baseline(filling, bad, forced)
        return filling

    def _fill_by_changes(self, changes: _Changes, forced: np.ndarray | None) -> _Filling:
        n, k = self.baseline.shape
        filling = _Filling.empty(n, k, self.lists.width)
        values = SlotValues(slot_choices.ONE_CHANGE, np.zeros((1, 1)), np.zeros(3))
        for_chunks(lambda a, b: self._fill(filling, values, changes, _EMPTY, forced, a, b), n, self.run)
        return filling

    def _fill_by_policy(self, forced: np.ndarray | None) -> _Filling:
        n, k = self.baseline.shape
        filling = _Filling.empty(n, k, self.lists.width)
        filling.status[self.reasons != ""] = slot_choices.INVALID
        policy, sets = self.policy.policy, self._sets
        assert policy is not None
        assert sets is not None
        try:
            self._fill_chunks(policy, sets, filling, forced)
        except DataError as error:
            self._fails("schema_changed", error)
        except Exception as error:
            self._fails("invalid_snapshot", error)
        return filling

    def _fill_chunks(self, policy: Policy, sets: ActionSets, filling: _Filling, forced: np.ndarray | None) -> None:
        n = len(self.slates)
        if len(self._filled) < n:
            filling.status[np.diff(self.lists.offsets) == 0] = slot_choices.INVALID
        seeds = self.seeds[self._filled]
        sample = policy.slot_values(sets.take(np.arange(1))[0] if sets.n_decisions > 1 else sets, seeds[:1])
        if sample is None:
            self._fill_by_slots(policy, sets, filling, forced)
            return
        if n == 1:
            self._fill(filling, sample, _NO_CHANGES, self._expected, forced, 0, 1)
            return
        place = np.concatenate([[0], np.cumsum(np.diff(self.lists.offsets) > 0)])

        def work(start: int, stop: int) -> None:
            first, last = place[start], place[stop]
            if first == last:
                return
            part, _ = sets.take(np.arange(first, last))
            values = policy.slot_values(part, seeds[first:last])
            assert values is not None
            self._fill(filling, values, _NO_CHANGES, self._expected, forced, start, stop)

        for_chunks(work, n, self.run, DRAWN_LISTS if sample.rule == DRAWS else 0)

    def _fill_by_slots(self, policy: Policy, sets: ActionSets, filling: _Filling, forced: np.ndarray | None) -> None:
        """By `Policy.probabilities`, slot after slot, of all lists at once."""
        n, k = self.baseline.shape
        only = SlotValues(slot_choices.ALLOWED_ONLY, np.zeros((1, 1)), np.zeros(3))
        given = SlotValues(slot_choices.GIVEN, np.zeros((1, 1)), np.zeros(3))
        owners = self.lists.owners
        positions = np.arange(len(owners)) - self.lists.offsets[owners]
        for slot in range(k):
            self._fill(filling, only, _NO_CHANGES, self._expected, forced, 0, n, slot, slot + 1)
            pmf_row = slot if filling.pmfs.shape[1] == k else 0
            allowed = filling.pmfs[owners, pmf_row, positions] > 0
            decides = self.lists.is_open[:, slot] & (filling.status == slot_choices.DECIDED)
            decisions = np.flatnonzero(decides[self._filled])
            if not len(decisions):
                continue
            part, rows = sets.take(decisions, ~allowed)
            probabilities = np.asarray(policy.probabilities(part, self.seeds[self._filled[decisions]], self.run))
            if probabilities.shape != (len(rows),):
                raise ValueError(f"{probabilities.shape} probabilities for {len(rows)} actions")
            filling.pmfs[:, pmf_row] = 0.0
            filling.pmfs[owners[rows], pmf_row, positions[rows]] = probabilities
            self._fill(filling, given, _NO_CHANGES, self._expected, forced, 0, n, slot, slot + 1)

    def _fill(
        self,
        filling: _Filling,
        values: SlotValues,
        changes: _Changes,
        expected: np.ndarray,
        forced: np.ndarray | None,
        start: int,
        stop: int,
        first_slot: int = 0,
        last_slot: int = 1 << 30,
    ) -> None:
        lists, policy = self.lists, self.policy
        k = lists.lists.shape[1]
        by_current = values.rule == slot_choices.ONE_CHANGE
        floor = 0.0 if policy.policy is None or values.rule >= slot_choices.ONE_CHANGE else policy.policy.floor
        slot_choices.fill_lists(
            start, stop, first_slot, last_slot, lists.offsets, lists.rows, lists.lists, lists.is_open,
            *lists.constraints.arrays, np.zeros(lists.constraints.n_groups, np.int64), values.rule, values.values,
            values.parameters, floor, *changes.arrays, policy.limits.share, policy.limits.slot_bounds(k),
            policy.limits.loss, by_current, expected,
            self.baseline if forced is None else forced, forced is None, self.seeds, filling.pmfs, filling.chosen,
            filling.greedy, filling.propensities, filling.losses, filling.status,
        )  # fmt: skip


def _action_sets(
    offsets: np.ndarray, keys: np.ndarray, features: np.ndarray | None, scores: np.ndarray | None
) -> ActionSets:
    """`ActionSets`, with the checks that numbers of a list may fail. Raises DataError."""
    values = scores if features is None else np.ascontiguousarray(features, dtype=np.float64)
    n_dimensions = 1 if features is None else 2
    if values is None or values.ndim != n_dimensions or len(values) != len(keys) or not np.isfinite(values).all():
        return ActionSets(offsets, keys, features, scores)
    return ActionSets.unchecked(offsets, keys, None if features is None else values, scores)


def position_feature(slots: np.ndarray) -> np.ndarray:
    """float32[s]: what features say of a slot, from 0: 0 for the first one, about 1 for the sixteenth."""
    return (np.log2(1.0 + slots) / 4).astype(np.float32)
