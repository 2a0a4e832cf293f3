"""Kernels of `asof`: the point-in-time features of one request, a block of them a kernel.

A feature is a row of `out`, float32[features, m], and the candidates of all requests are its columns: neighbouring
candidates lie side by side, so that a loop over them is vectorized, here and in the trees that read them.

Common arguments:

- index: words of `AsOf.table`, at the slots of this module.
- base, recent: words of two `ItemLog.table`.
- history: (items, weights, times, values) of the events of the request's history before its moment.
- items: int32[c], the candidates of the request. slots: the hash table of `insert_candidates`.
- sums: float32 of `AsOf.n_sums` zeros, working memory that is left as it was.
- first: column of `out` of the first candidate. column: first feature of a block; each function returns the one after
  its last. Values are NaN where unknown.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.array_table import (
    float32_at,
    float64_at,
    int8_at,
    int32_at,
    int32_rows_at,
    int64_at,
    int_at,
    length_at,
)
from zhiyin.core.binary_search import first_not_before
from zhiyin.core.durations import UNITS
from zhiyin.core.hashing import find
from zhiyin.core.parallel import kernel
from zhiyin.ranking import item_event_log as item_log

DAY, HOUR = UNITS["d"], UNITS["h"]
# log(1 + count) of small counts, by far the most frequent.
LOG1P_TABLE = np.log1p(np.arange(4096)).astype(np.float32)

# Slots of `AsOf.table`.
(
    TIMED, SIGNS, VALUES, LAST, SESSION_GAP, N_KINDS, SPANS,
    OWN_OFFSETS, OWN_ITEMS, OWN_WEIGHTS, OWN_VALUES, OWN_KINDS,
    PRICED, LOG_PRICES, DESCRIBED, N_CATEGORIES, N_NEIGHBORS, RATES, FIRST_MATRIX,
) = range(19)  # fmt: skip
# Slots of a CSR matrix, from FIRST_MATRIX on: the content vectors, then the categories, then the neighbours.
INDPTR, INDICES, DATA, WIDTH, MATRIX_SLOTS = range(5)
_NEVER = -(2**62)
# Events that the prior of a rate weighs as much as: of a category, the rate of the user; of a user, one in RARE.
PRIOR_EVENTS, RARE = 10.0, 20.0


@kernel
def _log1p(count):
    return LOG1P_TABLE[count] if count < 4096 else np.float32(np.log(1.0 + count))


@kernel
def _back(times, low, high, moment):
    """As `first_not_before`, by exponential search from the high end: few steps where the position is near it."""
    step = 1
    while high - step >= low and times[high - step] >= moment:
        high -= step
        step *= 2
    return first_not_before(times, max(low, high - step), high, moment)


@kernel
def history_end(index, times, begin, end, moment):
    """Position after the last event before the moment; a history without times counts whole."""
    if int_at(index, TIMED) and end > begin and (times[begin] != 0 or times[end - 1] != 0):
        return _back(times, begin, end, moment)
    return end


@kernel
def matrix_at(index, number):
    """The parts of the CSR matrix of a number: indptr, indices, data, width."""
    slot = FIRST_MATRIX + MATRIX_SLOTS * number
    return (
        int64_at(index, slot + INDPTR),
        int32_at(index, slot + INDICES),
        float32_at(index, slot + DATA),
        int_at(index, slot + WIDTH),
    )


@kernel
def _tally(log, items, moment, spans, counts, kinds, sums, oldest, newest):
    """Add the events of items before a moment to counters.

    A step is a loop over all items, whose cache misses overlap.

    Parameters
    ----------
    counts: int64[w + 1, c], by window, the last one for all time.
    kinds: int64[k, w + 1, c], by kind and window.
    sums: float64[3, c]: positive events, events with a value, sum of the values.
    oldest, newest: int64[c], first and last time.
    """
    starts, sizes = int64_at(log, item_log.STARTS), int64_at(log, item_log.COUNTS)
    times, kind = int64_at(log, item_log.TIMES), int32_rows_at(log, item_log.KINDS)
    windows, n = len(spans), len(items)
    low, high = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for at in range(n):
        item = items[at]
        if item < len(starts):
            low[at] = starts[item]
            high[at] = low[at] + sizes[item]
    for at in range(n):
        if high[at] > low[at] and times[high[at] - 1] >= moment:
            high[at] = _back(times, low[at], high[at], moment)
    for at in range(n):
        if high[at] > low[at]:
            counts[windows, at] += high[at] - low[at]
            oldest[at] = min(oldest[at], times[low[at]])
            newest[at] = max(newest[at], times[high[at] - 1])
    if length_at(log, item_log.POSITIVE):
        positive = int32_at(log, item_log.POSITIVE)
        for at in range(n):
            if high[at] > low[at]:
                sums[0, at] += positive[high[at] - 1]
    if length_at(log, item_log.VALUED):
        valued, value = int32_at(log, item_log.VALUED), float64_at(log, item_log.VALUE)
        for at in range(n):
            if high[at] > low[at]:
                sums[1, at] += valued[high[at] - 1]
                sums[2, at] += value[high[at] - 1]
    for k in range(kind.shape[1]):
        for at in range(n):
            if high[at] > low[at]:
                kinds[k, windows, at] += kind[high[at] - 1, k]
    begin = high.copy()
    for window in range(windows):  # windows ascend: the search of each begins where the one before ended
        since = moment - spans[window]
        for at in range(n):
            if begin[at] > low[at]:
                begin[at] = _back(times, low[at], begin[at], since)
            counts[window, at] += high[at] - begin[at]
        for k in range(kind.shape[1]):
            for at in range(n):
                if high[at] > low[at]:
                    before = kind[begin[at] - 1, k] if begin[at] > low[at] else 0
                    kinds[k, window, at] += kind[high[at] - 1, k] - before


@kernel
def item_timed(index, base, recent, moment, items, out, first, column):
    """Item features of a log with times."""
    spans, n_kinds, n = int64_at(index, SPANS), int_at(index, N_KINDS), len(items)
    windows = len(spans)
    counts = np.zeros((windows + 1, n), dtype=np.int64)
    kinds = np.zeros((n_kinds, windows + 1, n), dtype=np.int64)
    sums = np.zeros((3, n), dtype=np.float64)
    oldest, newest = np.full(n, moment, dtype=np.int64), np.full(n, _NEVER, dtype=np.int64)
    _tally(base, items, moment, spans, counts, kinds, sums, oldest, newest)
    if length_at(recent, item_log.TIMES):
        _tally(recent, items, moment, spans, counts, kinds, sums, oldest, newest)
    for window in range(windows + 1):
        for at in range(n):
            out[column, first + at] = _log1p(counts[window, at])
        column += 1
    for k in range(n_kinds):
        for window in range(windows + 1):
            for at in range(n):
                out[column, first + at] = _log1p(kinds[k, window, at])
            column += 1
    total = counts[windows]
    if int_at(index, SIGNS):
        for at in range(n):
            out[column, first + at] = sums[0, at] / total[at] if total[at] else np.nan
        column += 1
    if int_at(index, VALUES):
        for at in range(n):
            out[column, first + at] = sums[2, at] / sums[1, at] if sums[1, at] else np.nan
        column += 1
    for at in range(n):
        if total[at]:
            out[column, first + at] = np.log(1.0 + (moment - oldest[at]) / DAY)
            out[column + 1, first + at] = np.log(1.0 + (moment - newest[at]) / DAY)
        else:
            out[column, first + at] = out[column + 1, first + at] = np.nan
    column += 2
    if windows > 1:
        share = spans[windows - 2] / spans[windows - 1]
        for at in range(n):
            out[column, first + at] = np.log((counts[windows - 2, at] + 1.0) / (counts[windows - 1, at] * share + 1.0))
        column += 1
    return column


@kernel
def item_untimed(index, base, user_code, items, slots, out, first, column):
    """Item features of a log without times: events of all other users, as the own ones may come after the request."""
    starts, sizes = int64_at(base, item_log.STARTS), int64_at(base, item_log.COUNTS)
    positive, valued = int32_at(base, item_log.POSITIVE), int32_at(base, item_log.VALUED)
    value, kind = float64_at(base, item_log.VALUE), int32_rows_at(base, item_log.KINDS)
    own_offsets, own_items = int64_at(index, OWN_OFFSETS), int32_at(index, OWN_ITEMS)
    own_weights, own_values = float32_at(index, OWN_WEIGHTS), float32_at(index, OWN_VALUES)
    own_kinds = int8_at(index, OWN_KINDS)
    n_kinds, n = int_at(index, N_KINDS), len(items)
    own_counts = np.zeros((n, n_kinds + 1), dtype=np.int64)
    sums = np.zeros((n, 3), dtype=np.float64)
    if 0 <= user_code < len(own_offsets) - 1:
        for event in range(own_offsets[user_code], own_offsets[user_code + 1]):
            at = slots[find(slots, items, own_items[event])]
            if at < 0:
                continue
            own_counts[at, n_kinds] += 1
            if own_kinds[event] < n_kinds:
                own_counts[at, own_kinds[event]] += 1
            if own_weights[event] > 0:
                sums[at, 0] += 1
            if not np.isnan(own_values[event]):
                sums[at, 1] += 1
                sums[at, 2] += own_values[event]
    signs, values = int_at(index, SIGNS), int_at(index, VALUES)
    for at in range(n):
        item, to = items[at], first + at
        in_log = item < len(starts) and sizes[item] > 0
        newest = starts[item] + sizes[item] - 1 if in_log else 0
        total = sizes[item] - own_counts[at, n_kinds] if in_log else 0
        out[column, to] = _log1p(total)
        for k in range(n_kinds):
            out[column + 1 + k, to] = _log1p(kind[newest, k] - own_counts[at, k] if in_log else 0)
        place = column + 1 + n_kinds
        if signs:
            out[place, to] = (positive[newest] - sums[at, 0]) / total if total else np.nan
            place += 1
        if values:
            n_values = valued[newest] - sums[at, 1] if in_log else 0.0
            out[place, to] = (value[newest] - sums[at, 2]) / n_values if n_values > 0 else np.nan
    return column + 1 + n_kinds + signs + values


@kernel
def user(index, history, moment, n, out, first, column):
    """Features of the history alone, the same for all n candidates."""
    _, weights, times, values = history
    spans, size, begin = int64_at(index, SPANS), len(times), column
    n_positive, valued, value = 0, 0, 0.0
    if int_at(index, SIGNS) or int_at(index, VALUES):
        for at in range(size):
            n_positive += weights[at] > 0
            if not np.isnan(values[at]):
                valued += 1
                value += values[at]
    out[column, first] = _log1p(size)
    column += 1
    if int_at(index, SIGNS):
        out[column, first] = n_positive / size if size else np.nan
        column += 1
    if int_at(index, VALUES):
        out[column, first] = value / valued if valued else np.nan
        column += 1
    if int_at(index, TIMED):
        dated = size > 0 and (times[0] != 0 or times[size - 1] != 0)
        counted = dated or size == 0
        at = size
        for window in range(len(spans)):
            if dated:
                at = _back(times, 0, at, moment - spans[window])
            out[column, first] = _log1p(size - at) if counted else np.nan
            column += 1
        out[column, first] = np.log(1.0 + (moment - times[size - 1]) / HOUR) if dated else np.nan
        in_session, later, at = 0, moment, size - 1
        while dated and at >= 0 and later - times[at] < int_at(index, SESSION_GAP):
            in_session += 1
            later = times[at]
            at -= 1
        out[column + 1, first] = _log1p(in_session) if counted else np.nan
        out[column + 2, first] = (moment // HOUR) % 24
        out[column + 3, first] = (moment // DAY + 3) % 7  # day 0 of the epoch was a Thursday
        column += 4
    for place in range(begin, column):
        out[place, first + 1 : first + n] = out[place, first]
    return column


@kernel
def pair(index, history, moment, items, slots, out, first, column):
    """Features of the user's own events with the candidate."""
    history_items, _, times, _ = history
    n, timed = len(items), int_at(index, TIMED)
    counts, last = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for event in range(len(history_items)):
        at = slots[find(slots, items, history_items[event])]
        if at >= 0:
            counts[at] += 1
            last[at] = times[event]
    for at in range(n):
        out[column, first + at] = _log1p(counts[at])
        if timed:
            dated = counts[at] > 0 and last[at] != 0
            out[column + 1, first + at] = np.log(1.0 + (moment - last[at]) / HOUR) if dated else np.nan
    return column + (2 if timed else 1)


