"""ItemLog: the events of each item, oldest first, with cumulative counts, for the lookups of `asof`.

Each item has a segment in a pool of arrays. A full segment moves to the end of the pool with twice the capacity, so
that the amortized cost of an append does not depend on the size of the log. Reading during an append is not allowed:
`live_index` has two copies for that.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.parallel import kernel, read_only
from zhiyin.data.dataset import row_dtype, sort_order

# Slots of `ItemLog.table`, in the order of the arrays.
STARTS, COUNTS, TIMES, POSITIVE, VALUED, VALUE, KINDS, N_SLOTS = range(8)
_FIELDS = ("starts", "counts", "times", "positive", "valued", "value", "kinds")
_TYPES = (np.int64, np.int64, np.int64, np.int32, np.int32, np.float64, np.int32)
# Number of event kinds with counts of their own, the most frequent ones; the others count in the totals only.
MAX_COUNTED_KINDS = 8


@dataclasses.dataclass
class ItemLog:
    """Events by item and time.

    Parameters
    ----------
    starts, counts, room: int64[n_items]; item i has counts[i] events from position starts[i] on, and capacity room[i].
    times: int64[p], ascending within an item.
    positive: int32[p], number of events of positive weight up to and including this one; of length 0 where not counted.
    valued: int32[p], number of events with a value, cumulative as `positive`; of length 0 where not counted.
    value: float64[p], sum of the values, cumulative; of length 0 where not counted.
    kinds: int32[p, k], number of events of each kind, cumulative.
    used: number of positions in use, from the front of the pool.

    Attributes
    ----------
    table: the arrays at the slots of this module, for kernels; renewed by `append`.

    Cumulative counts begin anew with each item.
    """

    starts: np.ndarray
    counts: np.ndarray
    room: np.ndarray
    times: np.ndarray
    positive: np.ndarray
    valued: np.ndarray
    value: np.ndarray
    kinds: np.ndarray
    used: int
    table: ArrayTable = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._seal()

    @classmethod
    def empty(cls, n_items: int, *, signs: bool, values: bool, n_kinds: int) -> ItemLog:
        """A log without events. `signs`, `values`: whether positive events, and values, are counted."""
        return cls(
            np.zeros(n_items, np.int64),
            np.zeros(n_items, np.int64),
            np.zeros(n_items, np.int64),
            np.zeros(0, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.float64),
            np.zeros((0, n_kinds), np.int32),
            0,
        )._with_flags(signs, values)

    def _with_flags(self, signs: bool, values: bool) -> ItemLog:
        self.signs, self.values = signs, values
        return self

    @classmethod
    def of(
        cls,
        item: np.ndarray,
        time: np.ndarray,
        weight: np.ndarray,
        value: np.ndarray,
        kind: np.ndarray,
        n_items: int,
        *,
        signs: bool,
        values: bool,
        n_kinds: int,
    ) -> ItemLog:
        """The log of events in any order. `kind`: codes; those not below `n_kinds` are counted in the totals alone."""
        log = cls.empty(n_items, signs=signs, values=values, n_kinds=n_kinds)
        item, time, weight, value, kind = (read_only(part) for part in (item, time, weight, value, kind))
        order = sort_order(item, time, n_items)
        counts = np.bincount(item, minlength=n_items).astype(np.int64)
        log.starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)[:n_items]
        log.counts, log.room, log.used = counts, counts.copy(), len(item)
        log._allot(len(item))
        order = np.arange(len(item), dtype=row_dtype(len(item))) if order is None else order
        _total(log.starts, log.counts, order, time, weight, value, kind, *log._pool)
        log._seal()
        return log

    @property
    def n_items(self) -> int:
        return len(self.starts)

    @property
    def n_events(self) -> int:
        return int(self.counts.sum())

    @property
    def _pool(self) -> tuple[np.ndarray, ...]:
        return self.times, self.positive, self.valued, self.value, self.kinds

    def _allot(self, size: int) -> None:
        """Resize the pool to `size` positions, keeping those in use."""
        lengths = (size, size if self.signs else 0, *([size if self.values else 0] * 2), size)
        pool = []
        for old, length in zip(self._pool, lengths):
            new = np.zeros((length, *old.shape[1:]), old.dtype)
            new[: min(self.used, len(old), length)] = old[: min(self.used, length)]
            pool.append(new)
        self.times, self.positive, self.valued, self.value, self.kinds = pool

    def _seal(self) -> None:
        """Renew `table`, after the arrays were replaced."""
        self.table = ArrayTable(N_SLOTS)
        for slot, dtype, part in zip(range(N_SLOTS), _TYPES, (self.starts, self.counts, *self._pool), strict=True):
            setattr(self, _FIELDS[slot], self.table.put(slot, part, dtype))

    def copy(self) -> ItemLog:
        """The same events in arrays of its own."""
        log = copy.copy(self)
        for name in ("starts", "counts", "room", *_ARRAYS[1:]):
            setattr(log, name, np.array(getattr(self, name)))
        log._seal()
        return log

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(part.nbytes for part in (self.starts, self.counts, self.room, *self._pool))

    def append(
        self, item: np.ndarray, time: np.ndarray, weight: np.ndarray, value: np.ndarray, kind: np.ndarray
    ) -> None:
        """Add events in any order, late ones and those of new items included.

        Time is proportional to the new events and the later events of their items, plus a copy of the pool at each
        doubling. Not to be called while others read.
        """
        if not len(item):
            return
        n = max(self.n_items, int(item.max(initial=-1)) + 1)
        order = sort_order(item, time, n)
        if order is not None:
            item, time, weight, value, kind = (part[order] for part in (item, time, weight, value, kind))
        time, weight, value, kind = (read_only(part) for part in (time, weight, value, kind))
        begins = np.flatnonzero(np.diff(item, prepend=-1))
        changed, added = item[begins].astype(np.int64), np.diff(begins, append=len(item))
        if n > self.n_items:
            extra = np.zeros(n - self.n_items, np.int64)
            self.starts, self.counts, self.room = (
                np.concatenate([part, extra]) for part in (self.starts, self.counts, self.room)
            )
        needed = self.counts[changed] + added
        full = needed > self.room[changed]
        moved, capacities = changed[full], np.maximum(4, 2 * needed[full])
        end = self.used + int(capacities.sum())
        if end > len(self.times):
            self._allot(max(end, 2 * len(self.times), 1024))
        _move(self.starts, self.counts, self.room, moved, capacities, self.used, *self._pool)
        self.used = end
        _merge(self.starts, self.counts, changed, begins, added, time, weight, value, kind, *self._pool)
        self._seal()

    @classmethod
    def over(
        cls, counts: np.ndarray, pool: Mapping[str, np.ndarray], items: np.ndarray | None, *, signs: bool, values: bool
    ) -> ItemLog:
        """A log whose events lie at the front of these arrays, which it goes on writing to; they may have room behind.

        Parameters
        ----------
        counts: int64[n], events of each item, whose segments lie one behind the other.
        pool: by name, the arrays of the events as `state` gives them.
        items: int64[n], the item of each count where items have other codes now; None: 0, 1, 2, ...
        """
        begin = (np.cumsum(counts) - counts).astype(np.int64)
        used = int(counts.sum())
        if items is not None:
            n = int(items.max(initial=-1)) + 1
            (starts, begin), (moved, counts) = (np.zeros(n, np.int64), begin), (np.zeros(n, np.int64), counts)
            starts[items], moved[items] = begin, counts
            begin, counts = starts, moved
        log = cls(begin, counts.copy(), counts.copy(), **{name: pool[name] for name in _ARRAYS[1:]}, used=used)
        return log._with_flags(signs, values)

    def state(self) -> dict[str, Any]:
        """Arrays by name, without unused positions, and the flags."""
        compact = self._compact()
        state = {name: getattr(compact, name) for name in _ARRAYS}
        return state | {"signs": self.signs, "values": self.values}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ItemLog:
        """What `state` came from."""
        counts = state["counts"]
        starts = (np.cumsum(counts) - counts).astype(np.int64)
        pool = {name: state[name] for name in _ARRAYS[1:]}
        log = cls(starts, counts, counts, **pool, used=len(state["times"]))
        return log._with_flags(bool(state["signs"]), bool(state["values"]))

    def _compact(self) -> ItemLog:
        if self.used == len(self.times) == int(self.counts.sum()) and bool((np.diff(self.starts) >= 0).all()):
            return self
        begin = np.cumsum(self.counts) - self.counts
        places = np.repeat(self.starts - begin, self.counts) + np.arange(int(self.counts.sum()))
        pool = {name: part[places] if len(part) else part for name, part in zip(_ARRAYS[1:], self._pool, strict=True)}
        return ItemLog(begin, self.counts, self.counts, **pool, used=len(places))


_ARRAYS = ("counts", "times", "positive", "valued", "value", "kinds")


@kernel
def _total(starts, counts, order, time, weight, value, kind, times, positive, valued, values, kinds):
    """Fill the pool from events in the order given, which is by item and time."""
    n_kinds = kinds.shape[1]
    for item in range(len(starts)):
        for at in range(starts[item], starts[item] + counts[item]):
            row = order[at]
            first = at == starts[item]
            times[at] = time[row]
            if len(positive):
                positive[at] = (0 if first else positive[at - 1]) + (weight[row] > 0)
            if len(valued):
                has_value = not np.isnan(value[row])
                valued[at] = (0 if first else valued[at - 1]) + has_value
                values[at] = (0.0 if first else values[at - 1]) + (np.float64(value[row]) if has_value else 0.0)
            for k in range(n_kinds):
                kinds[at, k] = (0 if first else kinds[at - 1, k]) + (kind[row] == k)


@kernel
def _move(starts, counts, room, which, capacities, used, times, positive, valued, values, kinds):
    """Give items new segments from `used` on."""
    for number in range(len(which)):
        item = which[number]
        old, n = starts[item], counts[item]
        times[used : used + n] = times[old : old + n]
        if len(positive):
            positive[used : used + n] = positive[old : old + n]
        if len(valued):
            valued[used : used + n] = valued[old : old + n]
            values[used : used + n] = values[old : old + n]
        kinds[used : used + n] = kinds[old : old + n]
        starts[item] = used
        room[item] = capacities[number]
        used += capacities[number]


@kernel
def _merge(starts, counts, which, begins, added, time, weight, value, kind, times, positive, valued, values, kinds):
    """Merge events, sorted by item and time, into the segments of their items, from the newest backwards; equal times
    stand in the order they came in. A place that moves gains the totals of the new events that stand before it."""
    n_kinds = kinds.shape[1]
    each = np.zeros(n_kinds, dtype=np.int32)
    for number in range(len(which)):
        item, first, left = which[number], begins[number], added[number]
        begin = starts[item]
        old = begin + counts[item] - 1
        n_positive, n_valued = 0, 0
        each[:] = 0
        sums = np.zeros(left + 1, dtype=np.float64)  # of the first events: a sum is not taken apart again
        for row in range(first, first + left):
            n_positive += weight[row] > 0
            has_value = not np.isnan(value[row])
            n_valued += has_value
            sums[row - first + 1] = sums[row - first] + (np.float64(value[row]) if has_value else 0.0)
            if kind[row] < n_kinds:
                each[kind[row]] += 1
        to = old + left
        while left > 0:
            row = first + left - 1
            late = old >= begin and times[old] > time[row]
            times[to] = times[old] if late else time[row]
            if len(positive):
                positive[to] = (positive[old] if old >= begin else 0) + n_positive
            if len(valued):
                valued[to] = (valued[old] if old >= begin else 0) + n_valued
                values[to] = (values[old] if old >= begin else 0.0) + sums[left]
            for k in range(n_kinds):
                kinds[to, k] = (kinds[old, k] if old >= begin else 0) + each[k]
            to -= 1
            if late:
                old -= 1
            else:
                n_positive -= weight[row] > 0
                n_valued -= not np.isnan(value[row])
                if kind[row] < n_kinds:
                    each[kind[row]] -= 1
                left -= 1
        counts[item] += added[number]
