"""The k best of n scored items, in kernels: radix selection over integer keys, then a sort of the few that are left.

A key is an int64 that orders items as lists do: by score, and of equal scores by priority. A heap (`core.bounded_heap`)
costs a chain of unpredictable branches for each item that enters it; selection reads the keys in passes without any.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import kernel

# The low bits of a key hold the priority, which is below 2^31.
PRIORITY_BITS = 31
LAST_PRIORITY = (1 << PRIORITY_BITS) - 1
# Bins of a pass of the selection, a power of two.
N_BINS = 512
# Up to so many items are sorted by counting, for each, the better ones: n² comparisons without branches.
MAX_COUNTED = 256


@kernel
def score_key(score):
    """The key of a float32, not NaN, with priority 0. Monotone; -0.0 and 0.0 have the same."""
    bits = np.int64(np.float32(score).view(np.int32))
    if bits < 0:
        bits = -(bits & 0x7FFFFFFF)
    return bits << PRIORITY_BITS


@kernel
def key_score(key):
    """The float32 of a key."""
    bits = key >> PRIORITY_BITS
    if bits < 0:
        bits = (-bits) | 0x80000000
    return np.int32(bits).view(np.float32)


@kernel
def item_key(score, item, priority):
    """The key of a scored item. priority: int32[n_items], or empty: the lower code is better."""
    return score_key(score) + (LAST_PRIORITY - item if len(priority) == 0 else np.int64(priority[item]))


@kernel
def kth_largest(keys, n, k, slack):
    """A key that k of keys[:n] reach, up to `slack` more where keys are distinct; all, where n <= k."""
    low, high = keys[0], keys[0]
    for at in range(n):
        low, high = min(low, keys[at]), max(high, keys[at])
    wanted = k
    counts = np.empty(N_BINS, dtype=np.int64)
    while n > k and high > low:
        shift = 0
        while (high - low) >> shift >= N_BINS:
            shift += 1
        counts[:] = 0
        for at in range(n):
            if low <= keys[at] <= high:
                counts[(keys[at] - low) >> shift] += 1
        place = (high - low) >> shift
        while counts[place] < wanted:
            wanted -= counts[place]
            place -= 1
        first = low + (place << shift)
        if counts[place] - wanted <= slack or shift == 0:
            return first
        low, high = first, min(high, first + (1 << shift) - 1)
    return low


@kernel
def keep_reaching(keys, items, scores, n, bar):
    """Move the items whose keys are at least `bar` to the front. Returns their number."""
    left = 0
    for at in range(n):
        keys[left], items[left], scores[left] = keys[at], items[at], scores[at]
        left += keys[at] >= bar
    return left


@kernel
def best_first(keys, items, scores, n, items_out, scores_out):
    """Write the best of n items with distinct keys, best first; fill what is left with -1 and minus infinity.

    keys, items and scores are reordered. Returns the number of items written, min(n, k) with k = len(items_out).
    """
    k = len(items_out)
    if n > k:
        n = keep_reaching(keys, items, scores, n, kth_largest(keys, n, k, max(8, k // 8)))
    size = min(n, k)
    if n <= MAX_COUNTED:
        for at in range(n):
            key, place = keys[at], 0
            for other in range(n):
                place += keys[other] > key
            if place < k:
                items_out[place], scores_out[place] = items[at], scores[at]
    else:
        order = np.argsort(keys[:n])
        for place in range(size):
            at = order[n - 1 - place]
            items_out[place], scores_out[place] = items[at], scores[at]
    for place in range(size, k):
        items_out[place], scores_out[place] = -1, -np.inf
    return size
