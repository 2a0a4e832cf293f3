"""Exact search over compact vectors: bounds from int8 products, then float32 scores of what may be among the k best.

The kernels of `masked_search.Compact`, of one query. The query is quantized as the vectors are. With v = s c + e, e at
most s / 2 in each number, and q = t p + f, the product q·v is s t (c·p) but for at most s / 2 |q|₁ + |f|₂ |s c|₂.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import kernel
from zhiyin.models.int8_products import padded_length, prefetch, products
from zhiyin.models.selection import best_first, item_key, keep_reaching, key_score, kth_largest, score_key

# Places whose products are computed at once.
BLOCK = 64
# Cache lines hold so many float32 numbers.
_FLOATS_PER_LINE = 16
# No item is excluded.
NOTHING = np.zeros(0, dtype=np.int32)
# For `max_places`: a search is never given up.
NO_LIMIT = np.iinfo(np.int64).max


@kernel
def is_excluded(excluded, item):
    """Whether an item is among sorted codes."""
    low, high = 0, len(excluded)
    while low < high:
        middle = (low + high) >> 1
        if excluded[middle] < item:
            low = middle + 1
        else:
            high = middle
    return low < len(excluded) and excluded[low] == item


@kernel
def inner_product(vectors, item, query):
    """float32: the inner product of vectors[item] and a query."""
    score = np.float32(0)
    for j in range(len(query)):
        score += vectors[item, j] * query[j]
    return score


@kernel
def search_rows(vectors, scales, query, rows, n, excluded, priority, items_out, scores_out):
    """The k best of the items rows[:n] but for the excluded ones, by their float32 scores; see `search_compact`."""
    d, k = vectors.shape[1], len(items_out)
    capacity = min(n, 4 * k + 4 * BLOCK)
    keys = np.empty(capacity, dtype=np.int64)
    items, scores = np.empty(capacity, dtype=np.int32), np.empty(capacity, dtype=np.float32)
    size, bar = 0, np.float32(-np.inf)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        for at in range(start, stop):
            begin = np.int64(rows[at]) * d
            for column in range(0, d, _FLOATS_PER_LINE):
                prefetch(vectors, begin + column)
        for at in range(start, stop):
            item = rows[at]
            score = inner_product(vectors, item, query)
            if len(scales):
                score *= scales[item]
            if not score >= bar or score == -np.inf or is_excluded(excluded, item):  # NaN does not pass
                continue
            if size == capacity:
                bound = kth_largest(keys, size, k, k // 2)
                size, bar = keep_reaching(keys, items, scores, size, bound), key_score(bound)
            keys[size], items[size], scores[size] = item_key(score, item, priority), item, score
            size += 1
    return best_first(keys, items, scores, size, items_out, scores_out)


@kernel
def quantized_query(query, codes):
    """Quantize a query into int8 codes; returns the step, the sum of the codes and the length of the error.

    The step is NaN for a query with numbers that are not finite.
    """
    largest = np.float32(0)
    for j in range(len(query)):
        largest = max(largest, abs(query[j]))
    total, error = np.int32(0), np.float32(0)
    codes[:] = 0
    finite = largest < np.inf
    for j in range(len(query)):
        finite = finite and abs(query[j]) < np.inf
    if not finite:
        return np.float32(np.nan), total, error
    step = largest / np.float32(127)
    if step > 0:
        for j in range(len(query)):
            code = np.int32(np.rint(query[j] / step))
            code = min(max(code, np.int32(-127)), np.int32(127))
            codes[j] = code
            total += code
            rest = query[j] - step * np.float32(code)
            error += rest * rest
    return step, total, np.sqrt(error)


@kernel
def search_compact(
    codes, steps, order, lengths, vectors, scales, query, bits, all_pass, rows, place_of, everywhere, max_places,
    excluded, priority, items_out, scores_out,
):  # fmt: skip
    """The k best items by their inner products with a query; exact.

    `bar` is at most the k-th best lower bound of a score; an item whose upper bound is below it is skipped.

    Parameters
    ----------
    codes, steps, order, lengths: see `Compact`.
    vectors: float32[n, d]; scales: float32[n], factors of the products, or empty.
    query: float32[d].
    bits: bool[n], items that may be returned; not read where all_pass.
    rows: int32, the items to visit, unless `everywhere`: then all are visited, up to the first too short one.
    place_of: int32[n], the place of each item.
    max_places: number of places after which the search is given up.
    excluded: int32, sorted codes.
    items_out, scores_out: int32[k] and float32[k]; filled up with -1 and minus infinity.

    Returns the number of items found, -1 where it was given up.
    """
    d, k = vectors.shape[1], len(items_out)
    n_places = len(order) if everywhere else len(rows)
    small = np.empty(padded_length(d), dtype=np.int8)
    step, total, error = quantized_query(query, small)
    length, square = np.float32(0), np.float32(0)
    for j in range(d):
        length += abs(query[j])
        square += query[j] * query[j]
    # By step of an item: half a step in each number, and the query's error times what the vector gained in length. The
    # rest is for the rounding of float32 sums, here and in the full score.
    by_step = length * np.float32(0.5 + 127e-6 * (4 + d / 8)) + error * np.float32(0.51) * np.sqrt(np.float32(d))
    by_length = error * np.float32(1.001) + np.sqrt(square) * np.float32(1e-6)
    reach = np.sqrt(square) * np.float32(1 + 1e-5 * (8 + d / 8))
    lows, n_lows = np.empty(2 * k + BLOCK, dtype=np.int64), 0
    capacity = 4 * k + 4 * BLOCK
    candidates, highs, n = np.empty(capacity, dtype=np.int32), np.empty(capacity, dtype=np.float32), 0
    dots, places = np.empty(BLOCK, dtype=np.int32), np.empty(BLOCK, dtype=np.int32)
    bar = np.float32(-np.inf)
    for start in range(0, n_places, BLOCK):
        stop = min(start + BLOCK, n_places)
        if everywhere and len(scales) == 0 and reach * lengths[start] < bar:
            break  # the remaining vectors are shorter still
        if start >= max_places:
            return -1
        if everywhere:
            products(codes, start, stop, small, total, dots)
        else:
            for at in range(start, stop):
                places[at - start] = place_of[rows[at]]
                prefetch(codes, np.int64(places[at - start]) * d)
            for at in range(start, stop):
                place = np.int64(places[at - start])
                products(codes, place, place + 1, small, total, dots[at - start :])
        for at in range(start, stop):
            place = np.int64(at) if everywhere else np.int64(places[at - start])
            scale = scales[order[place]] if len(scales) else np.float32(1)
            middle = step * steps[place] * np.float32(dots[at - start])
            off = steps[place] * by_step + lengths[place] * by_length
            high = (middle + off) * scale
            if high < bar:
                continue
            item = order[place]
            if not (all_pass or bits[item]) or is_excluded(excluded, item):
                continue
            candidates[n], highs[n] = item, high
            n += 1
            low = (middle - off) * scale
            if not low > bar:  # NaN too
                continue
            lows[n_lows] = score_key(low)
            n_lows += 1
            if n_lows == len(lows):
                bound = kth_largest(lows, n_lows, k, k // 2)
                bar = key_score(bound)
                n_lows = _keep_bounds(lows, n_lows, bound, k)
        if n + BLOCK > capacity:
            n = _drop_below(candidates, highs, n, bar)
            if 2 * n > capacity:
                capacity = 2 * capacity
                candidates, highs = _grown_items(candidates, n, capacity), _grown_scores(highs, n, capacity)
    if n_lows >= k:
        bar = max(bar, key_score(kth_largest(lows, n_lows, k, 0)))
    n = _drop_below(candidates, highs, n, bar)
    return search_rows(vectors, scales, query, candidates, n, NOTHING, priority, items_out, scores_out)


@kernel
def _keep_bounds(keys, n, bar, k):
    """Move the keys of at least `bar` to the front, of equal lowest ones no more than make k. Returns their number."""
    left = 0
    for at in range(n):
        key = keys[at]
        keys[left] = key
        left += key > bar
    for at in range(left, k):
        keys[at] = bar
    return max(left, k)


@kernel
def _drop_below(candidates, highs, n, bar):
    """Move the candidates whose upper bound reaches `bar` to the front. Returns their number."""
    left = 0
    for at in range(n):
        candidates[left], highs[left] = candidates[at], highs[at]
        left += not highs[at] < bar
    return left


@kernel
def _grown_items(items, n, capacity):
    grown = np.empty(capacity, dtype=np.int32)
    grown[:n] = items[:n]
    return grown


@kernel
def _grown_scores(scores, n, capacity):
    grown = np.empty(capacity, dtype=np.float32)
    grown[:n] = scores[:n]
    return grown
