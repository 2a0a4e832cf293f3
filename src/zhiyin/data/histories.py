"""Histories: the one input of every model. A user is what they have done, oldest event first."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.errors import DataError
from zhiyin.core.parallel import compiled
from zhiyin.data.ids import Ids, id_list

# What `Histories.matrix` makes of events.
HOW = ("binary", "weight", "count")


class Entries(NamedTuple):
    """Rows of a sparse matrix as the arrays of CSR: int32[n + 1], int32[m] ascending in each row, float32[m]."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray


@dataclasses.dataclass(frozen=True)
class Histories:
    """A batch of n ragged histories with m events in all.

    Parameters
    ----------
    offsets: int64[n + 1]; history r is events offsets[r]:offsets[r + 1], oldest first.
    items: int32[m], item codes.
    weights: float32[m], weight of each event (negative: a dislike; 0: seen, no signal).
    times: int64[m], microseconds UTC; zeros where the log has no times.
    kinds: uint8[m], codes of the event kinds.
    values: float32[m], ratings or quantities; NaN where none.
    now: int64[n], the moment each recommendation is for.
    users: int32[n], user codes, -1 for unknown users. Models use them for seeding only, never as knowledge;
        a user's links are the one exception (`models.social`), being known of the user and not in the history.
    features: optional frame of n rows, the users' own columns.
    """

    offsets: np.ndarray
    items: np.ndarray
    weights: np.ndarray
    times: np.ndarray
    kinds: np.ndarray
    values: np.ndarray
    now: np.ndarray
    users: np.ndarray
    features: pl.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64[n], the number of events of each history."""
        return np.diff(self.offsets)

    @functools.cached_property
    def positives(self) -> np.ndarray:
        """int64[n], events of each history with a positive weight."""
        if len(self) == 1:
            return np.array([np.count_nonzero(self.weights > 0)], dtype=np.int64)
        total = np.concatenate([[0], np.cumsum(self.weights > 0)])
        return total[self.offsets[1:]] - total[self.offsets[:-1]]

    @classmethod
    def of(
        cls,
        offsets: np.ndarray,
        items: np.ndarray,
        *,
        weights: np.ndarray | None = None,
        times: np.ndarray | None = None,
        kinds: np.ndarray | None = None,
        values: np.ndarray | None = None,
        now: np.ndarray | None = None,
        users: np.ndarray | None = None,
    ) -> Histories:
        """Histories from offsets and item codes; what is not given takes its neutral value."""
        n, m = len(offsets) - 1, len(items)
        offsets = np.ascontiguousarray(offsets, dtype=np.int64)
        times = np.zeros(m, np.int64) if times is None else times
        if now is None:
            now = np.zeros(n, np.int64)
            filled = offsets[1:] > offsets[:-1]
            now[filled] = times[offsets[1:][filled] - 1]
        return cls(
            offsets,
            np.ascontiguousarray(items, dtype=np.int32),
            np.ones(m, np.float32) if weights is None else weights,
            times,
            np.zeros(m, np.uint8) if kinds is None else kinds,
            np.full(m, np.nan, np.float32) if values is None else values,
            now,
            np.full(n, -1, np.int32) if users is None else users,
        )

    @classmethod
    def from_items(cls, histories: Iterable[Iterable[Any]] | Mapping[Any, Iterable[Any]], ids: Ids) -> Histories:
        """Histories of strangers, given as lists of raw item ids, oldest first. Unknown items are left out.

        >>> Histories.from_items([["a", "b"], []], Ids.of(pl.Series(["a", "b"]))).lengths.tolist()
        [2, 0]
        """
        lists = histories.values() if isinstance(histories, Mapping) else histories
        rows = [id_list(row) for row in lists]
        flat = ids.encode([item for row in rows for item in row])
        owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        is_known = flat >= 0
        counts = np.bincount(owner[is_known], minlength=len(rows))
        return cls.of(np.concatenate([[0], np.cumsum(counts)]), flat[is_known])

    def rows(self, start: int, stop: int) -> Histories:
        """Histories start..stop as views: nothing is copied but the offsets."""
        first, last = self.offsets[start], self.offsets[stop]
        events = slice(first, last)
        return Histories(
            self.offsets[start : stop + 1] - first,
            self.items[events],
            self.weights[events],
            self.times[events],
            self.kinds[events],
            self.values[events],
            self.now[start:stop],
            self.users[start:stop],
            None if self.features is None else self.features[start:stop],
        )

    def take(self, rows: np.ndarray, now: np.ndarray | int | None = None) -> Histories:
        """The histories of the given rows, copied; row -1 gives an empty one. `now` replaces the moments."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(self) == 0:
            return Histories.of(np.zeros(len(rows) + 1, np.int64), np.zeros(0, np.int32))
        if len(rows) == 1 and rows[0] >= 0 and now is None:
            return self._copy_of(int(rows[0]), rows)
        stranger = rows < 0
        safe = np.where(stranger, 0, rows)
        lengths = np.where(stranger, 0, self.offsets[safe + 1] - self.offsets[safe])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        picked = np.repeat(self.offsets[safe] - offsets[:-1], lengths) + np.arange(offsets[-1])
        moment = np.where(stranger, 0, self.now[safe]) if now is None else np.broadcast_to(now, len(rows))
        return Histories(
            offsets,
            self.items[picked],
            self.weights[picked],
            self.times[picked],
            self.kinds[picked],
            self.values[picked],
            moment.astype(np.int64),
            np.where(stranger, -1, self.users[safe]).astype(np.int32),
            None if self.features is None else _gather(self.features, rows),
        )

    def row(self, at: int) -> Histories:
        """One history, copied, as `take` gives it; -1: an empty one."""
        if at < 0 or len(self) == 0:
            return self.take(np.full(1, -1, dtype=np.int64))
        start, stop = int(self.offsets[at]), int(self.offsets[at + 1])
        return Histories(
            np.array([0, stop - start], dtype=np.int64),
            np.array(self.items[start:stop]),
            np.array(self.weights[start:stop]),
            np.array(self.times[start:stop]),
            np.array(self.kinds[start:stop]),
            np.array(self.values[start:stop]),
            np.array(self.now[at : at + 1]),
            np.array(self.users[at : at + 1]),
            None if self.features is None else self.features.slice(at, 1),
        )

    def at(self, now: int) -> Histories:
        """The same histories, each for the moment `now`, microseconds UTC."""
        moments = np.array([now] * (len(self.offsets) - 1), dtype=np.int64)
        return Histories(self.offsets, self.items, self.weights, self.times, self.kinds, self.values, moments,
                         self.users, self.features)  # fmt: skip

    def _copy_of(self, row: int, rows: np.ndarray) -> Histories:
        """`take` of one row that there is: each request takes one."""
        events = slice(self.offsets[row], self.offsets[row + 1])
        items = self.items[events].copy()
        return Histories(
            np.array([0, len(items)], dtype=np.int64),
            items,
            self.weights[events].copy(),
            self.times[events].copy(),
            self.kinds[events].copy(),
            self.values[events].copy(),
            self.now[row : row + 1].astype(np.int64),
            self.users[row : row + 1].astype(np.int32),
            None if self.features is None else _gather(self.features, rows),
        )

    def chunks(self, size: int) -> Iterator[tuple[int, Histories]]:
        """(start, batch) over the histories in order."""
        for start in range(0, len(self), size):
            yield start, self.rows(start, min(start + size, len(self)))

    def matrix(self, n_items: int, how: str = "binary") -> sparse.csr_matrix:
        """CSR float32[n, n_items], columns ascending, of the items that each history is in favour of.

        - "binary": 1 for the items whose last event with a weight other than 0 has a positive weight: a later dislike
          removes an item, a later view adds it again.
        - "count": for the same items, the number of events with a positive weight.
        - "weight": the summed weights where they are above 0: a dislike reduces what is before and after it.
        """
        if how not in HOW:
            raise DataError(f"matrix(how={how!r}) is not known", remedy="one of binary, weight, count")
        shape = (len(self), n_items)
        if len(self) == 1:
            indptr, columns, data = self.entries(n_items, how)
            return sparse.csr_matrix((data, columns, indptr), shape=shape)
        owner = np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)
        if how == "weight":
            selected, data = self.weights != 0, self.weights
        else:
            selected, data = self._is_positive(owner, n_items), np.ones(len(self.items), np.float32)
        total = sparse.csr_matrix(
            (data[selected], (owner[selected], self.items[selected])), shape=shape, dtype=np.float32
        )
        total.sum_duplicates()
        if how == "binary":
            total.data[:] = 1
        elif how == "weight":
            total.data = np.maximum(total.data, 0)
            if len(total.data) and total.data.min() == 0:
                total.eliminate_zeros()
        return total

    def _is_positive(self, owner: np.ndarray, n_items: int) -> np.ndarray:
        """bool[m]: whether an event has a positive weight, and the last weighted event of its item and history is no
        dislike. owner: int64[m], the history of each event."""
        is_positive = self.weights > 0
        disliked = np.flatnonzero(self.weights < 0)
        if not len(disliked):
            return is_positive
        # Pairs (history, item) with a dislike are few: only their events are sorted.
        pair = owner * n_items + self.items
        doubtful = np.flatnonzero((self.weights != 0) & np.isin(pair, np.unique(pair[disliked])))
        order = doubtful[np.argsort(pair[doubtful], kind="stable")]  # within a pair in the order of the history
        first = np.concatenate([[True], pair[order][1:] != pair[order][:-1]])
        last = np.concatenate([first[1:], [True]])
        taken_out = (self.weights[order[last]] < 0)[np.cumsum(first) - 1]
        is_positive[order[taken_out]] = False
        return is_positive

    def entries(self, n_items: int, how: str = "binary") -> Entries:
        """As `matrix`, its arrays alone: of one history in a tenth of the time, which each request pays."""
        if len(self) == 1 and how in HOW:
            return Entries(*_entries(self.items, self.weights, HOW.index(how)))
        matrix = self.matrix(n_items, how)
        return Entries(matrix.indptr, matrix.indices, matrix.data)


