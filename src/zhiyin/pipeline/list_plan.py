"""From scored candidates to lists: what the rules of a rulebook need, as one table, and one compiled function.

    plan = ListPlan(rulebook)
    lists = plan.make(ListInputs(offsets, items, scores, requests, k, fill=Fill(...)), run)

`list_kernels.make_lists` does all steps for each request. What the rules need of items lies in an `ArrayTable` that is
made once for a rulebook and a catalogue: groups of caps, members of shares and exposure targets, factors of boosts. An
expression that reads columns of the user or the context, or the time, is evaluated beside and handed in.

A policy chooses between two calls of the function: it gets the slates before slots are assigned, and the lists.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.durations import microseconds
from zhiyin.core.errors import DataError
from zhiyin.core.parallel import for_chunks
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.pipeline import list_kernels as kernels
from zhiyin.pipeline import rule_table
from zhiyin.pipeline.choosing_stage import ListChooser, choose
from zhiyin.pipeline.list_trace import ListState, ListTrace
from zhiyin.pipeline.pinning import Pins, resolve_pins
from zhiyin.pipeline.slate import RequestBatch, Slates
from zhiyin.pipeline.slot_allocation import BY_YIELDING, Constraints, assign_slots, gather_constraints
from zhiyin.pipeline.variety_kernels import N_SLOTS, NONE
from zhiyin.ranking.examples import rows_of

if TYPE_CHECKING:
    from zhiyin.pipeline.expressions import Expression
    from zhiyin.pipeline.rulebook import Rulebook

# Candidates of lists that are filled up together, at most.
MAX_FILL_ROWS = 2_000_000
# What a factor of a boost may be.
MIN_FACTOR, MAX_FACTOR = 1e-6, 1e6

_NO_INT64, _NO_INT32 = np.zeros(0, np.int64), np.zeros(0, np.int32)
_NO_FLOAT64, _NO_BITS = np.zeros(0), np.zeros(0, bool)
_ZERO, _FIRST = np.zeros(1, np.int64), np.zeros(1, np.int64)
# Arguments of `make_lists` where there are none.
_NO_BOOSTS = np.zeros((0, 0), bool), np.zeros((0, 0)), np.zeros((0, 0))
_NO_PINS = _NO_INT64, _NO_INT32, _NO_INT64
_NO_HISTORY = _NO_INT64, _NO_INT32, np.zeros(0, np.float32)
_NO_VISITS = _NO_INT64, _NO_INT64


def _table_without_rules() -> ArrayTable:
    table = ArrayTable(rule_table.FIRST_CAP + 1)
    for slot in (rule_table.N_CAPS, rule_table.N_SHARES, rule_table.N_EXPOSURE, rule_table.N_BOOSTS):
        table.put_int(slot, 0)
    return table


_NO_RULES = _table_without_rules()


@dataclasses.dataclass(frozen=True, eq=False)
class Variety:
    """How lists are varied.

    Parameters
    ----------
    method: a code of `variety_kernels`; name: as the trace has it.
    balance: from 0 (variety alone) to 1 (score alone).
    features: a table of features (`diversity_rerankers.feature_table`) for MMR and DPP, of categories for calibration.
    histories: what lists are calibrated to.
    smoothing: of calibration.
    """

    method: int
    name: str
    balance: float
    features: ArrayTable
    histories: Histories | None = None
    smoothing: float = 0.01


NO_VARIETY = Variety(NONE, "none", 1.0, ArrayTable(N_SLOTS))


@dataclasses.dataclass(frozen=True, eq=False)
class Fill:
    """What fills up lists that are short.

    Parameters
    ----------
    excluded_offsets: int64[n + 1]; excluded: int32, items that each request must not get.
    popular_order: int32, items in the order in which they are taken.
    eligible: bool[n_items].
    wanted: int64[n], popular items to add to each request.
    """

    excluded_offsets: np.ndarray
    excluded: np.ndarray
    popular_order: np.ndarray
    eligible: np.ndarray
    wanted: np.ndarray


NO_FILL = Fill(_ZERO, _NO_INT32, _NO_INT32, _NO_BITS, _NO_INT64)


@dataclasses.dataclass(frozen=True, eq=False)
class ListInputs:
    """Scored candidates of n requests, and what their lists are made by.

    Parameters
    ----------
    offsets: int64[n + 1]; request r has items[offsets[r]:offsets[r + 1]], in any order.
    items: int32[m]. scores: float32[m].
    requests: the other inputs.
    k: items of a list, at most.
    fill: None: nothing is added.
    chooser: the policy for some of the requests, int64 or None for all; None: there is no policy.
    """

    offsets: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    requests: RequestBatch
    k: int
    fill: Fill | None = None
    variety: Variety = NO_VARIETY
    chooser: Callable[[np.ndarray | None], ListChooser] | None = None

    def take(self, rows: np.ndarray) -> ListInputs:
        """Some of the requests, in their order."""
        offsets, picked = rows_of(self.offsets, rows)
        fill, variety, chooser = self.fill, self.variety, self.chooser
        if fill is not None:
            starts, excluded = rows_of(fill.excluded_offsets, rows)
            fill = Fill(starts, fill.excluded[excluded], fill.popular_order, fill.eligible, fill.wanted[rows])
        if variety.histories is not None:
            variety = dataclasses.replace(variety, histories=variety.histories.take(rows))
        if chooser is not None:
            whole = chooser

            def chooser(some: np.ndarray | None) -> ListChooser:
                return whole(rows if some is None else rows[some])

        return ListInputs(offsets, self.items[picked], self.scores[picked], self.requests.take(rows), self.k, fill,
                          variety, chooser)  # fmt: skip


class ListPlan:
    """Makes lists by a rulebook; see the module. Any number of threads may use one."""

    def __init__(self, rulebook: Rulebook) -> None:
        self.rulebook, self.filters = rulebook, rulebook.filters
        rules = rulebook.rules
        self._n_caps, self._n_shares = len(rules.caps) + bool(rules.dedupe), len(rulebook.shares)
        self._n_exposure, self._n_boosts = len(rulebook.exposure), len(rulebook.boosts)
        self._is_constrained = bool(self._n_caps or self._n_shares)
        # Conditions whose members depend on the request, and the (scope, name) of the columns that decide it.
        self._varying = [of for _, of in (*rulebook.shares, *rulebook.exposure) if not of.node.scopes <= {"item"}]
        self._request_columns = sorted(
            {column for of in self._varying for column in of.node.columns if column[0] != "item"}
        )
        self._boosts_read_items_only = all(
            expression is None or expression.node.scopes <= {"item"}
            for _, *expressions in rulebook.boosts
            for expression in expressions
        )
        self._lock = threading.Lock()
        self._table: ArrayTable | None = None
        self._item_boosts: list[tuple[np.ndarray, ...]] | None = None
        self._n_evaluated = 0
        rotation = rules.rotation
        self.strength = 0.0 if rotation is None else float(rotation.strength)
        self.n_fixed = 0 if rotation is None else rotation.keep
        self._visit = 1 if rotation is None else microseconds(rotation.every)
        self._seed = np.uint64(rulebook.seed)

    def make(self, inputs: ListInputs, run: Run) -> Slates:
        """Lists of at most k items. Raises DataError for a score that is NaN.

        Where rules drop so many candidates that a list is short, it is made again with more popular items.
        """
        lists, short = self._make_of_groups(inputs, run)
        if not len(short) or inputs.fill is None:
            return lists
        n, k = inputs.requests.n, inputs.k
        fill = inputs.fill
        if n == 1:
            while len(short):
                fill = dataclasses.replace(fill, wanted=np.maximum(4 * k, 8 * fill.wanted))
                inputs = dataclasses.replace(inputs, fill=fill)
                lists, short = self._make_of_groups(inputs, run)
            return lists
        # Lists that were short stand behind all others at first.
        parts, position, total = [lists], np.arange(n), n
        wanted = fill.wanted.copy()
        while len(short):
            wanted[short] = np.maximum(4 * k, 8 * wanted[short])
            size = max(1, MAX_FILL_ROWS // int(wanted[short].max()))
            again = dataclasses.replace(inputs, fill=dataclasses.replace(fill, wanted=wanted))
            still = []
            for start in range(0, len(short), size):
                rows = short[start : start + size]
                lists, left = self._make_of_groups(again.take(rows), run)
                parts.append(lists)
                position[rows] = total + np.arange(len(rows))
                total += len(rows)
                still.append(rows[left])
            short = np.concatenate(still)
        return Slates.joined(parts).pick(position)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _make_of_groups(self, inputs: ListInputs, run: Run) -> tuple[Slates, np.ndarray]:
        """Lists, and int64, the requests that need more popular items. Requests with different columns of users that
        shares or exposure targets read are made apart."""
        groups = self._groups_by_columns(inputs.requests) if self._request_columns and inputs.requests.n > 1 else None
        if groups is None or len(groups) == 1:
            return self._make(inputs, run)
        made = [self._make(inputs.take(rows), run) for rows in groups]
        position = np.empty(inputs.requests.n, dtype=np.int64)
        position[np.concatenate(groups)] = np.arange(inputs.requests.n)
        short = np.concatenate([rows[left] for rows, (_, left) in zip(groups, made)])
        return Slates.joined([lists for lists, _ in made]).pick(position), np.sort(short)

    def _groups_by_columns(self, requests: RequestBatch) -> list[np.ndarray]:
        """int64: requests with the same values of the columns that conditions of groups read."""
        parts = [
            pl.DataFrame({f"{scope} {name}": part[name]})
            for scope, part in (("user", requests.user), ("context", requests.context))
            for column_scope, name in self._request_columns
            if scope == column_scope and isinstance(part, pl.DataFrame) and name in part.columns
        ]
        if not parts:
            return [np.arange(requests.n)]
        frame = pl.concat(parts, how="horizontal").with_row_index("request")
        grouped = frame.group_by(frame.columns[1:], maintain_order=True).agg("request")
        return [np.asarray(rows, dtype=np.int64) for rows in grouped["request"].to_list()]

    def _make(self, inputs: ListInputs, run: Run) -> tuple[Slates, np.ndarray]:
        """Lists, and int64, the requests that need more popular items."""
        requests, k, variety, rulebook = inputs.requests, inputs.k, inputs.variety, self.rulebook
        n, fill, policy = requests.n, inputs.fill or NO_FILL, inputs.chooser
        pins = None
        if requests.pins is not None or rulebook.rules.pins:
            pins = resolve_pins(requests, k, rule_pins=rulebook.pins, n_items=len(self.filters),
                                may_be_pinned=rulebook.may_be_pinned)  # fmt: skip
        deficits = _NO_FLOAT64 if requests.deficits is None else np.asarray(requests.deficits, np.float64)
        state = ListState.empty(
            self._room(inputs, pins, deficits),
            k,
            n_changes=self._n_boosts + (self._n_exposure if len(deficits) else 0),
            is_rotated=self.strength > 0,
            is_varied=variety.method != NONE,
            is_pinned=pins is not None,
            n_shares=self._n_shares,
            is_constrained=policy is None and (self._is_constrained or pins is not None),
        )
        rules, history = self._rules_of(requests), variety.histories
        fixed = (
            k, rules.words, variety.method, variety.balance, variety.smoothing, variety.features.words, self.strength,
            self.n_fixed, self._seed, inputs.offsets, inputs.items, inputs.scores, fill.excluded_offsets,
            fill.excluded, fill.popular_order, fill.eligible, fill.wanted if fill is not NO_FILL else _zeros(n),
            deficits,
        )  # fmt: skip
        more = (
            *(_NO_PINS if pins is None else (pins.offsets, pins.items, pins.slots)),
            *(_NO_HISTORY if history is None else (history.offsets, history.items, history.weights)),
            *(self._visits(requests) if self.strength > 0 else _NO_VISITS),
            *state.arrays,
        )
        last = kernels.SLOTS if policy is None else 0
        if self._boosts_are_by_item(len(inputs.items)):
            _call(n, run, kernels.FILL | kernels.ORDER | last, *fixed, *_NO_BOOSTS, *more)
        else:
            _call(n, run, kernels.FILL, *fixed, *_NO_BOOSTS, *more)
            boosts = self._boosts_by_row(state, requests)
            _call(n, run, kernels.ORDER | last, *fixed, *boosts, *more)
        if policy is not None:
            return self._chosen(inputs, policy(None), rules, state, pins, run)
        lengths, flags = state.counts[:, kernels.LENGTH], state.counts[:, kernels.FLAGS]
        trace = ListTrace(rulebook, inputs, pins, state)
        if n == 1:
            length = int(lengths[0])
            _refuse_nan(int(flags[0]))
            lists = Slates(np.array([0, length]), state.list_items[0, :length], state.list_scores[0, :length],
                           trace=trace)  # fmt: skip
            return lists, _FIRST if int(flags[0]) & kernels.NEEDS_MORE else _NO_INT64
        _refuse_nan(int(np.bitwise_or.reduce(flags)) if n else 0)
        filled = np.arange(k) < lengths[:, None]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        lists = Slates(offsets, state.list_items[filled], state.list_scores[filled], trace=trace)
        return lists, np.flatnonzero(flags & kernels.NEEDS_MORE)

    def _room(self, inputs: ListInputs, pins: Pins | None, deficits: np.ndarray) -> np.ndarray:
        """int64[n + 1]: where the slates of requests begin, with places for all that may be added."""
        fill, more = inputs.fill, 0
        if fill is not None and (self._n_shares or len(deficits)):
            rules = self.rulebook.required_groups(inputs.requests, inputs.k)
            more = sum(count for _, count in rules)
        if inputs.requests.n == 1:
            n_wanted = 0 if fill is None else int(fill.wanted[0])
            return np.array([0, len(inputs.items) + more + n_wanted + (0 if pins is None else len(pins.items))])
        sizes = np.diff(inputs.offsets) + more
        if fill is not None:
            sizes = sizes + fill.wanted
        if pins is not None:
            sizes = sizes + np.diff(pins.offsets)
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def _visits(self, requests: RequestBatch) -> tuple[np.ndarray, np.ndarray]:
        """int64[n]: numbers of the users, and of their visits."""
        users, visits = requests.users, requests.visits
        if visits is None:
            visits = np.broadcast_to(np.asarray(requests.now, np.int64), requests.n) // self._visit
        if users is None:
            users = np.full(requests.n, -1, np.int64)
        return np.ascontiguousarray(users, np.int64), np.ascontiguousarray(visits, np.int64)

    def _chosen(
        self, inputs: ListInputs, chooser: ListChooser, rules: ArrayTable, state: ListState, pins: Pins | None, run: Run
    ) -> tuple[Slates, np.ndarray]:
        """The lists that a policy chooses of the slates, and the requests that need more popular items."""
        n, k, fill = inputs.requests.n, inputs.k, inputs.fill
        counts = state.counts
        _refuse_nan(int(np.bitwise_or.reduce(counts[:, kernels.FLAGS])) if n else 0)
        sizes = counts[:, kernels.SIZE]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.repeat(state.room[:-1] - offsets[:-1], sizes) + np.arange(offsets[-1])
        slates = Slates(offsets, state.items[rows], state.scores[rows])
        constraints = Constraints(*gather_constraints(k, rules.words, offsets, slates.items))
        own_pins = None if pins is None else state.pins[rows]
        slots = assign_slots(offsets, k, pins=own_pins, constraints=constraints, run=run)
        chosen = choose(slates, slots, constraints, chooser, inputs.requests.seeds, run)
        trace = ListTrace(self.rulebook, inputs, pins, state, chooser=chooser, chosen=chosen, slots=slots,
                          slot_offsets=offsets)  # fmt: skip
        filled = slots.rows >= 0
        rows, lengths = slots.rows[filled], filled.sum(axis=1)
        lists = Slates(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), slates.items[rows], slates.scores[rows],
            propensities=chosen.propensities[filled], decision=chosen.decision, forced=chosen.forced, trace=trace,
        )  # fmt: skip
        if fill is None:
            return lists, _NO_INT64
        yields = (slots.reasons == BY_YIELDING).any(axis=1) & (fill.wanted < 4 * k)
        short = (lengths < k) | yields
        return lists, np.flatnonzero(short & (counts[:, kernels.N_POPULAR] >= fill.wanted))

    # -- the table ----------------------------------------------------------------------------------------------------

    def _rules_of(self, requests: RequestBatch) -> ArrayTable:
        """What the rules need of items; made anew where members depend on the requests, which are all alike in that."""
        if self._table is not None and not self._varying:
            return self._table
        with self._lock:
            if self._table is not None and not self._varying:
                return self._table
            table = self._new_table(requests)
            if not self._varying:
                self._table = table
            return table

    def _new_table(self, requests: RequestBatch) -> ArrayTable:
        rulebook, filters = self.rulebook, self.filters
        caps = [(cap.per, cap.at_most, cap.first, cap.strict) for cap in rulebook.rules.caps]
        if rulebook.rules.dedupe:
            caps.insert(0, (rulebook.rules.dedupe, 1, 0, True))
        groups = [of for _, of in (*rulebook.shares, *rulebook.exposure)]
        conditions, boosts = rule_table.rule_slots(len(caps), len(rulebook.shares), len(rulebook.exposure))
        table = ArrayTable(boosts + rule_table.SLOTS_OF_BOOST * len(rulebook.boosts) + 1)
        table.put_int(rule_table.N_CAPS, len(caps))
        table.put_int(rule_table.N_SHARES, len(rulebook.shares))
        table.put_int(rule_table.N_EXPOSURE, len(rulebook.exposure))
        table.put_int(rule_table.N_BOOSTS, len(rulebook.boosts))
        table.put(rule_table.LIMITS, np.array([cap[1:] for cap in caps], np.int64).reshape(-1, 3), np.int64)
        table.put(rule_table.MIN_SHARES, np.array([share.at_least for share, _ in rulebook.shares]), np.float64)
        table.put(rule_table.GAINS, np.array([target.gain for target, _ in rulebook.exposure]), np.float64)
        for number, (name, *_) in enumerate(caps):
            slot = rule_table.FIRST_CAP + rule_table.SLOTS_OF_CAP * number
            codes, starts = filters.groups(name)
            table.put(slot, codes, np.int32)
            table.put(slot + 1, starts, np.int64)
        values = None
        for number, of in enumerate(groups):
            if of.node.scopes <= {"item"}:
                mask = filters.mask(of)
            else:
                values = values or rulebook.request_values(requests if requests.n == 1 else requests.take(_FIRST))
                mask = filters.mask(of, values)
            table.put(conditions + number, mask.bits, np.bool_)
        if self._item_boosts is not None:
            _put_boosts(table, boosts, self._item_boosts)
        return table

    def _boosts_are_by_item(self, n_rows: int) -> bool:
        """Whether the table has the boosts of all items; it gets them once as many rows were evaluated one by one."""
        if not self._n_boosts or self._item_boosts is not None:
            return True
        if not self._boosts_read_items_only:
            return False
        self._n_evaluated += n_rows
        if self._n_evaluated < len(self.filters):
            return False
        boosts = [self._item_boost(when, multiply, add) for _, when, multiply, add in self.rulebook.boosts]
        with self._lock:
            # The next call makes a table that has them: this one may be in use.
            self._item_boosts, self._table = boosts, None
        return False

    def _item_boost(self, when: Expression | None, multiply: Expression, add: Expression) -> tuple[np.ndarray, ...]:
        """Where a boost applies, its factors and its addends, by item; of constants one number each."""
        filters = self.filters
        factors, addends = (
            _boost_numbers(filters.numbers(expression, None if expression.node.scopes else _FIRST), default)
            for expression, default in ((multiply, 1.0), (add, 0.0))
        )
        return _NO_BITS if when is None else filters.mask(when).bits, factors, addends

    def _boosts_by_row(self, state: ListState, requests: RequestBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where boosts apply, factors and addends: [boosts, rows] of the slates."""
        filters, items, m = self.filters, state.items, len(state.items)
        owners = None if requests.n == 1 else np.repeat(np.arange(requests.n), np.diff(state.room))
        values = self.rulebook.request_values(requests, owners)
        applies, factors, addends = np.ones((self._n_boosts, m), bool), *np.empty((2, self._n_boosts, m))
        for number, (_, when, multiply, add) in enumerate(self.rulebook.boosts):
            if when is not None:
                applies[number] = filters.where(when, items, values)
            factors[number] = _boost_numbers(filters.numbers(multiply, items, values), 1.0)
            addends[number] = _boost_numbers(filters.numbers(add, items, values), 0.0)
        return applies, factors, addends


