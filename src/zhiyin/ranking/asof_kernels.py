"""Kernels of `asof`: each fills its own columns of the candidates of requests [start, stop).

`had` is a batch of histories: (offsets, items, weights, times, values); `ends[r]` is where in it those events of
request r end that count. `asked` is (offsets, items) of the candidates. A log is (starts, counts, times, positive,
valued, value, kinds) of `item_event_log`.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.durations import UNITS
from zhiyin.core.hashing import find, table
from zhiyin.core.parallel import kernel

DAY, HOUR = UNITS["d"], UNITS["h"]
# Logs of small counts, which most are.
LOGS = np.log1p(np.arange(4096)).astype(np.float32)


@kernel
def _log1p(count):
    return LOGS[count] if count < 4096 else np.float32(np.log(1.0 + count))


@kernel
def _before(times, low, high, moment):
    """The first place of [low, high) whose time is not before the moment; `high` if there is none."""
    while low < high:
        middle = (low + high) >> 1
        if times[middle] < moment:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _back(times, low, high, moment):
    """As `_before`, looked for from the high end on in growing steps: near ends are found in a few."""
    step = 1
    while high - step >= low and times[high - step] >= moment:
        high -= step
        step *= 2
    return _before(times, max(low, high - step), high, moment)


@kernel
def ends(had, moments, timed, out):
    """Where the events before each moment end. A history without times counts in whole."""
    offsets, times = had[0], had[3]
    for row in range(len(moments)):
        begin, end = offsets[row], offsets[row + 1]
        if timed and end > begin and (times[begin] != 0 or times[end - 1] != 0):
            end = _back(times, begin, end, moments[row])
        out[row] = end


@kernel
def _tally(log, item, moment, spans, counts, kinds, sums, seen):
    """Add what a log says of an item before a moment.

    counts: int64[w + 1] by window, the last for all; kinds: int64[k, w + 1]; sums: positive, valued, value;
    seen: first and last time.
    """
    starts, sizes, times, positive, valued, value, kind = log
    if item >= len(starts) or sizes[item] == 0:
        return
    begin = starts[item]
    end = _before(times, begin, begin + sizes[item], moment)
    if end == begin:
        return
    windows = len(spans)
    counts[windows] += end - begin
    newest = end - 1
    seen[0] = min(seen[0], times[begin])
    seen[1] = max(seen[1], times[newest])
    for k in range(kind.shape[1]):
        kinds[k, windows] += kind[newest, k]
    if len(positive):
        sums[0] += positive[newest]
    if len(valued):
        sums[1] += valued[newest]
        sums[2] += value[newest]
    at = end
    for window in range(windows):  # they ascend: each begins where the one before ended
        at = _back(times, begin, at, moment - spans[window])
        counts[window] += end - at
        for k in range(kind.shape[1]):
            kinds[k, window] += kind[newest, k] - (kind[at - 1, k] if at > begin else 0)


@kernel
def item_timed(base, recent, spans, asked, moments, start, stop, out):
    offsets, items = asked
    windows, n_kinds = len(spans), base[6].shape[1]
    counts = np.zeros(windows + 1, dtype=np.int64)
    kinds = np.zeros((n_kinds, windows + 1), dtype=np.int64)
    sums = np.zeros(3, dtype=np.float64)
    seen = np.zeros(2, dtype=np.int64)
    signs, values = len(base[3]) > 0 or len(recent[3]) > 0, len(base[4]) > 0 or len(recent[4]) > 0
    fresh = len(recent[2]) > 0
    for row in range(start, stop):
        moment = moments[row]
        for to in range(offsets[row], offsets[row + 1]):
            counts[:] = 0
            kinds[:] = 0
            sums[:] = 0.0
            seen[0], seen[1] = moment, -(2**62)
            _tally(base, items[to], moment, spans, counts, kinds, sums, seen)
            if fresh:
                _tally(recent, items[to], moment, spans, counts, kinds, sums, seen)
            column = 0
            for window in range(windows + 1):
                out[to, column] = _log1p(counts[window])
                column += 1
            for k in range(n_kinds):
                for window in range(windows + 1):
                    out[to, column] = _log1p(kinds[k, window])
                    column += 1
            every = counts[windows]
            if signs:
                out[to, column] = sums[0] / every if every else np.nan
                column += 1
            if values:
                out[to, column] = sums[2] / sums[1] if sums[1] else np.nan
                column += 1
            if every:
                out[to, column] = np.log(1.0 + (moment - seen[0]) / DAY)
                out[to, column + 1] = np.log(1.0 + (moment - seen[1]) / DAY)
            else:
                out[to, column : column + 2] = np.nan
            if windows > 1:
                share = spans[windows - 2] / spans[windows - 1]
                out[to, column + 2] = np.log((counts[windows - 2] + 1.0) / (counts[windows - 1] * share + 1.0))


@kernel
def item_untimed(base, own, users, asked, start, stop, out):
    """Events of all other users: which of the user's own come later cannot be told."""
    offsets, items = asked
    starts, sizes, _, positive, valued, value, kind = base
    own_offsets, own_items, own_weights, own_values, own_kinds = own
    n_kinds = kind.shape[1]
    widest = widest_of(offsets, start, stop)
    slots = table(widest)
    mine = np.zeros((widest, n_kinds + 1), dtype=np.int64)
    sums = np.zeros((widest, 3), dtype=np.float64)
    for row in range(start, stop):
        begin, end = offsets[row], offsets[row + 1]
        enter(slots, items, begin, end)
        mine[: end - begin] = 0
        sums[: end - begin] = 0.0
        user = users[row]
        if 0 <= user < len(own_offsets) - 1:
            for at in range(own_offsets[user], own_offsets[user + 1]):
                place = slots[find(slots, items[begin:end], own_items[at])]
                if place < 0:
                    continue
                mine[place, n_kinds] += 1
                if own_kinds[at] < n_kinds:
                    mine[place, own_kinds[at]] += 1
                if own_weights[at] > 0:
                    sums[place, 0] += 1
                if not np.isnan(own_values[at]):
                    sums[place, 1] += 1
                    sums[place, 2] += own_values[at]
        for to in range(begin, end):
            item, place = items[to], to - begin
            known = item < len(starts) and sizes[item] > 0
            newest = starts[item] + sizes[item] - 1 if known else 0
            every = sizes[item] - mine[place, n_kinds] if known else 0
            out[to, 0] = _log1p(every)
            for k in range(n_kinds):
                out[to, 1 + k] = _log1p(kind[newest, k] - mine[place, k] if known else 0)
            column = 1 + n_kinds
            if len(positive):
                out[to, column] = (positive[newest] - sums[place, 0]) / every if every else np.nan
                column += 1
            if len(valued):
                n = valued[newest] - sums[place, 1] if known else 0.0
                out[to, column] = (value[newest] - sums[place, 2]) / n if n > 0 else np.nan


