"""Kernels of `asof`: each fills its columns for the candidates of the requests [start, stop).

Common arguments:

- histories: (offsets, items, weights, times, values) of a batch of histories.
- ends: int64[n], where in `histories` the events before the moment of each request end.
- candidates: (offsets, items).
- log, base, recent: (starts, counts, times, positive, valued, value, kinds) of `item_event_log`.
- out: float32[m, columns], the columns of the block; NaN where unknown.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.binary_search import first_not_before
from zhiyin.core.durations import UNITS
from zhiyin.core.hashing import find, table
from zhiyin.core.parallel import kernel

DAY, HOUR = UNITS["d"], UNITS["h"]
# log(1 + count) of small counts, by far the most frequent.
LOG1P_TABLE = np.log1p(np.arange(4096)).astype(np.float32)


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
def ends(histories, moments, timed, out):
    """Position after the last event before each moment; a history without times counts whole."""
    offsets, times = histories[0], histories[3]
    for row in range(len(moments)):
        begin, end = offsets[row], offsets[row + 1]
        if timed and end > begin and (times[begin] != 0 or times[end - 1] != 0):
            end = _back(times, begin, end, moments[row])
        out[row] = end


@kernel
def _tally(log, item, moment, spans, counts, kinds, sums, first_last):
    """Add the events of an item before a moment to counters.

    Parameters
    ----------
    counts: int64[w + 1], by window, the last one for all time.
    kinds: int64[k, w + 1], by kind and window.
    sums: float64[3]: positive events, events with a value, sum of the values.
    first_last: int64[2], first and last time.
    """
    starts, sizes, times, positive, valued, value, kind = log
    if item >= len(starts) or sizes[item] == 0:
        return
    begin = starts[item]
    end = first_not_before(times, begin, begin + sizes[item], moment)
    if end == begin:
        return
    windows = len(spans)
    counts[windows] += end - begin
    newest = end - 1
    first_last[0] = min(first_last[0], times[begin])
    first_last[1] = max(first_last[1], times[newest])
    for k in range(kind.shape[1]):
        kinds[k, windows] += kind[newest, k]
    if len(positive):
        sums[0] += positive[newest]
    if len(valued):
        sums[1] += valued[newest]
        sums[2] += value[newest]
    at = end
    for window in range(windows):  # windows ascend: the search of each begins where the one before ended
        at = _back(times, begin, at, moment - spans[window])
        counts[window] += end - at
        for k in range(kind.shape[1]):
            kinds[k, window] += kind[newest, k] - (kind[at - 1, k] if at > begin else 0)


@kernel
def item_timed(base, recent, spans, candidates, moments, start, stop, out):
    offsets, items = candidates
    windows, n_kinds = len(spans), base[6].shape[1]
    counts = np.zeros(windows + 1, dtype=np.int64)
    kinds = np.zeros((n_kinds, windows + 1), dtype=np.int64)
    sums = np.zeros(3, dtype=np.float64)
    first_last = np.zeros(2, dtype=np.int64)
    signs, values = len(base[3]) > 0 or len(recent[3]) > 0, len(base[4]) > 0 or len(recent[4]) > 0
    has_recent = len(recent[2]) > 0
    for row in range(start, stop):
        moment = moments[row]
        for to in range(offsets[row], offsets[row + 1]):
            counts[:] = 0
            kinds[:] = 0
            sums[:] = 0.0
            first_last[0], first_last[1] = moment, -(2**62)
            _tally(base, items[to], moment, spans, counts, kinds, sums, first_last)
            if has_recent:
                _tally(recent, items[to], moment, spans, counts, kinds, sums, first_last)
            column = 0
            for window in range(windows + 1):
                out[to, column] = _log1p(counts[window])
                column += 1
            for k in range(n_kinds):
                for window in range(windows + 1):
                    out[to, column] = _log1p(kinds[k, window])
                    column += 1
            total = counts[windows]
            if signs:
                out[to, column] = sums[0] / total if total else np.nan
                column += 1
            if values:
                out[to, column] = sums[2] / sums[1] if sums[1] else np.nan
                column += 1
            if total:
                out[to, column] = np.log(1.0 + (moment - first_last[0]) / DAY)
                out[to, column + 1] = np.log(1.0 + (moment - first_last[1]) / DAY)
            else:
                out[to, column : column + 2] = np.nan
            if windows > 1:
                share = spans[windows - 2] / spans[windows - 1]
                out[to, column + 2] = np.log((counts[windows - 2] + 1.0) / (counts[windows - 1] * share + 1.0))


@kernel
def item_untimed(base, own, users, candidates, start, stop, out):
    """Item features of a log without times: events of all other users, as the own ones may come after the request."""
    offsets, items = candidates
    starts, sizes, _, positive, valued, value, kind = base
    own_offsets, own_items, own_weights, own_values, own_kinds = own
    n_kinds = kind.shape[1]
    max_size = max_request_size(offsets, start, stop)
    slots = table(max_size)
    own_counts = np.zeros((max_size, n_kinds + 1), dtype=np.int64)
    sums = np.zeros((max_size, 3), dtype=np.float64)
    for row in range(start, stop):
        begin, end = offsets[row], offsets[row + 1]
        insert_candidates(slots, items, begin, end)
        own_counts[: end - begin] = 0
        sums[: end - begin] = 0.0
        user = users[row]
        if 0 <= user < len(own_offsets) - 1:
            for at in range(own_offsets[user], own_offsets[user + 1]):
                place = slots[find(slots, items[begin:end], own_items[at])]
                if place < 0:
                    continue
                own_counts[place, n_kinds] += 1
                if own_kinds[at] < n_kinds:
                    own_counts[place, own_kinds[at]] += 1
                if own_weights[at] > 0:
                    sums[place, 0] += 1
                if not np.isnan(own_values[at]):
                    sums[place, 1] += 1
                    sums[place, 2] += own_values[at]
        for to in range(begin, end):
            item, place = items[to], to - begin
            in_log = item < len(starts) and sizes[item] > 0
            newest = starts[item] + sizes[item] - 1 if in_log else 0
            total = sizes[item] - own_counts[place, n_kinds] if in_log else 0
            out[to, 0] = _log1p(total)
            for k in range(n_kinds):
                out[to, 1 + k] = _log1p(kind[newest, k] - own_counts[place, k] if in_log else 0)
            column = 1 + n_kinds
            if len(positive):
                out[to, column] = (positive[newest] - sums[place, 0]) / total if total else np.nan
                column += 1
            if len(valued):
                n = valued[newest] - sums[place, 1] if in_log else 0.0
                out[to, column] = (value[newest] - sums[place, 2]) / n if n > 0 else np.nan


@kernel
def user(histories, ends, moments, spans, timed, signs, has_values, gap, offsets, start, stop, out):
    begins, _, weights, times, values = histories
    line = np.empty(out.shape[1], dtype=np.float32)
    for row in range(start, stop):
        begin, end = begins[row], ends[row]
        n = end - begin
        n_positive, valued, value = 0, 0, 0.0
        if signs or has_values:
            for at in range(begin, end):
                n_positive += weights[at] > 0
                if not np.isnan(values[at]):
                    valued += 1
                    value += values[at]
        line[0] = _log1p(n)
        column = 1
        if signs:
            line[column] = n_positive / n if n else np.nan
            column += 1
        if has_values:
            line[column] = value / valued if valued else np.nan
            column += 1
        if timed:
            moment = moments[row]
            dated = n > 0 and (times[begin] != 0 or times[end - 1] != 0)
            at = end
            for window in range(len(spans)):
                if dated:
                    at = _back(times, begin, at, moment - spans[window])
                line[column] = _log1p(end - at) if dated or n == 0 else np.nan
                column += 1
            line[column] = np.log(1.0 + (moment - times[end - 1]) / HOUR) if dated else np.nan
            in_session = 0
            later = moment
            at = end - 1
            while dated and at >= begin and later - times[at] < gap:
                in_session += 1
                later = times[at]
                at -= 1
            line[column + 1] = _log1p(in_session) if dated or n == 0 else np.nan
            line[column + 2] = (moment // HOUR) % 24
            line[column + 3] = (moment // DAY + 3) % 7  # day 0 of the epoch was a Thursday
        for to in range(offsets[row], offsets[row + 1]):
            out[to] = line


@kernel
def pair(histories, ends, moments, timed, candidates, start, stop, out):
    """Features of the user's own events with the candidate."""
    begins, history_items, _, times, _ = histories
    offsets, items = candidates
    max_size = max_request_size(offsets, start, stop)
    slots = table(max_size)
    counts = np.zeros(max_size, dtype=np.int64)
    last = np.zeros(max_size, dtype=np.int64)
    for row in range(start, stop):
        begin, end = offsets[row], offsets[row + 1]
        insert_candidates(slots, items, begin, end)
        request_items = items[begin:end]
        counts[: end - begin] = 0
        for at in range(begins[row], ends[row]):
            place = slots[find(slots, request_items, history_items[at])]
            if place >= 0:
                counts[place] += 1
                last[place] = times[at]
        for place in range(end - begin):
            out[begin + place, 0] = _log1p(counts[place])
            if timed:
                dated = counts[place] > 0 and last[place] != 0
                out[begin + place, 1] = np.log(1.0 + (moments[row] - last[place]) / HOUR) if dated else np.nan


