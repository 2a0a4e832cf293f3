"""The k best of a stream of scored items, in kernels: a binary heap whose root is the worst of the items in it.

Of two equal scores the item of higher priority is better: `priority` is int32[n_items], or LOWER_CODE_FIRST.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import kernel

# A `priority` by which the lower item code is better, without an array of length n_items.
LOWER_CODE_FIRST = np.zeros(0, dtype=np.int32)


@kernel
def is_worse(score_a, item_a, score_b, item_b, priority):
    """Whether (score_a, item_a) comes after (score_b, item_b). Comparisons with NaN are false."""
    if score_a != score_b:
        return score_a < score_b
    if len(priority) == 0:
        return item_a > item_b
    return priority[item_a] < priority[item_b]


@kernel
def push(score, item, size, heap_score, heap_item, priority):
    """Offer an item to a heap with room for len(heap_item) items, of which `size` are in it. Returns the new size."""
    k = len(heap_item)
    if size < k:
        at = size
        while at > 0:
            parent = (at - 1) >> 1
            if is_worse(score, item, heap_score[parent], heap_item[parent], priority):
                heap_score[at], heap_item[at] = heap_score[parent], heap_item[parent]
                at = parent
            else:
                break
        heap_score[at], heap_item[at] = score, item
        return size + 1
    if is_worse(heap_score[0], heap_item[0], score, item, priority):
        replace_worst(heap_score, heap_item, k, score, item, priority)
    return size


@kernel
def replace_worst(heap_score, heap_item, size, score, item, priority):
    """Put (score, item) in place of the root of a heap of `size` items and sift it down."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        other = child + 1
        if other < size and is_worse(
            heap_score[other], heap_item[other], heap_score[child], heap_item[child], priority
        ):
            child = other
        if not is_worse(heap_score[child], heap_item[child], score, item, priority):
            break
        heap_score[at], heap_item[at] = heap_score[child], heap_item[child]
        at = child
    heap_score[at], heap_item[at] = score, item


@kernel
def sort_best_first(heap_score, heap_item, size, priority):
    """Sort a heap in place, the best item first."""
    for end in range(size - 1, 0, -1):
        score, item = heap_score[end], heap_item[end]
        heap_score[end], heap_item[end] = heap_score[0], heap_item[0]
        replace_worst(heap_score, heap_item, end, score, item, priority)
