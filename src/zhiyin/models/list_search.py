"""Approximate search over the lists of an `ann_index.Index`: the kernel of one query."""

from __future__ import annotations

import numpy as np

from zhiyin.core.bounded_heap import LOWER_CODE_FIRST
from zhiyin.core.parallel import kernel
from zhiyin.models.selection import best_first, item_key

# Lists that are put in order at first; four times as many where they hold too few items.
_FIRST_LISTS = 64


@kernel
def items_of_lists(query, offsets, members, means, spreads, above, bits, all_pass, wanted):
    """int32: at least `wanted` items that pass, where there are so many, of the lists of highest promise.

    query: float32[d]; bits: bool[n], not read where all_pass; the others: see `ann_index.Index`.
    """
    c, d = means.shape
    square = np.float32(0)
    for j in range(d):
        square += query[j] * query[j]
    weight = np.float32(above) * np.sqrt(square)
    promise, keys, lists = np.empty(c, dtype=np.float32), np.empty(c, dtype=np.int64), np.empty(c, dtype=np.int32)
    found, n, n_lists = np.empty(wanted + 1_024, dtype=np.int32), 0, min(c, _FIRST_LISTS)
    while True:
        for place in range(c):
            score = weight * spreads[place]
            for j in range(d):
                score += query[j] * means[place, j]
            score = score if score > -np.inf else np.float32(-np.inf)  # NaN comes last
            promise[place], lists[place] = score, place
            keys[place] = item_key(score, place, LOWER_CODE_FIRST)
        order, scores = np.empty(n_lists, dtype=np.int32), np.empty(n_lists, dtype=np.float32)
        best_first(keys, lists, promise, c, order, scores)
        n = 0
        for place in order:
            begin, end = offsets[place], offsets[place + 1]
            if n + end - begin > len(found):
                grown = np.empty(2 * (n + end - begin), dtype=np.int32)
                grown[:n] = found[:n]
                found = grown
            for at in range(begin, end):
                item = members[at]
                found[n] = item
                n += all_pass or bits[item]
            if n >= wanted:
                return found[:n]
        if n_lists == c:
            return found[:n]
        n_lists = min(c, 4 * n_lists)
