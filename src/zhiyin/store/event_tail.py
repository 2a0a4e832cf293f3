"""The index of the newest events of an SQLite store in the memory of one process: by user, by id and by list.

An index on the disk costs a page for every event that lies anywhere else than the one before. So events are only
appended to their table, this index tells where those of a user are, and `event_index.py` moves its content into the
indexes on the disk, many events at a time.

It holds hashes, not texts: 24 bytes an event, 36 where it names a list. Two texts may have one hash, so whoever asks
reads the rows and compares.
"""

from __future__ import annotations

import operator
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

# Events of the newest segment, which is a hash table; older segments are sorted.
SEGMENT_EVENTS = 16_384
# Segments are merged as they come until they have so many events, which holds up readers for a moment, and larger ones
# by `EventTail.compact`, in the background. So few are searched, and not much is sorted again.
MAX_SEGMENT_EVENTS = 65_536
# As many neighbours as become one in the background.
COMPACTED_SEGMENTS = 4
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
    """Sequence numbers sorted by (hash, number): each is `base` and a small number."""

    __slots__ = ("base", "hashes", "offsets")

    def __init__(self, base: int, hashes: np.ndarray, offsets: np.ndarray) -> None:
        order = np.argsort(hashes, kind="stable")  # numbers of one hash stay in their order
        # `bisect` reads an element of `array` five times faster than one of NumPy.
        self.base, self.hashes = base, array("q", hashes[order].tobytes())
        self.offsets = array("I", offsets[order].astype(np.uint32).tobytes())

    def find(self, hash: int) -> list[int]:
        start = bisect_left(self.hashes, hash)
        if start == len(self.hashes) or self.hashes[start] != hash:
            return []
        return [self.base + offset for offset in self.offsets[start : bisect_right(self.hashes, hash, start)]]

    def find_any(self, hashes: np.ndarray) -> list[int]:
        """Numbers of each of these hashes that are here. hashes: int64[n], sorted."""
        own = _numpy(self.hashes, np.int64)
        if not len(own):
            return []
        present = own[np.minimum(own.searchsorted(hashes), len(own) - 1)] == hashes
        return [seq for hash in hashes[present].tolist() for seq in self.find(hash)]

    def after(self, mark: int) -> _SortedIndex:
        """Numbers above a mark, which is `base` or more."""
        hashes, offsets = _numpy(self.hashes, np.int64), _numpy(self.offsets, np.uint32)
        kept = offsets > mark - self.base
        return _SortedIndex(self.base, hashes[kept], offsets[kept])

    def followed_by(self, others: Sequence[_SortedIndex]) -> _SortedIndex:
        parts = (self, *others)
        hashes = np.concatenate([_numpy(part.hashes, np.int64) for part in parts])
        offsets = np.concatenate([_numpy(part.offsets, np.uint32) + np.int64(part.base - self.base) for part in parts])
        return _SortedIndex(self.base, hashes, offsets)