@kernel
def shares(histories, ends, last, rows, width, candidates, start, stop, out):
    """Shares of the history, and of its newest events, in the categories of the candidate; the mean over these."""
    begins, history_items, weights, _, _ = histories
    offsets, items = candidates
    indptr, indices, data = rows
    all_counts = np.zeros(width, dtype=np.float32)
    recent_counts = np.zeros(width, dtype=np.float32)
    n_items = len(indptr) - 1
    for row in range(start, stop):
        n = 0
        for at in range(ends[row] - 1, begins[row] - 1, -1):
            item = history_items[at]
            if weights[at] > 0 and item < n_items and indptr[item + 1] > indptr[item]:
                n += 1
                for place in range(indptr[item], indptr[item + 1]):
                    if data[place] != 0:
                        all_counts[indices[place]] += 1
                        if n <= last:
                            recent_counts[indices[place]] += 1
        for to in range(offsets[row], offsets[row + 1]):
            item = items[to]
            total, recent, n_categories = 0.0, 0.0, 0
            if item < n_items:
                for place in range(indptr[item], indptr[item + 1]):
                    if data[place] != 0:
                        n_categories += 1
                        total += all_counts[indices[place]]
                        recent += recent_counts[indices[place]]
            if n_categories and n:
                out[to, 0] = total / (n_categories * n)
                out[to, 1] = recent / (n_categories * min(n, last))
            else:
                out[to, 0] = out[to, 1] = np.nan
        for at in range(begins[row], ends[row]):
            item = history_items[at]
            if weights[at] > 0 and item < n_items:
                for place in range(indptr[item], indptr[item + 1]):
                    all_counts[indices[place]] = 0
                    recent_counts[indices[place]] = 0