@kernel
def shares(matrix, history, last, items, sums, out, first, column):
    """Shares of the history, and of its newest events, in the categories of the candidate; the mean over these."""
    history_items, weights, _, _ = history
    indptr, indices, data, width = matrix
    all_counts, recent_counts = sums[:width], sums[width : 2 * width]
    n_items, n = len(indptr) - 1, 0
    for event in range(len(history_items) - 1, -1, -1):
        item = history_items[event]
        if weights[event] > 0 and item < n_items and indptr[item + 1] > indptr[item]:
            n += 1
            for place in range(indptr[item], indptr[item + 1]):
                if data[place] != 0:
                    all_counts[indices[place]] += 1
                    if n <= last:
                        recent_counts[indices[place]] += 1
    for at in range(len(items)):
        item, to = items[at], first + at
        total, recent, n_categories = 0.0, 0.0, 0
        if item < n_items:
            for place in range(indptr[item], indptr[item + 1]):
                if data[place] != 0:
                    n_categories += 1
                    total += all_counts[indices[place]]
                    recent += recent_counts[indices[place]]
        if n_categories and n:
            out[column, to] = total / (n_categories * n)
            out[column + 1, to] = recent / (n_categories * min(n, last))
        else:
            out[column, to] = out[column + 1, to] = np.nan
    for event in range(len(history_items)):
        item = history_items[event]
        if weights[event] > 0 and item < n_items:
            for place in range(indptr[item], indptr[item + 1]):
                all_counts[indices[place]] = 0
                recent_counts[indices[place]] = 0
    return column + 2


