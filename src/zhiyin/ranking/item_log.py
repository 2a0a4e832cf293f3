"""ItemLog: the events of every item, oldest first, with running totals; what `asof` looks up.

Each item has a segment of one pool of arrays. A segment that is full moves to the end of the pool into twice the room
(as a growing list does), so that adding an event costs the same whatever the size of the log.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np

from zhiyin.core.parallel import kernel
from zhiyin.data.dataset import sort_order

# Kinds counted apart, the most frequent ones; the others are in the totals alone.
KINDS = 8


@dataclasses.dataclass
class ItemLog:
    """Events by item and time.

    Parameters
    ----------
    starts, counts, room: int64[n_items]; item i has counts[i] events from place starts[i] on, and room for room[i].
    times: int64[p], ascending within an item.
    positive: int32[p], events of the item worth more than nothing, up to and including this one; likewise valued:
        int32[p], those with a value; value: float64[p], the sum of the values; kinds: int32[p, k], events of each kind.
        Totals begin anew with each item, so that what lies before a moment does not depend on what comes after.
        Of length 0 where nothing is to be told: all events positive, none with a value, one kind only.
    used: places taken from the front of the pool.
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

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
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
        )._told(signs, values)

    def _told(self, signs: bool, values: bool) -> ItemLog:
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
        order = sort_order(item, time, n_items)
        counts = np.bincount(item, minlength=n_items).astype(np.int64)
        log.starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)[:n_items]
        log.counts, log.room, log.used = counts, counts.copy(), len(item)
        log._allot(len(item))
        order = np.arange(len(item), dtype=np.int64) if order is None else order
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
        """A pool of `size` places, the old one at its front."""
        lengths = (size, size if self.signs else 0, *([size if self.values else 0] * 2), size)
        fresh = []
        for old, length in zip(self._pool, lengths):
            new = np.zeros((length, *old.shape[1:]), old.dtype)
            new[: min(self.used, len(old), length)] = old[: min(self.used, length)]
            fresh.append(new)
        self.times, self.positive, self.valued, self.value, self.kinds = fresh

    def _seal(self) -> None:
        """The arrays as kernels take them: read-only, so that one compiled kernel serves mapped files as well."""
        self._arrays = tuple(sealed(part) for part in (self.starts, self.counts, *self._pool))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """starts, counts, times, positive, valued, value, kinds: a whole state of the log, also beside an `append`."""
        return self._arrays

    def append(
        self, item: np.ndarray, time: np.ndarray, weight: np.ndarray, value: np.ndarray, kind: np.ndarray
    ) -> None:
        """Add events in any order, late ones included; items not heard of so far are added too.

        Costs what the new events cost, now and then (each doubling) a copy of the pool. Others may read meanwhile: they
        see the log with some of the events or without; a late event may be half counted for an instant.
        """
        if not len(item):
            return
        with self._lock:
            n = max(self.n_items, int(item.max(initial=-1)) + 1)
            order = sort_order(item, time, n)
            if order is not None:
                item, time, weight, value, kind = (part[order] for part in (item, time, weight, value, kind))
            which, more = np.unique(item, return_counts=True)
            if n > self.n_items:
                extra = n - self.n_items
                self.starts, self.counts, self.room = (
                    np.concatenate([part, np.zeros(extra, np.int64)]) for part in (self.starts, self.counts, self.room)
                )
                self._seal()
            needed = self.counts[which] + more
            full = needed > self.room[which]
            which, rooms = which[full], np.maximum(4, 2 * needed[full])
            end = self.used + int(rooms.sum())
            if end > len(self.times):
                # Readers keep the old arrays: what they hold must not point beyond them.
                self.starts, self.counts, self.room = self.starts.copy(), self.counts.copy(), self.room.copy()
                self._allot(max(end, 2 * len(self.times), 1024))
            _move(self.starts, self.counts, self.room, which, rooms, self.used, *self._pool)
            self.used = end
            _insert(self.starts, self.counts, item, time, weight, value, kind, *self._pool)
            self._seal()

    def state(self) -> dict[str, Any]:
        """Arrays by name, without free places."""
        compact = self._compact()
        found = {name: getattr(compact, name) for name in _ARRAYS}
        return found | {"signs": self.signs, "values": self.values}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ItemLog:
        """What `state` came from."""
        counts = state["counts"]
        starts = (np.cumsum(counts) - counts).astype(np.int64)
        pool = {name: state[name] for name in _ARRAYS[1:]}
        log = cls(starts, counts, counts, **pool, used=len(state["times"]))
        return log._told(bool(state["signs"]), bool(state["values"]))

    def _compact(self) -> ItemLog:
        if self.used == len(self.times) == int(self.counts.sum()) and bool((np.diff(self.starts) >= 0).all()):
            return self
        begin = np.cumsum(self.counts) - self.counts
        places = np.repeat(self.starts - begin, self.counts) + np.arange(int(self.counts.sum()))
        pool = {name: part[places] if len(part) else part for name, part in zip(_ARRAYS[1:], self._pool, strict=True)}
        return ItemLog(begin, self.counts, self.counts, **pool, used=len(places))


_ARRAYS = ("counts", "times", "positive", "valued", "value", "kinds")


def sealed(array: np.ndarray) -> np.ndarray:
    """The array, contiguous and read-only: a kernel is compiled once for it, whoever owns the memory."""
    found = np.ascontiguousarray(array).view()
    found.flags.writeable = False
    return found


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
                there = not np.isnan(value[row])
                valued[at] = (0 if first else valued[at - 1]) + there
                values[at] = (0.0 if first else values[at - 1]) + (np.float64(value[row]) if there else 0.0)
            for k in range(n_kinds):
                kinds[at, k] = (0 if first else kinds[at - 1, k]) + (kind[row] == k)


@kernel
def _move(starts, counts, room, which, rooms, used, times, positive, valued, values, kinds):
    """Give items new segments from `used` on; the old ones stay as they are for who is reading them."""
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
        room[item] = rooms[number]
        used += rooms[number]


@kernel
def _insert(starts, counts, item, time, weight, value, kind, times, positive, valued, values, kinds):
    """Put events, sorted by item and time, where they belong; equal times stand in the order they came in."""
    n_kinds = kinds.shape[1]
    for row in range(len(item)):
        begin = starts[item[row]]
        at = begin + counts[item[row]]
        good, there = weight[row] > 0, not np.isnan(value[row])
        worth = np.float64(value[row]) if there else 0.0
        while at > begin and times[at - 1] > time[row]:  # a late event: the later ones move on by a place
            times[at] = times[at - 1]
            if len(positive):
                positive[at] = positive[at - 1] + good
            if len(valued):
                valued[at] = valued[at - 1] + there
                values[at] = values[at - 1] + worth
            for k in range(n_kinds):
                kinds[at, k] = kinds[at - 1, k] + (kind[row] == k)
            at -= 1
        first = at == begin
        times[at] = time[row]
        if len(positive):
            positive[at] = (0 if first else positive[at - 1]) + good
        if len(valued):
            valued[at] = (0 if first else valued[at - 1]) + there
            values[at] = (0.0 if first else values[at - 1]) + worth
        for k in range(n_kinds):
            kinds[at, k] = (0 if first else kinds[at - 1, k]) + (kind[row] == k)
        counts[item[row]] += 1