def best_items(
    offsets: np.ndarray, items: np.ndarray, scores: np.ndarray, k: int, fill: Fill, run: Run
) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of each request without rules, filled up: int32[n, k] items and float32[n, k] scores.

    -1 and minus infinity once nothing is left. offsets, items, scores, fill: as of `ListInputs`. Raises DataError for a
    score that is NaN.
    """
    n = len(offsets) - 1
    sizes = np.diff(offsets) + fill.wanted
    state = ListState.empty(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), k)
    fixed = (
        k, _NO_RULES.words, NONE, 1.0, 0.0, NO_VARIETY.features.words, 0.0, 0, np.uint64(0), offsets, items, scores,
        fill.excluded_offsets, fill.excluded, fill.popular_order, fill.eligible, fill.wanted, _NO_FLOAT64,
    )  # fmt: skip
    _call(n, run, kernels.FILL | kernels.SLOTS, *fixed, *_NO_BOOSTS, *_NO_PINS, *_NO_HISTORY, *_NO_VISITS,
          *state.arrays)  # fmt: skip
    _refuse_nan(int(np.bitwise_or.reduce(state.counts[:, kernels.FLAGS])) if n else 0)
    missing = np.arange(k) >= state.counts[:, kernels.LENGTH, None]
    state.list_items[missing], state.list_scores[missing] = -1, -np.inf
    return state.list_items, state.list_scores


def _put_boosts(table: ArrayTable, slot: int, boosts: list[tuple[np.ndarray, ...]]) -> None:
    for applies, factors, addends in boosts:
        table.put(slot, applies, np.bool_)
        table.put(slot + 1, factors, np.float64)
        table.put(slot + 2, addends, np.float64)
        slot += rule_table.SLOTS_OF_BOOST


def _boost_numbers(numbers: np.ndarray, default: float) -> np.ndarray:
    """Factors (default 1) or addends (default 0) of boosts, the default where NULL."""
    finite = np.nan_to_num(numbers, nan=default)
    return np.clip(finite, MIN_FACTOR, MAX_FACTOR) if default else finite


def _refuse_nan(flags: int) -> None:
    if flags & kernels.HAS_NAN:
        raise DataError("a candidate has the score NaN", remedy="look at what the ranker was given")


def _zeros(n: int) -> np.ndarray:
    return _ZERO if n == 1 else np.zeros(n, np.int64)


def _call(n: int, run: Run, *arguments: Any) -> None:
    """`make_lists` of n requests, on the run's threads."""
    make_lists = kernels.compiled_make_lists()
    if n == 1:
        make_lists(0, 1, *arguments)
    else:
        for_chunks(lambda start, stop: make_lists(start, stop, *arguments), n, run)