@kernel
def rates(matrix, history, items, sums, out, first, column):
    """Log of how much likelier the user's events in the categories of the candidate are positive than all of theirs.

    r_c = (positive_c + PRIOR_EVENTS · u) / (events_c + PRIOR_EVENTS), u = (positive + 1) / (events + RARE); the feature
    is log(mean of r_c over the categories / u). Where displays are events of weight 0, r_c is a smoothed click rate.
    """
    history_items, weights, _, _ = history
    indptr, indices, data, width = matrix
    positive, events = sums[:width], sums[width : 2 * width]
    n_items, n_positive = len(indptr) - 1, 0
    for event in range(len(history_items)):
        item, liked = history_items[event], weights[event] > 0
        n_positive += liked
        if item < n_items:
            for place in range(indptr[item], indptr[item + 1]):
                if data[place] != 0:
                    events[indices[place]] += 1
                    positive[indices[place]] += liked
    overall = (n_positive + 1.0) / (len(history_items) + RARE)
    for at in range(len(items)):
        item, total, n_categories = items[at], 0.0, 0
        if item < n_items:
            for place in range(indptr[item], indptr[item + 1]):
                if data[place] != 0:
                    code = indices[place]
                    n_categories += 1
                    total += (positive[code] + PRIOR_EVENTS * overall) / (events[code] + PRIOR_EVENTS)
        out[column, first + at] = np.log(total / (n_categories * overall)) if n_categories else np.nan
    for event in range(len(history_items)):
        item = history_items[event]
        if item < n_items:
            for place in range(indptr[item], indptr[item + 1]):
                events[indices[place]] = 0
                positive[indices[place]] = 0
    return column + 1