@kernel
def user(had, ends, moments, spans, timed, signs, has_values, gap, offsets, start, stop, out):
    begins, _, weights, times, values = had
    line = np.empty(out.shape[1], dtype=np.float32)
    for row in range(start, stop):
        begin, end = begins[row], ends[row]
        n = end - begin
        good, valued, value = 0, 0, 0.0
        if signs or has_values:
            for at in range(begin, end):
                good += weights[at] > 0
                if not np.isnan(values[at]):
                    valued += 1
                    value += values[at]
        line[0] = _log1p(n)
        column = 1
        if signs:
            line[column] = good / n if n else np.nan
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
def pair(had, ends, moments, timed, asked, start, stop, out):
    """The user's own events with the candidate."""
    begins, had_items, _, times, _ = had
    offsets, items = asked
    widest = widest_of(offsets, start, stop)
    slots = table(widest)
    counts = np.zeros(widest, dtype=np.int64)
    last = np.zeros(widest, dtype=np.int64)
    for row in range(start, stop):
        begin, end = offsets[row], offsets[row + 1]
        enter(slots, items, begin, end)
        mine = items[begin:end]
        counts[: end - begin] = 0
        for at in range(begins[row], ends[row]):
            place = slots[find(slots, mine, had_items[at])]
            if place >= 0:
                counts[place] += 1
                last[place] = times[at]
        for place in range(end - begin):
            out[begin + place, 0] = _log1p(counts[place])
            if timed:
                dated = counts[place] > 0 and last[place] != 0
                out[begin + place, 1] = np.log(1.0 + (moments[row] - last[place]) / HOUR) if dated else np.nan


