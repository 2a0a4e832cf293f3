"""Compiled selection of varied items: MMR, DPP and calibration of one request's candidates.

A table of features (`diversity_rerankers.feature_table`) is an `ArrayTable` with the slots below. Each function selects
rows one after another into `chosen`; -1 once it stops.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.array_table import float32_rows_at, float64_at, int32_at, int_at
from zhiyin.core.parallel import kernel
from zhiyin.data.histories import HOW, entries_of

# Slots of a table of features. KIND says which of the others are filled.
KIND, VECTORS, STARTS, COLUMNS, VALUES, CODES, WIDTH, N_SLOTS = range(8)
# Kinds: float32[n_items, d]; sparse rows with ascending columns; one category for each item (-1: none).
DENSE, SPARSE, SINGLE = range(3)
# How `entries_of` sums the events of a history: by weight.
BY_WEIGHT = HOW.index("weight")
# Methods of `vary`.
NONE, MMR, DPP, CALIBRATE = range(4)

# A DPP stops where what an item adds is lost in rounding: everything left is a mixture of what was chosen.
FLAT = 1e-10
# Beyond it, exp(balance / (1 - balance)) of a DPP is beyond float64: the score alone decides.
SCORE_ALONE = 1 - 1 / 650
# Below every cosine, with its rounding.
_LOWEST_COSINE = -1.001


@kernel
def vary(method, balance, smoothing, items, scores, features, wanted, order, chosen):
    """Fill int64[m] `order` with the rows that a method chooses, at most len(chosen), and the others behind them.

    items, scores: int32[m] and float32[m], the candidates. wanted: float64[c] that sums to 1 or 0, of `calibrate`.
    """
    chosen[:] = -1
    relevance = relative(scores)
    if method == MMR:
        _choose_mmr(items, relevance, features, balance, chosen)
    elif method == DPP and balance > SCORE_ALONE:
        by_score = np.argsort(-relevance, kind="mergesort")
        chosen[:] = by_score[: len(chosen)]
    elif method == DPP:
        _choose_dpp(items, relevance, features, balance, chosen)
    elif method == CALIBRATE:
        _choose_calibrated(items, relevance, features, wanted, balance, smoothing, chosen)
    placed, to = np.zeros(len(items), dtype=np.bool_), 0
    for place in range(len(chosen)):
        if chosen[place] >= 0:
            order[to], placed[chosen[place]] = chosen[place], True
            to += 1
    for row in range(len(items)):
        if not placed[row]:
            order[to] = row
            to += 1


@kernel
def vary_slates(start, stop, method, balance, smoothing, offsets, items, scores, features, wanted, k, order):
    """`vary` of requests: int64[m] rows in their new order."""
    for request in range(start, stop):
        first, end = offsets[request], offsets[request + 1]
        chosen = np.empty(min(k, end - first), dtype=np.int64)
        vary(method, balance, smoothing, items[first:end], scores[first:end], features, wanted[request],
             order[first:end], chosen)  # fmt: skip
        order[first:end] += first


@kernel
def relative(scores):
    """float64[m]: scores min-max scaled; all 1 where they are equal."""
    low, high = np.inf, -np.inf
    for row in range(len(scores)):
        low, high = min(low, np.float64(scores[row])), max(high, np.float64(scores[row]))
    span = high - low
    relevance = np.empty(len(scores))
    for row in range(len(scores)):
        relevance[row] = (np.float64(scores[row]) - low) / span if span > 0 else 1.0
    return relevance


@kernel
def category_shares_of(items, weights, categories, shares):
    """How a history is spread over categories: float64[c] that sums to 1, or to 0 without an event in a category."""
    starts, columns, values = (
        int32_at(categories, STARTS),
        int32_at(categories, COLUMNS),
        float64_at(categories, VALUES),
    )
    shares[:] = 0.0
    codes, amounts = np.empty(len(items), dtype=np.int32), np.empty(len(items), dtype=np.float32)
    for at in range(entries_of(items, weights, BY_WEIGHT, codes, amounts)):
        for entry in range(starts[codes[at]], starts[codes[at] + 1]):
            shares[columns[entry]] += np.float64(amounts[at]) * values[entry]
    total = shares.sum()
    if total > 0:
        shares /= total


@kernel
def _unit_rows(items, vectors, unit, row):
    """Set a row of float32[m, d] to an item's vector scaled to length 1; a zero vector stays zero."""
    length = np.float32(0)
    for j in range(vectors.shape[1]):
        length += vectors[items[row], j] * vectors[items[row], j]
    by = np.float32(1) / np.sqrt(length) if length > 0 else np.float32(0)
    for j in range(vectors.shape[1]):
        unit[row, j] = vectors[items[row], j] * by