@kernel
def price(logs, history, items, out, first, column):
    """Log of the price over the geometric mean of the prices in the history."""
    history_items, weights, _, _ = history
    total, n = 0.0, 0
    for event in range(len(history_items)):
        item = history_items[event]
        if weights[event] > 0 and item < len(logs) and not np.isnan(logs[item]):
            total += logs[item]
            n += 1
    for at in range(len(items)):
        has_price = n > 0 and items[at] < len(logs)
        out[column, first + at] = logs[items[at]] - total / n if has_price else np.nan
    return column + 1


@kernel
def similar(matrix, history, last, items, slots, out, first, column):
    """Weights for the candidate from the newest distinct items of positive weight: maximum, sum, and of the newest."""
    history_items, weights, _, _ = history
    indptr, indices, data, _ = matrix
    n_items, n, n_candidates = len(indptr) - 1, 0, len(items)
    best = out[column][first : first + n_candidates]
    total = out[column + 1][first : first + n_candidates]
    newest = out[column + 2][first : first + n_candidates]
    best[:] = 0.0
    total[:] = 0.0
    newest[:] = 0.0
    voted = np.empty(last, dtype=np.int32)
    event = len(history_items) - 1
    while event >= 0 and n < last:
        item = history_items[event]
        event -= 1
        if not weights[event + 1] > 0:
            continue
        again = False
        for before in range(n):
            again |= voted[before] == item
        if again:
            continue
        voted[n] = item
        n += 1
        if item >= n_items:
            continue
        for place in range(indptr[item], indptr[item + 1]):
            at = slots[find(slots, items, indices[place])]
            if at >= 0:
                best[at] = max(best[at], data[place])
                total[at] += data[place]
                if n == 1:
                    newest[at] = data[place]
    if n == 0:
        best[:] = np.nan
        total[:] = np.nan
        newest[:] = np.nan
    return column + 3


