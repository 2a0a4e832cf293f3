"""The k best items by a sparse table of items, or by an order that is known: kernels of one history.

Sums are held in a hash table: a history reaches some thousands of items, whatever the size of the catalogue.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.hashing import GOLDEN
from zhiyin.core.parallel import kernel
from zhiyin.models.compact_search import is_excluded
from zhiyin.models.int8_products import prefetch
from zhiyin.models.selection import best_first, item_key, keep_reaching, key_score, kth_largest


@kernel
def _slot(keys, item, shift):
    """The place of an item in an open hash table, or the free one where it belongs."""
    last = len(keys) - 1
    at = np.int64((np.uint64(item) * GOLDEN) >> np.uint64(shift))
    while keys[at] != item and keys[at] >= 0:
        at = (at + 1) & last
    return at


@kernel
def search_table(
    rows, weights, n, indptr, indices, data, bits, mask_rows, sparse_mask, excluded, priority, popular, items_out,
    scores_out,
):  # fmt: skip
    """The k best items by the sum over r < n of weights[r] times the row rows[r] of a table of positive entries.

    Items that no row leads to have score 0: they come by popularity, and only fill up the list.

    Parameters
    ----------
    indptr, indices, data: CSR, int32, int32, float32.
    bits: bool[m], items that may be returned; mask_rows: their codes, where sparse_mask.
    excluded: int32, sorted codes.
    popular: int32[m], all items, the highest priority first.

    Returns the number of items found.
    """
    k, reach = len(items_out), 0
    for at in range(n):
        begin, end = indptr[rows[at]], indptr[rows[at] + 1]
        reach += end - begin
        prefetch(indices, begin)
        prefetch(data, begin)
    reach = min(reach, len(bits))
    room, shift = 64, 58
    while room < 2 * reach:
        room, shift = 2 * room, shift - 1
    keys, sums = np.full(room, -1, dtype=np.int32), np.zeros(room, dtype=np.float32)
    used, n_used = np.empty(reach + 1, dtype=np.int32), 0
    for row in range(n):
        weight = weights[row]
        for at in range(indptr[rows[row]], indptr[rows[row] + 1]):
            slot = _slot(keys, indices[at], shift)
            # Without a branch: a new item is written where it already stands, and counted where it did not.
            used[n_used] = slot
            n_used += keys[slot] < 0
            keys[slot] = indices[at]
            sums[slot] += weight * data[at]
    for at in range(len(excluded)):
        sums[_slot(keys, excluded[at], shift)] = 0  # a free slot stays free
    order, items, scores = np.empty(n_used, np.int64), np.empty(n_used, np.int32), np.empty(n_used, np.float32)
    size = 0
    for at in range(n_used):
        item, score = keys[used[at]], sums[used[at]]
        items[size], scores[size] = item, score
        size += bits[item] and score > 0
    for at in range(size):
        order[at] = item_key(scores[at], items[at], priority)
    size = best_first(order, items, scores, size, items_out, scores_out)
    if size == k:
        return k
    # What is left has score 0.
    if sparse_mask:
        rest, n_rest = np.empty(len(mask_rows), dtype=np.int32), 0
        for item in mask_rows:
            rest[n_rest] = item
            n_rest += not (sums[_slot(keys, item, shift)] > 0 or is_excluded(excluded, item))
        return size + search_scored(
            rest[:n_rest], np.zeros(0, np.float32), excluded, priority, items_out[size:], scores_out[size:]
        )
    for item in popular:
        if bits[item] and not sums[_slot(keys, item, shift)] > 0 and not is_excluded(excluded, item):
            items_out[size], scores_out[size] = item, 0
            size += 1
            if size == k:
                break
    return size


@kernel
def search_scored(rows, values, excluded, priority, items_out, scores_out):
    """The k best of some items, not excluded, by known scores. values: float32[n_items], finite; empty: all are 0."""
    k = len(items_out)
    capacity = min(len(rows), 4 * k + 256)
    keys = np.empty(capacity, dtype=np.int64)
    items, scores = np.empty(capacity, dtype=np.int32), np.empty(capacity, dtype=np.float32)
    size, bar = 0, np.float32(-np.inf)
    for at in range(len(rows)):
        item = rows[at]
        score = values[item] if len(values) else np.float32(0)
        if score < bar or is_excluded(excluded, item):
            continue
        if size == capacity:
            bound = kth_largest(keys, size, k, k // 2)
            size, bar = keep_reaching(keys, items, scores, size, bound), key_score(bound)
        keys[size], items[size], scores[size] = item_key(score, item, priority), item, score
        size += 1
    return best_first(keys, items, scores, size, items_out, scores_out)


@kernel
def search_ordered(order, values, bits, mask_rows, sparse_mask, excluded, priority, items_out, scores_out):
    """The first k items that may be returned. order: int32[n_items], by values and then priority, best first."""
    if sparse_mask:
        return search_scored(mask_rows, values, excluded, priority, items_out, scores_out)
    size, k = 0, len(items_out)
    for item in order:
        if size == k:
            break
        if bits[item] and not is_excluded(excluded, item):
            items_out[size], scores_out[size] = item, values[item]
            size += 1
    for at in range(size, k):
        items_out[at], scores_out[at] = -1, -np.inf
    return size
