"""Kernels that fill the slots of lists by a policy, with every rule pmf_row.

A list is always whole and keeps the rules: it begins as the one without a policy. To give an item a slot is an exchange
that keeps them: the item changes places with the one that has the slot, or it comes in, and the item that leaves is
that of the slot or of a later one. An item that no such exchange brings to a slot is not allowed there.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import kernel
from zhiyin.policies.exploration_limits import bar_losses, is_distribution, limit_exploration, slot_share
from zhiyin.policies.probabilities import draw_one, slot_seed
from zhiyin.policies.slot_probabilities import fill_slot_probabilities

# Rules beside those of `slot_probabilities`: at most one exchange in a list, by a table; probabilities that are given;
# nothing is drawn, only what is allowed is found.
ONE_CHANGE, GIVEN, ALLOWED_ONLY = 10, 11, 12
# What became of a list.
DECIDED, INVALID = 0, 1


@kernel
def _count(row, slot, change, starts, groups, limits, counts):
    for cap in range(len(limits)):
        if slot < limits[cap, 1]:
            for at in range(starts[cap, row], starts[cap, row + 1]):
                counts[groups[at]] += change


@kernel
def _exceeds(row, slot, is_new, starts, groups, limits, counts, before):
    """Whether a cap is exceeded by a row that now has a slot; by one that was in the list, more than it was."""
    for cap in range(len(limits)):
        if slot < limits[cap, 1]:
            for at in range(starts[cap, row], starts[cap, row + 1]):
                group = groups[at]
                if counts[group] > limits[cap, 0] and (is_new or counts[group] > before[group]):
                    return True
    return False


@kernel
def _keeps_rules(
    slot, row, other_slot, other_row, row_is_new, other_is_new, rows_of_list, starts, groups, limits, members, needed,
    n_members, counts, before,
):  # fmt: skip
    """Whether the list keeps the rules with `row` in `slot` and, where other_slot >= 0, `other_row` in that one."""
    for share in range(len(needed)):
        n = n_members[share] + members[share, row] - members[share, rows_of_list[slot]]
        if other_slot >= 0:
            n += members[share, other_row] - members[share, rows_of_list[other_slot]]
        if n < needed[share] and n < n_members[share]:
            return False
    if len(limits) == 0:
        return True
    _count(rows_of_list[slot], slot, -1, starts, groups, limits, counts)
    if other_slot >= 0:
        _count(rows_of_list[other_slot], other_slot, -1, starts, groups, limits, counts)
        _count(other_row, other_slot, 1, starts, groups, limits, counts)
    _count(row, slot, 1, starts, groups, limits, counts)
    exceeds = _exceeds(row, slot, row_is_new, starts, groups, limits, counts, before)
    if not exceeds and other_slot >= 0:
        exceeds = _exceeds(other_row, other_slot, other_is_new, starts, groups, limits, counts, before)
    _count(row, slot, -1, starts, groups, limits, counts)
    if other_slot >= 0:
        _count(other_row, other_slot, -1, starts, groups, limits, counts)
        _count(rows_of_list[other_slot], other_slot, 1, starts, groups, limits, counts)
    _count(rows_of_list[slot], slot, 1, starts, groups, limits, counts)
    return not exceeds


@kernel
def _fits_without(slot, row, later, rows_of_list, starts, groups, limits, counts):
    """Whether no cap forbids a new row in a slot once the items of that slot and of a later one are gone."""
    _count(rows_of_list[slot], slot, -1, starts, groups, limits, counts)
    _count(rows_of_list[later], later, -1, starts, groups, limits, counts)
    _count(row, slot, 1, starts, groups, limits, counts)
    exceeds = _exceeds(row, slot, True, starts, groups, limits, counts, counts)
    _count(row, slot, -1, starts, groups, limits, counts)
    _count(rows_of_list[later], later, 1, starts, groups, limits, counts)
    _count(rows_of_list[slot], slot, 1, starts, groups, limits, counts)
    return not exceeds


@kernel
def _exchange(
    slot, position, current, first, last, rows, place, length, is_open, rows_of_list, starts, groups, limits, members,
    needed, n_members, counts, before,
):  # fmt: skip
    """How the item at `position` may have `slot`: whether it may, another slot that changes, the position that has it.

    The other slot is -1 where nothing else changes. current: the position of the item that has the slot now. place:
    the slot of each position of the shortlist, -1: none. Positions count through the shortlists of all lists.
    """
    row, own, present = rows[position], place[position - first], rows_of_list[slot]
    if own == slot:
        return True, -1, -1
    free = len(limits) == 0 and len(needed) == 0
    if own >= 0:
        if free or _keeps_rules(slot, row, own, present, False, False, rows_of_list, starts, groups, limits, members,
                                needed, n_members, counts, before):  # fmt: skip
            return True, own, current
        for other in range(first, last):  # another item takes the place it leaves
            if place[other - first] < 0 and _keeps_rules(
                slot, row, own, rows[other], False, True, rows_of_list, starts, groups, limits, members, needed,
                n_members, counts, before,
            ):  # fmt: skip
                return True, own, other
        return False, -1, -1
    if free or _keeps_rules(slot, row, -1, -1, True, False, rows_of_list, starts, groups, limits, members, needed,
                            n_members, counts, before):  # fmt: skip
        return True, -1, -1
    for later in range(length - 1, slot, -1):  # another item leaves, and the one of the slot takes its place
        if is_open[later] and _keeps_rules(
            slot, row, later, present, True, False, rows_of_list, starts, groups, limits, members, needed, n_members,
            counts, before,
        ):  # fmt: skip
            return True, later, current
    for later in range(length - 1, slot, -1):  # another item leaves, and one that was not in the list comes for it
        if not is_open[later] or not _fits_without(slot, row, later, rows_of_list, starts, groups, limits, counts):
            continue
        for other in range(first, last):
            if place[other - first] < 0 and other != position and _keeps_rules(
                slot, row, later, rows[other], True, True, rows_of_list, starts, groups, limits, members, needed,
                n_members, counts, before,
            ):  # fmt: skip
                return True, later, other
    return False, -1, -1


@kernel
def _put(row, slot, rows_of_list, starts, groups, limits, members, n_members, counts):
    """Give a slot to a row."""
    before = rows_of_list[slot]
    _count(before, slot, -1, starts, groups, limits, counts)
    _count(row, slot, 1, starts, groups, limits, counts)
    for share in range(len(n_members)):
        n_members[share] += members[share, row] - members[share, before]
    rows_of_list[slot] = row


@kernel
def fill_lists(
    start, stop, first_slot, last_slot, offsets, rows, lists, is_open, starts, groups, limits, members, min_shares,
    counts, rule, values, parameters, floor, change_starts, change_positions, change_values, share, slot_bounds,
    most_loss, by_current, expected, forced, draws, seeds, pmfs, chosen, greedy, propensities, losses, status,
):  # fmt: skip
    """Fill the slots [first_slot, last_slot) of the lists [start, stop); see `choosing_stage` for the arrays.

    pmfs: float64[n, k, w], or [n, 1, w] where those of a slot are overwritten by those of the next one.
    """
    longest = 0
    for r in range(start, stop):
        longest = max(longest, offsets[r + 1] - offsets[r])
    k = lists.shape[1]
    n_rows = offsets[stop] - offsets[start]
    base = offsets[start]
    barred, probabilities = np.empty(n_rows, np.bool_), np.zeros(n_rows)
    place, other_slots, other_positions = np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(
        longest, np.int64)  # fmt: skip
    n_members, needed = np.zeros(len(min_shares), np.int64), np.zeros(len(min_shares), np.int64)
    before = np.zeros(len(counts), np.int64)
    rows_of_list, changes = np.empty(k, np.int64), np.zeros(longest)
    is_free = len(limits) == 0 and len(min_shares) == 0
    best_rows = np.empty(len(values), np.int64)
    for r in range(start, stop):
        if status[r] != DECIDED:
            continue
        first, last = offsets[r], offsets[r + 1]
        m = last - first
        length, n_open = 0, 0
        best_rows[:] = -1
        barred[first - base : last - base] = False
        place[:] = -1
        for slot in range(k):
            rows_of_list[slot] = lists[r, slot]
            if lists[r, slot] < 0:
                break
            length += 1
            n_open += is_open[r, slot]
            for at in range(m):
                if rows[first + at] == lists[r, slot]:
                    place[at] = slot
        n_members[:] = 0
        for slot in range(length):
            _count(lists[r, slot], slot, 1, starts, groups, limits, counts)
            for group in range(len(min_shares)):
                n_members[group] += members[group, lists[r, slot]]
        for group in range(len(min_shares)):
            needed[group] = np.int64(np.ceil(min_shares[group] * length - 1e-9))
        for cap in range(len(limits)):
            for at in range(first, last):
                for entry in range(starts[cap, rows[at]], starts[cap, rows[at] + 1]):
                    before[groups[entry]] = counts[groups[entry]]
            for slot in range(length):
                for entry in range(starts[cap, lists[r, slot]], starts[cap, lists[r, slot] + 1]):
                    before[groups[entry]] = counts[groups[entry]]
        slot_bound = 1.0 if n_open == 0 or by_current else slot_share(share, n_open)
        spent, changed = 0.0, False
        for slot in range(first_slot, min(last_slot, length)):
            if not is_open[r, slot]:
                continue
            pmf_row = slot if pmfs.shape[1] == k else 0
            current = -1
            for at in range(m):
                if place[at] == slot:
                    current = at
            if rule == ONE_CHANGE:
                changes[:] = 0.0
                for entry in range(change_starts[r * k + slot], change_starts[r * k + slot + 1]):
                    changes[change_positions[entry]] = change_values[entry]
            for at in range(m):
                was_barred = barred[first - base + at]
                allowed, other_slots[at], other_positions[at] = False, -1, -1
                may = place[at] < 0 or place[at] >= slot
                if rule == ONE_CHANGE and at != current:
                    may = may and not changed and changes[at] > 0.0
                if may and is_free:
                    allowed = True
                    if place[at] >= 0 and place[at] != slot:
                        other_slots[at], other_positions[at] = place[at], first + current
                elif may:
                    allowed, other_slots[at], other_positions[at] = _exchange(
                        slot, first + at, first + current, first, last, rows, place, length, is_open[r], rows_of_list,
                        starts, groups, limits, members, needed, n_members, counts, before,
                    )  # fmt: skip
                barred[first - base + at] = not allowed
                if allowed and was_barred:  # it may be the best of any draw
                    best_rows[:] = -1
            low, high = first - base, last - base
            if rule == ALLOWED_ONLY:
                for at in range(m):
                    pmfs[r, pmf_row, at] = 0.0 if barred[low + at] else 1.0
                continue
            if rule == ONE_CHANGE:
                total, unspent = 0.0, 1.0 - spent
                for at in range(m):
                    p = 0.0 if barred[low + at] or at == current else changes[at]
                    probabilities[low + at] = p / unspent if p > 0.0 else 0.0
                    total += probabilities[low + at]
                    spent += p
                probabilities[low + current] = max(0.0, 1.0 - total)
            elif rule == GIVEN:
                for at in range(m):
                    probabilities[low + at] = pmfs[r, pmf_row, at]
            else:
                fill_slot_probabilities(rule, values, parameters, floor, low, high, barred, best_rows, probabilities)
            if not is_distribution(probabilities, low, high, barred):
                status[r] = INVALID
                break
            best = current
            for at in range(m):
                if barred[low + at]:
                    continue
                if len(expected):
                    if expected[first + at] > expected[first + best]:
                        best = at
                elif not by_current and probabilities[low + at] > probabilities[low + best]:
                    best = at
            greedy[r, slot] = best
            if len(expected) and most_loss < np.inf:
                bar_losses(probabilities, low, expected, first, m, best, most_loss - losses[r])
            bound = min(slot_bound, slot_bounds[slot])
            if bound < 1.0:
                limit_exploration(probabilities, low, high, low + (current if by_current else best), bound)
            for at in range(m):
                pmfs[r, pmf_row, at] = probabilities[low + at]
            if draws:
                take = draw_one(probabilities, low, high, slot_seed(seeds[r], np.uint64(slot))) - low
            else:
                take = forced[r, slot]
            chosen[r, slot] = take
            propensities[r, slot] = probabilities[low + take] if take >= 0 else 0.0
            if take < 0:
                continue
            if len(expected):
                losses[r] += max(0.0, expected[first + best] - expected[first + take])
            if take == current:
                continue
            changed = True
            other_slot, other = other_slots[take], other_positions[take]
            if barred[low + take]:  # of a given list: it stands there all the same
                if place[take] >= 0 and place[take] < slot:
                    continue
                other_slot, other = place[take], first + current
            row = rows[first + take]
            place[current] = -1
            if other_slot >= 0:
                leaving = rows_of_list[other_slot]
                for at in range(m):
                    if rows[first + at] == leaving:
                        place[at] = -1
                _put(rows[other], other_slot, rows_of_list, starts, groups, limits, members, n_members, counts)
                place[other - first] = other_slot
            _put(row, slot, rows_of_list, starts, groups, limits, members, n_members, counts)
            place[take] = slot
        for slot in range(length):
            _count(rows_of_list[slot], slot, -1, starts, groups, limits, counts)
        if status[r] == DECIDED and rule != ALLOWED_ONLY:
            for slot in range(length):
                lists[r, slot] = rows_of_list[slot]


@kernel
def first_rows(offsets, available, limit, out):
    """Set `out` to the first rows, at most `limit` of each request, that are available; how many."""
    n_rows = 0
    for r in range(len(offsets) - 1):
        n = 0
        for row in range(offsets[r], offsets[r + 1]):
            if n == limit:
                break
            if available[row]:
                out[n_rows] = row
                n_rows += 1
                n += 1
    return n_rows


@kernel
def mark_best(offsets, available, near, is_new, places, new_places, out):
    """Set bool[rows] `out` for the best available rows of each request, as many as it has places.

    near: int64, ascending rows, of which bool `is_new` says which are new; the best so many new ones have a place.
    """
    at = 0
    for r in range(len(offsets) - 1):
        n = 0
        while at < len(near) and near[at] < offsets[r + 1]:
            if is_new[at] and n < new_places:
                out[near[at]] = True
                n += 1
            at += 1
        for row in range(offsets[r], offsets[r + 1]):
            if n >= places:
                break
            if available[row] and not out[row]:
                out[row] = True
                n += 1


@kernel
def gather_shortlists(offsets, included, lists, is_open, out_offsets, out_rows, positions):
    """The rows that are included or stand in an open slot, by request; how many in all.

    out_offsets: int64[n + 1]. positions: int64[n, k], of the items of open slots in their shortlists; else -1.
    """
    total = 0
    position = np.empty(len(included), np.int64)
    out_offsets[0] = 0
    for r in range(len(lists)):
        for slot in range(lists.shape[1]):
            positions[r, slot] = -1
            if is_open[r, slot]:
                included[lists[r, slot]] = True
        for row in range(offsets[r], offsets[r + 1]):
            if included[row]:
                position[row] = total - out_offsets[r]
                out_rows[total] = row
                total += 1
        out_offsets[r + 1] = total
        for slot in range(lists.shape[1]):
            if is_open[r, slot]:
                positions[r, slot] = position[lists[r, slot]]
    return total


@kernel
def swaps(lists, is_open, starts, groups, limits, members, counts, top, out):
    """Pairs of the first `top` slots of lists that may change places with every rule pmf_row; how many.

    out: int64[most, 3], filled with the list, the slot and the later slot of each, in this order.
    """
    n, k = lists.shape
    before = np.zeros(len(counts), np.int64)
    no_shares = np.zeros(0, np.int64)
    n_pairs = 0
    for r in range(n):
        length = 0
        for slot in range(k):
            if lists[r, slot] < 0:
                break
            length += 1
            _count(lists[r, slot], slot, 1, starts, groups, limits, counts)
        for slot in range(length):
            for cap in range(len(limits)):
                for entry in range(starts[cap, lists[r, slot]], starts[cap, lists[r, slot] + 1]):
                    before[groups[entry]] = counts[groups[entry]]
        for slot in range(min(top, length)):
            for later in range(slot + 1, min(top, length)):
                if not (is_open[r, slot] and is_open[r, later]):
                    continue
                if len(limits) == 0 or _keeps_rules(
                    slot, lists[r, later], later, lists[r, slot], False, False, lists[r], starts, groups, limits,
                    members, no_shares, no_shares, counts, before,
                ):  # fmt: skip
                    out[n_pairs, 0], out[n_pairs, 1], out[n_pairs, 2] = r, slot, later
                    n_pairs += 1
        for slot in range(length):
            _count(lists[r, slot], slot, -1, starts, groups, limits, counts)
    return n_pairs
