"""Backfill: popular items are added to lists with too few candidates, or too few members of a group."""

from __future__ import annotations

import numpy as np

from zhiyin.core.array_table import bool_at, int_at
from zhiyin.core.hashing import find, table
from zhiyin.core.parallel import kernel
from zhiyin.pipeline.rule_table import FIRST_CAP, N_CAPS, N_EXPOSURE, N_SHARES, n_required, rule_slots


@kernel
def _take_popular(popular_order, eligible, members, all_items, wanted, unavailable, n_unavailable, slots, items, size):
    """Append popular items that are eligible and among the members; returns how many.

    unavailable: int32, of which the first n are in the hash table `slots`; the new ones are added.
    """
    added = 0
    for at in range(len(popular_order)):
        if added == wanted:
            break
        item = popular_order[at]
        if not eligible[item] or not (all_items or members[item]):
            continue
        slot = find(slots, unavailable, item)
        if slots[slot] >= 0:
            continue
        unavailable[n_unavailable + added] = item
        slots[slot] = n_unavailable + added
        items[size + added] = item
        added += 1
    return added


@kernel
def fill_up(k, wanted, rules, deficits, excluded, popular_order, eligible, items, scores, size):
    """Append popular items to a slate that is sorted, at falling scores below the lowest, and those that shares and
    exposure targets need. Returns the new size, and how many were added of the first kind."""
    n_conditions = int_at(rules, N_SHARES) + int_at(rules, N_EXPOSURE)
    first_condition, _ = rule_slots(int_at(rules, N_CAPS), int_at(rules, N_SHARES), int_at(rules, N_EXPOSURE))
    missing = wanted
    for condition in range(n_conditions):
        missing += n_required(k, rules, condition, deficits)
    if missing <= 0:
        return size, 0
    unavailable = np.empty(len(excluded) + size + missing, dtype=np.int32)
    slots, n_unavailable = table(len(unavailable)), 0
    for part in range(2):
        for row in range(len(excluded) if part == 0 else size):
            item = excluded[row] if part == 0 else items[row]
            slot = find(slots, unavailable, item)
            if slots[slot] < 0:
                unavailable[n_unavailable] = item
                slots[slot] = n_unavailable
                n_unavailable += 1
    n_popular = 0
    if wanted > 0:
        nobody = bool_at(rules, FIRST_CAP)
        n_popular = _take_popular(popular_order, eligible, nobody, True, wanted, unavailable, n_unavailable, slots,
                                  items, size)  # fmt: skip
    added = n_popular
    for condition in range(n_conditions):
        count = n_required(k, rules, condition, deficits)
        if count == 0:
            continue
        members = bool_at(rules, first_condition + condition)
        for row in range(size + added):
            count -= members[items[row]]
        if count > 0:
            added += _take_popular(popular_order, eligible, members, False, count, unavailable, n_unavailable + added,
                                   slots, items, size + added)  # fmt: skip
    low = scores[size - 1] if size else np.float32(0)
    reach = max(np.float32(1), abs(low))
    for row in range(added):
        fall = np.float32((row + 1) / (added + 1))
        scores[size + row] = low - fall * reach
    return size + added, n_popular