@compiled  # not `kernel`: sums as those of many rows
def entries_of(items, weights, method_code, columns, data):
    """`Histories.matrix` of one history, into arrays as long as the history; returns the number of entries.

    method_code: a place in HOW.
    """
    order = np.argsort(items, kind="mergesort")
    n_entries, at = 0, 0
    while at < len(order):
        item, total, events, last = items[order[at]], np.float32(0), 0, np.float32(0)
        while at < len(order) and items[order[at]] == item:
            weight = weights[order[at]]
            total += weight
            events += weight > 0
            if weight != 0:
                last = weight
            at += 1
        if (total if method_code == 1 else last) > 0:
            columns[n_entries] = item
            data[n_entries] = 1 if method_code == 0 else total if method_code == 1 else events
            n_entries += 1
    return n_entries


@compiled
def _entries(items, weights, method_code):
    """`entries_of` as the arrays of CSR."""
    columns, data = np.empty(len(items), dtype=np.int32), np.empty(len(items), dtype=np.float32)
    n_entries = entries_of(items, weights, method_code, columns, data)
    return np.array([0, n_entries], dtype=np.int32), columns[:n_entries], data[:n_entries]


def _gather(features: pl.DataFrame, rows: np.ndarray) -> pl.DataFrame:
    """Rows of a frame; row -1 is all null."""
    positions = pl.Series(rows)
    return features.select(pl.all().gather(positions.set(positions < 0, None)))
