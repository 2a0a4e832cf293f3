"""Kernels of `feature_builder`: all features of one request's candidates; see `asof_kernels` for the layout.

The rows of `out`, float32[features, m], in order: the point-in-time features; scores, shares and ranks by source, and
their fusion; numbers and ages of the item; numbers of the request; where the table is one of trees, also the codes of
item and request, and a flag for each of the codes of bags that trees ask about, of item and request.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.array_table import (
    float32_at,
    float32_rows_at,
    int32_at,
    int32_rows_at,
    int64_at,
    int64_rows_at,
    int_at,
)
from zhiyin.core.hashing import table
from zhiyin.core.parallel import kernel
from zhiyin.ranking import asof_kernels as asof
from zhiyin.ranking.blend_kernels import reciprocal_rank

# Slots of the table of a `FeatureLayout`.
N_SOURCES, DESCRIBED, ITEM_NUMBERS, ITEM_MOMENTS, ITEM_CODES, N_REQUEST_NUMBERS, OF_TREES, N_BAGS, FIRST_BAG = range(9)
# Slots of a bag, from FIRST_BAG on: int64[n + 2], the codes of each item, and the flag of each code, -1 without one.
OFFSETS, CODES, FLAGS, N_FLAGS, BAG_SLOTS = range(5)
# A moment that is not known.
UNKNOWN_MOMENT = np.iinfo(np.int64).min


@kernel
def write_features(
    layout, index, base, recent, histories, moment, user_code, row, candidates, numbers, codes, sums, out, to, out_codes
):
    """All features of the request of a row, into the columns of `out` from `to` on.

    Parameters
    ----------
    layout: words of `FeatureLayout.table`.
    histories: (offsets, items, weights, times, values) of a batch of histories.
    candidates: (offsets, items, scores, ranks).
    numbers, codes: float32[n, a], int32[n, b], encoded columns of user and context; the numbers are followed by flags.
    sums: see `asof_kernels`.
    out_codes: int32[m, codes], or of length 0.
    """
    offsets, all_items, scores, ranks = candidates
    first, last = offsets[row], offsets[row + 1]
    if first == last:
        return
    items = all_items[first:last]
    begins, events, weights, times, values = histories
    begin = begins[row]
    end = asof.history_end(index, times, begin, begins[row + 1], moment)
    history = (events[begin:end], weights[begin:end], times[begin:end], values[begin:end])
    n, n_numbers = last - first, int_at(layout, N_REQUEST_NUMBERS)
    slots, column = table(n), 0
    asof.insert_candidates(slots, items)
    if int_at(index, asof.TIMED):
        column = asof.item_timed(index, base, recent, moment, items, out, to, column)
    else:
        column = asof.item_untimed(index, base, user_code, items, slots, out, to, column)
    column = asof.user(index, history, moment, n, out, to, column)
    column = asof.pair(index, history, moment, items, slots, out, to, column)
    newest, n_categories = int_at(index, asof.LAST), int_at(index, asof.N_CATEGORIES)
    for number in range(n_categories):
        column = asof.shares(asof.matrix_at(index, 1 + number), history, newest, items, sums, out, to, column)
        if int_at(index, asof.RATES):
            column = asof.rates(asof.matrix_at(index, 1 + number), history, items, sums, out, to, column)
    if int_at(index, asof.PRICED):
        column = asof.price(float32_at(index, asof.LOG_PRICES), history, items, out, to, column)
    for number in range(int_at(index, asof.N_NEIGHBORS)):
        matrix = asof.matrix_at(index, 1 + n_categories + number)
        column = asof.similar(matrix, history, newest, items, slots, out, to, column)
    if int_at(index, asof.DESCRIBED):
        column = asof.content(asof.matrix_at(index, 0), history, newest, items, sums, out, to, column)
    if int_at(layout, N_SOURCES):
        column = write_sources(scores, ranks, first, last, out, to, column)
    column = write_item_numbers(layout, items, moment, out, to, column)
    column = write_constants(numbers[row, :n_numbers], n, out, to, column)
    if len(out_codes):
        write_codes(layout, items, codes[row], out_codes, to)
    if int_at(layout, OF_TREES):
        column = write_item_codes(layout, items, out, to, column)
        column = write_constants(codes[row], n, out, to, column)
        column = write_flags(layout, items, out, to, column)
        write_constants(numbers[row, n_numbers:], n, out, to, column)


@kernel
def write_constants(values, n, out, to, column):
    """Values that are the same for all n candidates."""
    for at in range(len(values)):
        out[column + at][to : to + n] = values[at]
    return column + len(values)


@kernel
def write_sources(scores, ranks, first, last, out, to, column):
    """By source the score, its share and the rank from 1; the sum of reciprocal ranks, and the number of sources.

    A share is the score brought to 0..1 within the request; 0 where the source did not name the item, 1 where all its
    scores are equal.
    """
    n, shift = scores.shape[1], to - first
    for source in range(n):
        low, high = np.inf, -np.inf
        for at in range(first, last):
            score = np.float64(scores[at, source])
            if np.isfinite(score):
                low, high = min(low, score), max(high, score)
        for at in range(first, last):
            out[column + source, shift + at] = scores[at, source]
            score = np.float64(scores[at, source])
            share = (score - low) / (high - low) if high > low else 1.0
            out[column + n + source, shift + at] = share if np.isfinite(score) else 0.0
            rank = ranks[at, source]
            out[column + 2 * n + source, shift + at] = rank + 1 if rank >= 0 else np.nan
    for at in range(first, last):
        fused, named = 0.0, 0
        for source in range(n):
            if ranks[at, source] >= 0:
                fused += reciprocal_rank(ranks[at, source])
                named += 1
        out[column + 3 * n, shift + at], out[column + 3 * n + 1, shift + at] = fused, named
    return column + 3 * n + 2


@kernel
def row_of(item, n):
    """The row of an item among n, or n, the row of unknown ones."""
    return item if item < n else n


@kernel
def write_item_numbers(layout, items, moment, out, first, column):
    """Numbers of the items, and ages: sign(d) · log(1 + |d|) of the days d since each moment."""
    if not int_at(layout, DESCRIBED):
        return column
    numbers, moments = float32_rows_at(layout, ITEM_NUMBERS), int64_rows_at(layout, ITEM_MOMENTS)
    n, width = len(numbers) - 1, numbers.shape[1]
    for at in range(len(items)):
        row = row_of(items[at], n)
        for place in range(width):
            out[column + place, first + at] = numbers[row, place]
        for place in range(moments.shape[1]):
            days = (moment - moments[row, place]) / asof.DAY
            age = np.sign(days) * np.log1p(np.abs(days))
            out[column + width + place, first + at] = age if moments[row, place] != UNKNOWN_MOMENT else np.nan
    return column + width + moments.shape[1]


@kernel
def write_codes(layout, items, request_codes, out_codes, first):
    """Codes of item and request as they are, int32[m, codes]."""
    n_item_codes = 0
    if int_at(layout, DESCRIBED):
        codes = int32_rows_at(layout, ITEM_CODES)
        n_item_codes = codes.shape[1]
        for at in range(len(items)):
            out_codes[first + at, :n_item_codes] = codes[row_of(items[at], len(codes) - 1)]
    for place in range(len(request_codes)):
        for at in range(len(items)):
            out_codes[first + at, n_item_codes + place] = request_codes[place]


@kernel
def write_item_codes(layout, items, out, first, column):
    """Codes of the items, as float32."""
    if not int_at(layout, DESCRIBED):
        return column
    codes = int32_rows_at(layout, ITEM_CODES)
    for at in range(len(items)):
        row = row_of(items[at], len(codes) - 1)
        for place in range(codes.shape[1]):
            out[column + place, first + at] = codes[row, place]
    return column + codes.shape[1]


@kernel
def write_flags(layout, items, out, first, column):
    """For each bag of the items a 0 or 1 for each of its codes that has a flag."""
    for bag in range(int_at(layout, N_BAGS)):
        slot = FIRST_BAG + BAG_SLOTS * bag
        offsets, codes = int64_at(layout, slot + OFFSETS), int32_at(layout, slot + CODES)
        flags, n_flags = int32_at(layout, slot + FLAGS), int_at(layout, slot + N_FLAGS)
        for place in range(n_flags):
            out[column + place][first : first + len(items)] = 0
        for at in range(len(items)):
            row = row_of(items[at], len(offsets) - 2)
            for place in range(offsets[row], offsets[row + 1]):
                flag = flags[codes[place]]
                if flag >= 0:
                    out[column + flag, first + at] = 1
        column += n_flags
    return column