@kernel
def _dot(unit, a, b):
    total = np.float32(0)
    for j in range(unit.shape[1]):
        total += unit[a, j] * unit[b, j]
    return np.float64(total)


@kernel
def _sparse_dot(starts, columns, values, a, b):
    """The product of two sparse rows, by a merge of their columns."""
    at_a, end_a, at_b, end_b = starts[a], starts[a + 1], starts[b], starts[b + 1]
    total = 0.0
    while at_a < end_a and at_b < end_b:
        if columns[at_a] == columns[at_b]:
            total += values[at_a] * values[at_b]
            at_a += 1
            at_b += 1
        elif columns[at_a] < columns[at_b]:
            at_a += 1
        else:
            at_b += 1
    return total


@kernel
def _choose_mmr(items, relevance, features, balance, chosen):
    """A row's cosines with the chosen ones are computed only when it may be the best: without them it cannot be worth
    less than it is known to be."""
    kind, m = int_at(features, KIND), len(items)
    vectors, starts, columns, values, codes = _arrays(features)
    unit = np.empty((m if kind == DENSE else 0, vectors.shape[1]), dtype=np.float32)
    is_gathered, placed = np.zeros(m, dtype=np.bool_), np.zeros(m, dtype=np.bool_)
    nearest, n_compared = np.full(m, _LOWEST_COSINE), np.zeros(m, dtype=np.int64)
    own = np.empty(m if kind == SINGLE else 0, dtype=np.int32)
    if kind == SINGLE:
        for row in range(m):
            own[row] = codes[items[row]]
    for place in range(min(len(chosen), m)):
        best, at = -np.inf, -1
        for row in range(m):
            if placed[row]:
                continue
            if place == 0:
                value = balance * relevance[row]
                if value > best:
                    best, at = value, row
                continue
            if balance * relevance[row] - (1 - balance) * nearest[row] <= best:
                continue
            if kind == DENSE and not is_gathered[row]:
                _unit_rows(items, vectors, unit, row)
                is_gathered[row] = True
            for earlier in range(n_compared[row], place):
                other = chosen[earlier]
                if kind == DENSE:
                    cosine = _dot(unit, row, other)
                elif kind == SPARSE:
                    cosine = _sparse_dot(starts, columns, values, items[row], items[other])
                else:
                    cosine = 1.0 if own[row] == own[other] and own[row] >= 0 else 0.0
                nearest[row] = max(nearest[row], cosine)
            n_compared[row] = place
            value = balance * relevance[row] - (1 - balance) * nearest[row]
            if value > best:
                best, at = value, row
        placed[at] = True
        chosen[place] = at
        if kind == DENSE and not is_gathered[at]:
            _unit_rows(items, vectors, unit, at)
            is_gathered[at] = True


@kernel
def _arrays(features):
    return (
        float32_rows_at(features, VECTORS),
        int32_at(features, STARTS),
        int32_at(features, COLUMNS),
        float64_at(features, VALUES),
        int32_at(features, CODES),
    )