class _Segment:
    """A range of sequence numbers, sorted by each key."""

    __slots__ = ("indexes", "last", "n_events")

    def __init__(self, indexes: tuple[_SortedIndex, ...], n_events: int, last: int) -> None:
        self.indexes, self.n_events, self.last = indexes, n_events, last

    @classmethod
    def of_rows(cls, rows: Sequence[_HashRow]) -> _Segment:
        seqs, users, ids, lists = zip(*rows, strict=True)
        named = [(value, seq) for value, seq in zip(lists, seqs, strict=True) if value is not None]
        numbers, user_hashes, id_hashes = (np.array(column, dtype=np.int64) for column in (seqs, users, ids))
        return cls.of_columns(numbers, user_hashes, id_hashes, np.array(named, dtype=np.int64).reshape(-1, 2))

    @classmethod
    def of_columns(cls, seqs: np.ndarray, users: np.ndarray, ids: np.ndarray, named: np.ndarray) -> _Segment:
        """seqs: int64[n], ascending; users, ids: int64[n], hashes; named: int64[m, 2], hash of a list and number."""
        base = int(seqs[0])
        indexes = (
            _SortedIndex(base, users, seqs - base),
            _SortedIndex(base, ids, seqs - base),
            _SortedIndex(base, named[:, 0], named[:, 1] - base),
        )
        return cls(indexes, len(seqs), int(seqs[-1]))

    def after(self, mark: int) -> _Segment:
        indexes = tuple(index.after(mark) for index in self.indexes)
        return _Segment(indexes, len(indexes[ID].hashes), self.last)

    def followed_by(self, *others: _Segment) -> _Segment:
        merged = tuple(
            index.followed_by([other.indexes[key] for other in others]) for key, index in enumerate(self.indexes)
        )
        return _Segment(merged, sum(part.n_events for part in (self, *others)), others[-1].last)


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

    def extend_columns(
        self, seqs: np.ndarray, users: Sequence[str], ids: Sequence[str], lists: Sequence[str | None]
    ) -> None:
        """As `extend`, of many events, n of each: faster, since they are sorted at once.

        seqs: int64[n], ascending; lists: none where no event names one.
        """
        n, named = len(seqs), _named_lists(seqs, lists)
        user_hashes, id_hashes = (np.fromiter(map(hash, texts), np.int64, n) for texts in (users, ids))
        with self._lock:
            start = int(np.searchsorted(seqs, self.last, "right"))
            if start == n:
                return
            if self._rows:
                newest = self._rows
                self._clear_newest()
                self._add_segment(_Segment.of_rows(newest))
            named = named[named[:, 1] > self.last]
            self._add_segment(_Segment.of_columns(seqs[start:], user_hashes[start:], id_hashes[start:], named))
            self.last = int(seqs[-1])

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
        while (
            self._segments
            and self._segments[-1].n_events <= segment.n_events
            and self._segments[-1].n_events + segment.n_events <= MAX_SEGMENT_EVENTS
        ):
            segment = self._segments.pop().followed_by(segment)
        self._segments.append(segment)

    @property
    def is_compactable(self) -> bool:
        """Whether `compact` has something to do."""
        return bool(self._compactable())

    def _compactable(self) -> list[_Segment]:
        """Some neighbours that are large and alike, the newest of them."""
        with self._lock:
            segments = list(self._segments)
        for end in range(len(segments), COMPACTED_SEGMENTS - 1, -1):
            parts = segments[end - COMPACTED_SEGMENTS : end]
            sizes = [part.n_events for part in parts]
            if min(sizes) > MAX_SEGMENT_EVENTS // 2 and max(sizes) < 2 * min(sizes):
                return parts
        return []

    def compact(self) -> bool:
        """Make one of some large neighbours. Returns whether there were any; takes a moment, in which readers go on."""
        parts = self._compactable()
        if not parts:
            return False
        compacted = parts[0].followed_by(*parts[1:])
        with self._lock:
            for start in range(len(self._segments) - COMPACTED_SEGMENTS + 1):
                present = self._segments[start : start + COMPACTED_SEGMENTS]
                if all(map(operator.is_, present, parts)):  # else some were left to the disk meanwhile
                    self._segments[start : start + COMPACTED_SEGMENTS] = [compacted]
                    break
        return True

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
                    found += segment.indexes[key].find_any(hashes)
            newest = self._newest[key]
            for value in values:
                if value in newest:
                    found += newest[value]
        return sorted(set(found))

    def drop_until(self, mark: int) -> None:
        """Leave out events up to this number, but for some of the newest: the indexes on the disk have them."""
        with self._lock:
            while self._segments and self._segments[0].last <= mark:
                segment = self._segments.pop(0)
                self._n_events -= segment.n_events
                self.complete_after = segment.last
            if self._segments and mark > self.complete_after:
                kept = self._segments[0].after(mark)
                self._n_events -= self._segments[0].n_events - kept.n_events
                self._segments[0], self.complete_after = kept, mark
            if self.last <= mark and not self._segments:
                self._clear_newest()
                self.complete_after = self.last = mark


def _hash_tables() -> tuple[defaultdict[int, list[int]], ...]:
    return tuple(defaultdict[int, list[int]](list) for _ in KEYS)


def _named_lists(seqs: np.ndarray, lists: Sequence[str | None]) -> np.ndarray:
    """int64[m, 2]: hash of the list and number of each event that names one."""
    rows = [row for row, list_id in enumerate(lists) if list_id is not None]
    hashes = np.array([hash(list_id) for list_id in lists if list_id is not None], dtype=np.int64)
    return np.column_stack([hashes, seqs[rows]]) if rows else np.empty((0, 2), dtype=np.int64)


def _numpy(numbers: array[int], dtype: type) -> np.ndarray:
    return np.frombuffer(numbers, dtype) if numbers else np.empty(0, dtype)
