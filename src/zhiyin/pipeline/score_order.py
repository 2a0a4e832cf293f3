"""The order of a request's candidates by score, in kernels."""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import kernel


@kernel
def best_first_order(scores, order):
    """Fill int64[m] with the rows of float32[m] scores, the highest first; a stable radix sort. False for a NaN."""
    m = len(scores)
    bits, keys = scores.view(np.uint32), np.empty(m, dtype=np.int64)
    counts = np.zeros((4, 256), dtype=np.int64)
    is_sorted = True
    for row in range(m):
        if scores[row] != scores[row]:
            return False
        word = np.int64(bits[row])
        if scores[row] == 0:  # minus zero, too
            word = np.int64(0)
        key = word if word >= 0x80000000 else 0x7FFFFFFF - word  # ascending keys: descending scores
        keys[row] = key
        is_sorted &= row == 0 or keys[row - 1] <= key
        order[row] = row
    if is_sorted:
        return True
    for row in range(m):
        for digit in range(4):
            counts[digit, (keys[row] >> (8 * digit)) & 255] += 1
    other = np.empty(m, dtype=np.int64)
    source, target = order, other
    n_passes = 0
    for digit in range(4):
        shift = 8 * digit
        if counts[digit, (keys[0] >> shift) & 255] == m:
            continue
        total = 0
        for value in range(256):
            count = counts[digit, value]
            counts[digit, value] = total
            total += count
        for at in range(m):
            row = source[at]
            value = (keys[row] >> shift) & 255
            target[counts[digit, value]] = row
            counts[digit, value] += 1
        source, target = target, source
        n_passes += 1
    if n_passes % 2:
        order[:] = other
    return True


@kernel
def reorder(order, items, scores):
    """Bring items and scores into an order of their rows."""
    before_items, before_scores = items.copy(), scores.copy()
    for row in range(len(order)):
        items[row], scores[row] = before_items[order[row]], before_scores[order[row]]
