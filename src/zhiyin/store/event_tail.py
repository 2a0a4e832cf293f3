"""The index of the newest events of an SQLite store in the memory of one process: by user, by id and by list.

An index on the disk costs a page for every event that lies anywhere else than the one before. So events are only
appended to their table, this index tells where those of a user are, and `event_index.py` moves its content into the
indexes on the disk, many events at a time.

It holds hashes, not texts: 48 bytes an event. Two texts may have one hash, so whoever asks reads the rows and
compares.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

# Events of the newest segment, which is a hash table; older segments are sorted.
SEGMENT_EVENTS = 16_384
# Segments of one size are merged until they have so many events. Few are searched then, and not much is sorted again.
MAX_SEGMENT_EVENTS = 65_536
# What is indexed, in the order of the fields of `TailRow` after the sequence number.
Key = Literal[0, 1, 2]
USER: Key = 0
ID: Key = 1
LIST: Key = 2
KEYS: tuple[Key, ...] = (USER, ID, LIST)
# Sequence number, user, id and list of an event; and the same as hashes.
TailRow = tuple[int, str, str, str | None]
_HashRow = tuple[int, int, int, int | None]


class _SortedIndex:
    """Sequence numbers sorted by (hash, number)."""

    __slots__ = ("hashes", "seqs")

    def __init__(self, hashes: np.ndarray, seqs: np.ndarray) -> None:
        order = np.argsort(hashes, kind="stable")  # numbers of one hash stay in their order
        # `bisect` reads an element of `array` five times faster than one of NumPy.
        self.hashes, self.seqs = array("q", hashes[order].tobytes()), array("q", seqs[order].tobytes())

    def find(self, hash: int) -> Sequence[int]:
        start = bisect_left(self.hashes, hash)
        return self.seqs[start : bisect_right(self.hashes, hash, start)]

    def find_any(self, hashes: np.ndarray) -> np.ndarray:
        """Numbers of each of these hashes that are here. hashes: int64[n], sorted."""
        own = _numpy(self.hashes)
        starts = own.searchsorted(hashes)
        ends = own.searchsorted(hashes, "right")
        present = np.flatnonzero(starts < ends)
        parts = [self.seqs[starts[row] : ends[row]] for row in present]
        return np.array([seq for part in parts for seq in part], dtype=np.int64)


class _Segment:
    """A range of sequence numbers, sorted by each key."""

    __slots__ = ("indexes", "last", "n_events")

    def __init__(self, indexes: tuple[_SortedIndex, ...], n_events: int, last: int) -> None:
        self.indexes, self.n_events, self.last = indexes, n_events, last

    @classmethod
    def of_rows(cls, rows: Sequence[_HashRow]) -> _Segment:
        seqs, users, ids, lists = zip(*rows, strict=True)
        numbers = np.array(seqs, dtype=np.int64)
        of_list = [(value, seq) for value, seq in zip(lists, seqs, strict=True) if value is not None]
        named = np.array(of_list, dtype=np.int64).reshape(-1, 2)
        indexes = (
            _SortedIndex(np.array(users, dtype=np.int64), numbers),
            _SortedIndex(np.array(ids, dtype=np.int64), numbers),
            _SortedIndex(named[:, 0], named[:, 1]),
        )
        return cls(indexes, len(rows), int(seqs[-1]))

    def followed_by(self, other: _Segment) -> _Segment:
        merged = tuple(
            _SortedIndex(
                np.concatenate([_numpy(first.hashes), _numpy(second.hashes)]),
                np.concatenate([_numpy(first.seqs), _numpy(second.seqs)]),
            )
            for first, second in zip(self.indexes, other.indexes, strict=True)
        )
        return _Segment(merged, self.n_events + other.n_events, other.last)


class EventTail:
    """Sequence numbers of the events after `complete_after` up to `last`, by user, id and list. Thread-safe.

    Numbers that it gives may be those of events that were deleted since, or of another text with the same hash.
    """

    def __init__(self) -> None:
        self.complete_after = 0  # events up to here may be missing
        self.last = 0  # events up to here were added
        self._lock = threading.Lock()
        self._segments: list[_Segment] = []
        self._rows: list[_HashRow] = []  # of the newest segment
        self._newest: tuple[defaultdict[int, list[int]], ...] = _hash_tables()
        self._n_events = 0

    def __len__(self) -> int:
        return self._n_events

    def extend(self, rows: Sequence[TailRow]) -> None:
        """Add the events that follow, sorted by sequence number; those up to `last` are left out."""
        hashed: list[_HashRow] = [
            (seq, hash(user), hash(id), None if list_id is None else hash(list_id)) for seq, user, id, list_id in rows
        ]
        with self._lock:
            if hashed and hashed[0][0] <= self.last:
                hashed = [row for row in hashed if row[0] > self.last]
            if not hashed:
                return
            self.last = hashed[-1][0]
            while hashed:
                if not self._rows and len(hashed) >= SEGMENT_EVENTS:
                    self._add_segment(_Segment.of_rows(hashed[:SEGMENT_EVENTS]))
                    hashed = hashed[SEGMENT_EVENTS:]
                    continue
                part = hashed[: SEGMENT_EVENTS - len(self._rows)]
                hashed = hashed[len(part) :]
                self._add_to_newest(part)
                if len(self._rows) == SEGMENT_EVENTS:
                    full = self._rows
                    self._clear_newest()
                    self._add_segment(_Segment.of_rows(full))

    def _add_to_newest(self, rows: Sequence[_HashRow]) -> None:
        users, ids, lists = self._newest
        for seq, user, id, list_id in rows:
            users[user].append(seq)
            ids[id].append(seq)
            if list_id is not None:
                lists[list_id].append(seq)
        self._rows += rows
        self._n_events += len(rows)

    def _clear_newest(self) -> None:
        self._n_events -= len(self._rows)
        self._rows, self._newest = [], _hash_tables()

    def _add_segment(self, segment: _Segment) -> None:
        self._n_events += segment.n_events
        while self._segments and segment.n_events == self._segments[-1].n_events < MAX_SEGMENT_EVENTS:
            segment = self._segments.pop().followed_by(segment)
        self._segments.append(segment)

    def seqs_of(self, key: Key, text: str) -> list[int]:
        """Numbers of the events whose field may be this text, ascending."""
        value, found = hash(text), list[int]()
        with self._lock:
            for segment in self._segments:
                found += segment.indexes[key].find(value)
            found += self._newest[key].get(value, ())
        return found

    def seqs_of_any(self, key: Key, texts: Sequence[str]) -> list[int]:
        """As `seqs_of`, of any of these texts."""
        values, found = list(map(hash, texts)), list[int]()
        with self._lock:
            if self._segments:
                hashes = np.sort(np.array(values, dtype=np.int64))
                for segment in self._segments:
                    found += segment.indexes[key].find_any(hashes).tolist()
            newest = self._newest[key]
            for value in values:
                if value in newest:
                    found += newest[value]
        return sorted(set(found))

    def drop_until(self, mark: int) -> None:
        """Leave out segments whose events are all up to this number: the indexes on the disk have them."""
        with self._lock:
            while self._segments and self._segments[0].last <= mark:
                segment = self._segments.pop(0)
                self._n_events -= segment.n_events
                self.complete_after = segment.last
            if self.last <= mark and not self._segments:
                self._clear_newest()
                self.complete_after = self.last = mark


def _hash_tables() -> tuple[defaultdict[int, list[int]], ...]:
    return tuple(defaultdict[int, list[int]](list) for _ in KEYS)


def _numpy(numbers: array[int]) -> np.ndarray:
    return np.frombuffer(numbers, np.int64) if numbers else np.empty(0, np.int64)