@kernel
def _grow(at, place, quality, cosine, factor, left):
    """One step of the incremental Cholesky: the volume that is left to each item after the chosen one."""
    root = np.sqrt(left[at])
    for row in range(len(left)):
        alike = 1.0 if row == at else 0.5 + 0.5 * cosine[row]
        total = quality[at] * quality[row] * alike
        for step in range(place):
            total -= factor[at, step] * factor[row, step]
        factor[row, place] = total / root
    for row in range(len(left)):
        left[row] -= factor[row, place] * factor[row, place]


@kernel
def _largest(left, placed):
    best, at = -np.inf, -1
    for row in range(len(left)):
        if not placed[row] and left[row] > best:
            best, at = left[row], row
    return at


@kernel
def _choose_dpp(items, relevance, features, balance, chosen):
    kind, m = int_at(features, KIND), len(items)
    vectors, starts, columns, values, codes = _arrays(features)
    unit = np.empty((m if kind == DENSE else 0, vectors.shape[1]), dtype=np.float32)
    if kind == DENSE:
        for row in range(m):
            _unit_rows(items, vectors, unit, row)
    quality = np.exp(balance / (2 * (1 - balance)) * relevance)
    left, cosine = quality * quality, np.empty(m)
    factor, placed = np.zeros((m, len(chosen))), np.zeros(m, dtype=np.bool_)
    for place in range(min(len(chosen), m)):
        at = _largest(left, placed)
        if left[at] < FLAT:
            break
        placed[at] = True
        chosen[place] = at
        for row in range(m):
            if kind == DENSE:
                cosine[row] = _dot(unit, row, at)
            elif kind == SPARSE:
                cosine[row] = _sparse_dot(starts, columns, values, items[row], items[at])
            else:
                cosine[row] = 1.0 if codes[items[row]] == codes[items[at]] and codes[items[row]] >= 0 else 0.0
        _grow(at, place, quality, cosine, factor, left)


@kernel
def _choose_calibrated(items, relevance, categories, wanted, balance, smoothing, chosen):
    """KL(p, q) = Σ p ln(p / q), q the smoothed mean of the items' categories.

    An added item rescales all sums alike, whichever it is: that part is computed once for each place, and a candidate
    changes the terms of its own categories only.
    """
    starts, columns, values = (
        int32_at(categories, STARTS),
        int32_at(categories, COLUMNS),
        float64_at(categories, VALUES),
    )
    p = wanted
    if p.sum() == 0:
        return
    n_categories = len(p)
    sums, count = np.zeros(n_categories), 0  # of the items chosen that have categories
    placed = np.zeros(len(items), dtype=np.bool_)
    entropy = 0.0
    for c in range(n_categories):
        if p[c] > 0:
            entropy += p[c] * np.log(p[c])
    for place in range(min(len(chosen), len(items))):
        share = (1 - smoothing) / (count + 1)
        grown, still = 0.0, 0.0
        for c in range(n_categories):
            if p[c] > 0:
                grown += p[c] * np.log(share * sums[c] + smoothing * p[c])
                old = (1 - smoothing) / count * sums[c] if count > 0 else 0.0
                still += p[c] * np.log(old + smoothing * p[c])
        best, at = -np.inf, -1
        for row in range(len(items)):
            if placed[row]:
                continue
            item = items[row]
            fit = still
            if starts[item] < starts[item + 1]:
                fit = grown
                for entry in range(starts[item], starts[item + 1]):
                    c = columns[entry]
                    if p[c] > 0:
                        fit += p[c] * (np.log(share * (sums[c] + values[entry]) + smoothing * p[c])
                                       - np.log(share * sums[c] + smoothing * p[c]))  # fmt: skip
            value = balance * relevance[row] - (1 - balance) * (entropy - fit)
            if value > best:
                best, at = value, row
        placed[at] = True
        chosen[place] = at
        item = items[at]
        if starts[item] < starts[item + 1]:
            count += 1
            for entry in range(starts[item], starts[item + 1]):
                sums[columns[entry]] += values[entry]