@kernel
def shares(had, ends, last, rows, width, asked, start, stop, out):
    """How much of the history, and of its newest events, is in the candidate's categories; the mean over them."""
    begins, had_items, weights, _, _ = had
    offsets, items = asked
    indptr, indices, data = rows
    every = np.zeros(width, dtype=np.float32)
    lately = np.zeros(width, dtype=np.float32)
    n_items = len(indptr) - 1
    for row in range(start, stop):
        n = 0
        for at in range(ends[row] - 1, begins[row] - 1, -1):
            item = had_items[at]
            if weights[at] > 0 and item < n_items and indptr[item + 1] > indptr[item]:
                n += 1
                for place in range(indptr[item], indptr[item + 1]):
                    if data[place] != 0:
                        every[indices[place]] += 1
                        if n <= last:
                            lately[indices[place]] += 1
        for to in range(offsets[row], offsets[row + 1]):
            item = items[to]
            total, recent, of = 0.0, 0.0, 0
            if item < n_items:
                for place in range(indptr[item], indptr[item + 1]):
                    if data[place] != 0:
                        of += 1
                        total += every[indices[place]]
                        recent += lately[indices[place]]
            if of and n:
                out[to, 0] = total / (of * n)
                out[to, 1] = recent / (of * min(n, last))
            else:
                out[to, 0] = out[to, 1] = np.nan
        for at in range(begins[row], ends[row]):
            item = had_items[at]
            if weights[at] > 0 and item < n_items:
                for place in range(indptr[item], indptr[item + 1]):
                    every[indices[place]] = 0
                    lately[indices[place]] = 0


@kernel
def price(had, ends, logs, asked, start, stop, out):
    begins, had_items, weights, _, _ = had
    offsets, items = asked
    for row in range(start, stop):
        total, n = 0.0, 0
        for at in range(begins[row], ends[row]):
            if weights[at] > 0 and had_items[at] < len(logs) and not np.isnan(logs[had_items[at]]):
                total += logs[had_items[at]]
                n += 1
        for to in range(offsets[row], offsets[row + 1]):
            known = n > 0 and items[to] < len(logs)
            out[to, 0] = logs[items[to]] - total / n if known else np.nan


@kernel
def similar(had, ends, last, neighbors, asked, start, stop, out):
    """What the newest distinct items that the user liked say of the candidate: the most, the sum, and the last one."""
    begins, had_items, weights, _, _ = had
    offsets, items = asked
    indptr, indices, data = neighbors
    n_items = len(indptr) - 1
    slots = table(widest_of(offsets, start, stop))
    voted = np.empty(last, dtype=np.int32)
    for row in range(start, stop):
        begin, end = offsets[row], offsets[row + 1]
        enter(slots, items, begin, end)
        mine = items[begin:end]
        n = 0
        out[begin:end] = 0.0
        at = ends[row] - 1
        while at >= begins[row] and n < last:
            item = had_items[at]
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
                place = slots[find(slots, mine, indices[spot])]
                if place >= 0:
                    to = begin + place
                    out[to, 0] = max(out[to, 0], data[spot])
                    out[to, 1] += data[spot]
                    if n == 1:
                        out[to, 2] = data[spot]
        if n == 0:
            out[begin:end] = np.nan


@kernel
def content(had, ends, last, rows, width, asked, start, stop, out):
    """Cosine of the candidate with the sum of the newest items that the user liked."""
    begins, had_items, weights, _, _ = had
    offsets, items = asked
    indptr, indices, data = rows
    n_items = len(indptr) - 1
    profile = np.zeros(width, dtype=np.float32)
    for row in range(start, stop):
        n, at = 0, ends[row] - 1
        while at >= begins[row] and n < last:
            item = had_items[at]
            if weights[at] > 0 and item < n_items and indptr[item + 1] > indptr[item]:
                n += 1
                for place in range(indptr[item], indptr[item + 1]):
                    profile[indices[place]] += data[place]
            at -= 1
        oldest = at + 1
        square = 0.0
        for again in range(oldest, ends[row]):  # the rows' products with their sum add up to its square
            item = had_items[again]
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
            item = had_items[again]
            if weights[again] > 0 and item < n_items:
                for place in range(indptr[item], indptr[item + 1]):
                    profile[indices[place]] = 0.0


@kernel
def widest_of(offsets, start, stop):
    """Candidates of the largest request of [start, stop)."""
    widest = 0
    for row in range(start, stop):
        widest = max(widest, offsets[row + 1] - offsets[row])
    return widest


@kernel
def enter(slots, items, begin, end):
    """Fill a hash table with the candidates of one request; it holds their places in it."""
    slots[:] = -1
    mine = items[begin:end]
    for place in range(end - begin):
        slots[find(slots, mine, mine[place])] = place
