"""The compiled function that makes lists of scored candidates: see `list_plan`, which calls it.

For each request: sort best first, fill up with popular items (FILL); boosts and exposure targets, variety, rotation,
pins (ORDER); slots by caps and shares (SLOTS). What the rules need of items lies in an `ArrayTable`, see `rule_table`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from zhiyin.core.array_table import bool_at, float64_at, int_at
from zhiyin.core.parallel import kernel
from zhiyin.pipeline.backfill import fill_up
from zhiyin.pipeline.exposure import score_spread
from zhiyin.pipeline.pinning import insert_pins
from zhiyin.pipeline.rotation import rotate
from zhiyin.pipeline.rule_table import (
    GAINS,
    N_BOOSTS,
    N_CAPS,
    N_EXPOSURE,
    N_SHARES,
    SLOTS_OF_BOOST,
    rule_slots,
)  # fmt: skip
from zhiyin.pipeline.score_order import best_first_order, reorder
from zhiyin.pipeline.slot_allocation import BY_YIELDING, assign_lists, gather_constraints
from zhiyin.pipeline.variety_kernels import CALIBRATE, NONE, WIDTH, category_shares_of, vary

# Stages.
FILL, ORDER, SLOTS = 1, 2, 4
ALL_STAGES = FILL | ORDER | SLOTS

# Columns of the counts of a request: rows of its slate, and without pinned items that it lacked; items of its list;
# popular items among its candidates; flags.
SIZE, SIZE_BEFORE_PINS, LENGTH, N_POPULAR, FLAGS, N_COUNTS = range(6)
# Flags: a score is NaN; more popular items are needed; what changed something.
HAS_NAN, NEEDS_MORE, ADJUSTED, VARIED, ROTATED, CONSTRAINED = 1, 2, 4, 8, 16, 32


@kernel
def _adjust(first, size, rules, deficits, applies, factors, addends, items, scores, changes, before):
    """Boosts and exposure targets; returns whether anything was to be done.

    applies, factors, addends: [boosts, rows], where they were computed by row; empty: the rules have them by item.
    changes: float64[boosts + exposure, rows], NaN where nothing changed; before: the items in the order before.
    """
    n_boosts, n_shares, n_exposure = int_at(rules, N_BOOSTS), int_at(rules, N_SHARES), int_at(rules, N_EXPOSURE)
    has_deficit = False
    for place in range(min(n_exposure, len(deficits))):
        has_deficit |= deficits[place] > 0
    if n_boosts == 0 and not has_deficit:
        return False
    first_condition, first_boost = rule_slots(int_at(rules, N_CAPS), n_shares, n_exposure)
    values = np.empty(size)
    for row in range(size):
        values[row] = scores[row]
        before[first + row] = items[row]
    changes[:, first : first + size] = np.nan
    for boost in range(n_boosts):
        slot = first_boost + SLOTS_OF_BOOST * boost
        where, item_factors, item_addends = (
            bool_at(rules, slot), float64_at(rules, slot + 1), float64_at(rules, slot + 2),
        )  # fmt: skip
        by_row = applies.shape[1] > 0
        for row in range(size):
            item = items[row]
            if by_row:
                applied = applies[boost, first + row]
                factor, addend = factors[boost, first + row], addends[boost, first + row]
            else:
                applied = len(where) == 0 or where[item]
                factor = item_factors[item if len(item_factors) > 1 else 0]
                addend = item_addends[item if len(item_addends) > 1 else 0]
            if not applied:
                continue
            value = values[row]
            changed = (value * factor if value >= 0 else value / factor) + addend
            if changed != value:
                changes[boost, first + row] = changed - value
            values[row] = changed
    if has_deficit:
        spread, gains = score_spread(values), float64_at(rules, GAINS)
        for place in range(min(n_exposure, len(deficits))):
            if deficits[place] <= 0:
                continue
            members = bool_at(rules, first_condition + n_shares + place)
            for row in range(size):
                if members[items[row]]:
                    push = gains[place] * deficits[place] * spread
                    if push > 0:
                        changes[n_boosts + place, first + row] = push
                    values[row] += push
    order = np.empty(size, dtype=np.int64)
    for row in range(size):
        scores[row] = np.float32(values[row])
    best_first_order(scores, order)
    reorder(order, items, scores)
    return True


@kernel
def make_lists(
    start, stop, stages, k, rules, method, balance, smoothing, features, strength, n_fixed, seed,
    offsets, items, scores, excluded_offsets, excluded, popular_order, eligible, wanted, deficits,
    applies, factors, addends, pin_offsets, pin_items, pin_slots,
    history_offsets, history_items, history_weights, users, visits,
    room, slate_items, slate_scores, pins, changes, before, rotated_from, varied_from,
    rows, reasons, causes, missing, blocked, list_items, list_scores, counts,
):  # fmt: skip
    """Lists of requests start to stop, by some of the stages; see `list_plan.ListPlan` for what is handed in."""
    n_caps, n_shares = int_at(rules, N_CAPS), int_at(rules, N_SHARES)
    has_pins = len(pin_offsets) > 1
    wanted_shares = np.zeros(int_at(features, WIDTH) if method == CALIBRATE else 0)
    for request in range(start, stop):
        first, end = room[request], room[request + 1]
        own_items, own_scores = slate_items[first:end], slate_scores[first:end]
        flags = counts[request, FLAGS]
        if stages & FILL:
            size = offsets[request + 1] - offsets[request]
            begin = offsets[request]
            order = np.empty(size, dtype=np.int64)
            for row in range(size):
                own_items[row], own_scores[row] = items[begin + row], scores[begin + row]
            flags = 0 if best_first_order(own_scores[:size], order) else HAS_NAN
            reorder(order, own_items[:size], own_scores[:size])
            n_popular = 0
            if len(popular_order) > 0 and flags == 0:
                out = excluded[excluded_offsets[request] : excluded_offsets[request + 1]]
                size, n_popular = fill_up(k, wanted[request], rules, deficits, out, popular_order, eligible,
                                           own_items, own_scores, size)  # fmt: skip
            counts[request, SIZE], counts[request, N_POPULAR] = size, n_popular
        size = counts[request, SIZE]
        if stages & ORDER:
            if _adjust(first, size, rules, deficits, applies, factors, addends, own_items[:size], own_scores[:size],
                       changes, before):  # fmt: skip
                flags |= ADJUSTED
            if method != NONE and size > 0:
                if method == CALIBRATE:
                    history = slice(history_offsets[request], history_offsets[request + 1])
                    category_shares_of(history_items[history], history_weights[history], features, wanted_shares)
                order, chosen = np.empty(size, dtype=np.int64), np.empty(min(k, size), dtype=np.int64)
                vary(method, balance, smoothing, own_items[:size], own_scores[:size], features, wanted_shares, order,
                     chosen)  # fmt: skip
                reorder(order, own_items[:size], own_scores[:size])
                for place in range(len(chosen)):
                    varied_from[0, request, place], varied_from[1, request, place] = order[place], own_items[place]
                    if order[place] > place:
                        flags |= VARIED
            if strength > 0 and size > 0:
                rotate(seed, users[request], visits[request], strength, n_fixed, own_items[:size], own_scores[:size],
                        rotated_from[first : first + size])  # fmt: skip
                flags |= ROTATED
            counts[request, SIZE_BEFORE_PINS] = size
            if has_pins:
                pins[first : first + size] = -1
                mine = slice(pin_offsets[request], pin_offsets[request + 1])
                size = insert_pins(pin_items[mine], pin_slots[mine], own_items, own_scores, size,
                                    pins[first:end])  # fmt: skip
                counts[request, SIZE] = size
        if stages & SLOTS:
            length = min(k, size)
            yielded = False
            if n_caps == 0 and n_shares == 0 and not has_pins:
                for slot in range(length):
                    list_items[request, slot], list_scores[request, slot] = own_items[slot], own_scores[slot]
            else:
                flags |= CONSTRAINED
                local = np.array([0, size])
                starts, groups, n_groups, limits, members, min_shares = gather_constraints(
                    k, rules, local, own_items[:size]
                )
                no_pins = np.full(0 if has_pins else size, -1, dtype=np.int64)
                assign_lists(
                    0, 1, local, pins[first : first + size] if has_pins else no_pins, starts, groups, limits, members,
                    min_shares, np.zeros(n_groups, dtype=np.int64), rows[request : request + 1],
                    reasons[request : request + 1], causes[request : request + 1], missing[request : request + 1],
                    blocked[first : first + size],
                )  # fmt: skip
                length = 0
                while length < k and rows[request, length] >= 0:
                    row = rows[request, length]
                    list_items[request, length], list_scores[request, length] = own_items[row], own_scores[row]
                    # A cap that is not strict yields to candidates only after popular items were tried.
                    yielded |= reasons[request, length] == BY_YIELDING
                    length += 1
            counts[request, LENGTH] = length
            is_short = length < k or (yielded and wanted[request] < 4 * k)
            if len(popular_order) > 0 and is_short and counts[request, N_POPULAR] >= wanted[request]:
                flags |= NEEDS_MORE
        counts[request, FLAGS] = flags


def _vector(dtype: types.Type, columns: int = 1, written: bool = False) -> types.Array:
    return types.Array(dtype, columns, "C", readonly=not written)


_I8, _I16, _I32, _I64, _F32, _F64, _B = (
    types.int8, types.int16, types.int32, types.int64, types.float32, types.float64, types.boolean,
)  # fmt: skip
# Of `make_lists`: one for all, whether or not arrays are read-only.
_SIGNATURE = types.void(
    _I64, _I64, _I64, _I64, _vector(_I64), _I64, _F64, _F64, _vector(_I64), _F64, _I64, types.uint64,
    _vector(_I64), _vector(_I32), _vector(_F32), _vector(_I64), _vector(_I32), _vector(_I32), _vector(_B),
    _vector(_I64), _vector(_F64), _vector(_B, 2), _vector(_F64, 2), _vector(_F64, 2),
    _vector(_I64), _vector(_I32), _vector(_I64), _vector(_I64), _vector(_I32), _vector(_F32), _vector(_I64),
    _vector(_I64), _vector(_I64), _vector(_I32, 1, True), _vector(_F32, 1, True), _vector(_I64, 1, True),
    _vector(_F64, 2, True), _vector(_I32, 1, True), _vector(_I32, 1, True), _vector(_I32, 3, True),
    _vector(_I64, 2, True), _vector(_I8, 2, True), _vector(_I16, 2, True), _vector(_I64, 2, True),
    _vector(_I16, 1, True), _vector(_I32, 2, True), _vector(_F32, 2, True), _vector(_I64, 2, True),
)  # fmt: skip


@functools.cache
def compiled_make_lists() -> Any:
    """`make_lists`, compiled for its one signature."""
    dispatcher: Any = make_lists
    dispatcher.compile(_SIGNATURE)
    dispatcher.disable_compile()
    return dispatcher