@kernel
def price(histories, ends, logs, candidates, start, stop, out):
    begins, history_items, weights, _, _ = histories
    offsets, items = candidates
    for row in range(start, stop):
        total, n = 0.0, 0
        for at in range(begins[row], ends[row]):
            if weights[at] > 0 and history_items[at] < len(logs) and not np.isnan(logs[history_items[at]]):
                total += logs[history_items[at]]
                n += 1
        for to in range(offsets[row], offsets[row + 1]):
            has_price = n > 0 and items[to] < len(logs)
            out[to, 0] = logs[items[to]] - total / n if has_price else np.nan


@kernel
def similar(histories, ends, last, neighbors, candidates, start, stop, out):
    """Weights for the candidate from the newest distinct items of positive weight: maximum, sum, and of the newest."""
    begins, history_items, weights, _, _ = histories
    offsets, items = candidates
    indptr, indices, data = neighbors
    n_items = len(indptr) - 1
    slots = table(max_request_size(offsets, start, stop))
    voted = np.empty(last, dtype=np.int32)
    for row in range(start, stop):
        begin, end = offsets[row], offsets[row + 1]
        insert_candidates(slots, items, begin, end)
        request_items = items[begin:end]
        n = 0
        out[begin:end] = 0.0
        at = ends[row] - 1
        while at >= begins[row] and n < last:
            item = history_items[at]
            at -= 1
            if not weights[at + 1] > 0:
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
            for spot in range(indptr[item], indptr[item + 1]):
                place = slots[find(slots, request_items, indices[spot])]
                if place >= 0:
                    to = begin + place
                    out[to, 0] = max(out[to, 0], data[spot])
                    out[to, 1] += data[spot]
                    if n == 1:
                        out[to, 2] = data[spot]
        if n == 0:
            out[begin:end] = np.nan


@kernel
def content(histories, ends, last, rows, width, candidates, start, stop, out):
    """Cosine of the candidate and the sum of the newest items of positive weight."""
    begins, history_items, weights, _, _ = histories
    offsets, items = candidates
    indptr, indices, data = rows
    n_items = len(indptr) - 1
    profile = np.zeros(width, dtype=np.float32)
    for row in range(start, stop):
        n, at = 0, ends[row] - 1
        while at >= begins[row] and n < last:
            item = history_items[at]
            if weights[at] > 0 and item < n_items and indptr[item + 1] > indptr[item]:
                n += 1
                for place in range(indptr[item], indptr[item + 1]):
                    profile[indices[place]] += data[place]
            at -= 1
        oldest = at + 1
        square = 0.0
        for again in range(oldest, ends[row]):  # |sum|² is the sum of the inner products of each row with the sum
            item = history_items[again]
            if weights[again] > 0 and item < n_items:
                for place in range(indptr[item], indptr[item + 1]):
                    square += np.float64(profile[indices[place]]) * data[place]
        length = np.sqrt(max(square, 0.0))
        for to in range(offsets[row], offsets[row + 1]):
            item = items[to]
            if length > 0 and item < n_items and indptr[item + 1] > indptr[item]:
                total, norm = 0.0, 0.0
                for place in range(indptr[item], indptr[item + 1]):
                    total += profile[indices[place]] * data[place]
                    norm += data[place] * data[place]
                out[to, 0] = total / (length * np.sqrt(norm)) if norm > 0 else np.nan
            else:
                out[to, 0] = np.nan
        for again in range(oldest, ends[row]):
            item = history_items[again]
            if weights[again] > 0 and item < n_items:
                for place in range(indptr[item], indptr[item + 1]):
                    profile[indices[place]] = 0.0


@kernel
def max_request_size(offsets, start, stop):
    """Number of candidates of the largest request of [start, stop)."""
    max_size = 0
    for row in range(start, stop):
        max_size = max(max_size, offsets[row + 1] - offsets[row])
    return max_size


@kernel
def insert_candidates(slots, items, begin, end):
    """Fill a hash table with the candidates of one request, by their position in the request."""
    slots[:] = -1
    request_items = items[begin:end]
    for place in range(end - begin):
        slots[find(slots, request_items, request_items[place])] = place