@kernel
def content(matrix, history, last, items, sums, out, first, column):
    """Cosine of the candidate and the sum of the newest items of positive weight."""
    history_items, weights, _, _ = history
    indptr, indices, data, width = matrix
    n_items, n, event = len(indptr) - 1, 0, len(history_items) - 1
    profile = sums[:width]
    while event >= 0 and n < last:
        item = history_items[event]
        if weights[event] > 0 and item < n_items and indptr[item + 1] > indptr[item]:
            n += 1
            for place in range(indptr[item], indptr[item + 1]):
                profile[indices[place]] += data[place]
        event -= 1
    oldest = event + 1
    square = 0.0
    for again in range(oldest, len(history_items)):  # |sum|² is the sum of the inner products of each row with the sum
        item = history_items[again]
        if weights[again] > 0 and item < n_items:
            for place in range(indptr[item], indptr[item + 1]):
                square += np.float64(profile[indices[place]]) * data[place]
    length = np.sqrt(max(square, 0.0))
    for at in range(len(items)):
        item, to = items[at], first + at
        if length > 0 and item < n_items and indptr[item + 1] > indptr[item]:
            total, norm = 0.0, 0.0
            for place in range(indptr[item], indptr[item + 1]):
                total += profile[indices[place]] * data[place]
                norm += data[place] * data[place]
            out[column, to] = total / (length * np.sqrt(norm)) if norm > 0 else np.nan
        else:
            out[column, to] = np.nan
    for again in range(oldest, len(history_items)):
        item = history_items[again]
        if weights[again] > 0 and item < n_items:
            for place in range(indptr[item], indptr[item + 1]):
                profile[indices[place]] = 0.0
    return column + 1


@kernel
def insert_candidates(slots, items):
    """Fill an empty hash table with the candidates of one request, by their position in the request."""
    for at in range(len(items)):
        slots[find(slots, items, items[at])] = at
