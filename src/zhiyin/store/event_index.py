"""The indexes of events in an SQLite store: tables on the disk up to a mark, and this process's `EventTail` after it.

A B-tree that is sorted by user costs a page of the disk for each event that is entered alone, and at 10 million events
it is a page of 4 KiB for 100 bytes. So an event is appended to its table only, and `merge_step` enters a few hundred
thousand at a time into the indexes, sorted as these are: several events share each page that is written.

An index on the disk holds every event up to the mark (`EVENTS_INDEXED` in `meta`), and may hold later ones of a merge
that has not ended: readers take no notice of these. Entering an event twice changes nothing, so a merge may end at any
point, such as by a kill, and begin again in any process. A trigger deletes the entries of an event with its row.

All methods take a connection of the `sqlite3` module in a transaction, and see the state of that transaction.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.store.event_tail import ID, LIST, USER, EventTail, Key
from zhiyin.store.records import EVENT_FIELDS
from zhiyin.store.tables import EVENT_IDS, EVENT_LISTS, EVENTS_INDEXED, EVENTS_OF_USER

if TYPE_CHECKING:
    import polars as pl

# Rows that are read at once into the tail; from how many on columns are read, which takes compiled code.
ROWS_PER_FETCH, MIN_COLUMN_ROWS = 50_000, 20_000
_names = ", ".join(f'"{name}"' for name in EVENT_FIELDS)
_STATE = f"""
    SELECT (SELECT CAST(value AS INTEGER) FROM meta WHERE key = '{EVENTS_INDEXED}'), (SELECT max(seq) FROM events)
"""
_ROWS_AFTER = 'SELECT seq, "user", id, list_id FROM events WHERE seq > ? AND seq <= ? ORDER BY seq'
_COLUMNS_AFTER = {"seq": "integer", "user": "text", "id": "text", "list_id": "text"}
_COLUMNS: dict[Key, str] = {USER: '"user"', ID: "id", LIST: "list_id"}
_TABLES: dict[Key, str] = {USER: EVENTS_OF_USER.name, ID: EVENT_IDS.name, LIST: EVENT_LISTS.name}
NEWEST_INDEXED = f"""
    SELECT {_names} FROM {EVENTS_OF_USER.name} WHERE "user" = ? AND seq > ? AND seq <= ? ORDER BY seq DESC LIMIT ?
"""
# A statement is prepared once for each number of values: these add up to any number in few steps.
_MARKS = {size: ", ".join("?" * size) for size in (500, 100, 10, 1)}
_USER_FIELD = EVENT_FIELDS.index("user")


class EventIndex:
    """Finds events by user, id and list in the SQLite file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path, self.tail = path, EventTail()
        self._catching_up, self._mark = threading.Lock(), 0

    @property
    def mark(self) -> int:
        """The mark, as far as this process knows."""
        return self._mark

    @property
    def n_after_mark(self) -> int:
        """How many events, as far as this process knows, follow the mark."""
        return max(0, self.tail.last - self._mark)

    def catch_up(self, connection: sqlite3.Connection) -> int:
        """Add the events that the tail does not have yet. Returns the mark of this transaction's state."""
        mark, highest = connection.execute(_STATE).fetchone()
        mark, highest, tail = int(mark or 0), int(highest or 0), self.tail
        if mark > self._mark:
            self._mark = mark
            tail.drop_until(mark)
        if highest > tail.last:
            with self._catching_up:
                if highest > tail.last:
                    self._read_columns(highest)
                    rows = connection.execute(_ROWS_AFTER, (tail.last, highest))
                    while part := rows.fetchmany(ROWS_PER_FETCH):
                        tail.extend(part)
        return mark

    def _read_columns(self, highest: int) -> None:
        """Add many events to the tail. What is left is read as rows: few events, or all where columns cannot be read.

        The columns are of a later state than the caller's transaction: an event that is missing was deleted since.
        """
        tail = self.tail
        while highest - tail.last >= MIN_COLUMN_ROWS:
            columns = event_columns(self.path, _COLUMNS_AFTER, tail.last, highest, ROWS_PER_FETCH)
            if columns is None or not len(columns["seq"]):
                return
            lists = columns["list_id"]
            tail.extend_columns(
                columns["seq"].to_numpy(), columns["user"].to_list(), columns["id"].to_list(),
                lists.to_list() if lists.null_count() < len(lists) else (),
            )  # fmt: skip
        while tail.compact():
            pass

    def seqs(self, connection: sqlite3.Connection, key: Key, texts: Sequence[str]) -> list[int]:
        """Numbers of the events whose field is one of these texts, ascending."""
        mark, found, column = self.catch_up(connection), list[int](), _COLUMNS[key]
        for part in _chunks(texts):
            query = f"SELECT seq FROM {_TABLES[key]} WHERE {column} IN ({_marks(part)}) AND seq <= ?"
            found += [seq for (seq,) in connection.execute(query, (*part, mark))]
        wanted, candidates = set(texts), self._candidates(connection, key, texts, mark)
        found += [seq for seq, text in _rows(connection, candidates, f"seq, {column}") if text in wanted]
        return sorted(found)

    def history(self, connection: sqlite3.Connection, user: str, limit: int, after: int = 0) -> list[tuple[Any, ...]]:
        """Rows (EVENT_FIELDS) of the events of a user that arrived last, in no particular order.

        after: sequence number; events up to it are left out.
        """
        mark, rows = self.catch_up(connection), list[tuple[Any, ...]]()
        candidates = self._candidates(connection, USER, [user], max(mark, after))
        while candidates and len(rows) < limit:  # the newest first: some may be of another user, or deleted
            n = limit - len(rows)
            rows += [row for row in _rows(connection, candidates[-n:], _names) if row[_USER_FIELD] == user]
            del candidates[-n:]
        if len(rows) < limit and after < mark:
            rows += connection.execute(NEWEST_INDEXED, (user, after, mark, limit - len(rows)))
        return rows

    def stored_ids(self, connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
        """Which of these ids events have."""
        self.catch_up(connection)
        found: set[str] = set()
        for part in _chunks(ids):
            query = f"SELECT id FROM {EVENT_IDS.name} WHERE id IN ({_marks(part)})"
            found.update(id for (id,) in connection.execute(query, part))
        if candidates := self.tail.seqs_of_any(ID, ids):
            found.update({id for (id,) in _rows(connection, candidates, "id")}.intersection(ids))
        return found

    def _candidates(self, connection: sqlite3.Connection, key: Key, texts: Sequence[str], after: int) -> list[int]:
        """Numbers, ascending, of the events after the mark (or a later number) that may have one of these texts."""
        tail = self.tail
        seqs = tail.seqs_of(key, texts[0]) if len(texts) == 1 else tail.seqs_of_any(key, texts)
        seqs = [seq for seq in seqs if seq > after]
        complete_after = tail.complete_after  # read behind the numbers: it only grows
        if after < complete_after:  # the state of this transaction is older than what the tail has left to the disk
            for part in _chunks(texts):
                query = f"SELECT seq FROM events WHERE seq > ? AND seq <= ? AND {_COLUMNS[key]} IN ({_marks(part)})"
                seqs += [seq for (seq,) in connection.execute(query, (after, complete_after, *part))]
            seqs = sorted(set(seqs))
        return seqs


def event_columns(
    path: Path, columns: Mapping[str, str], after: int, until: int, n_rows: int
) -> dict[str, pl.Series] | None:
    """Columns of at most so many events in (after, until], in the order of arrival; None: read rows instead.

    columns: the type of each, as `read_columns` takes them.
    """
    from zhiyin.store.sqlite_columns import read_columns

    names = ", ".join(f'"{name}"' for name in columns)
    statement = f"SELECT {names} FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
    return read_columns(path, statement, (after, until, n_rows), columns, n_rows)


def _rows(connection: sqlite3.Connection, seqs: Sequence[int], columns: str) -> list[tuple[Any, ...]]:
    """Columns of the events of these numbers that exist."""
    rows: list[tuple[Any, ...]] = []
    for part in _chunks(seqs):
        rows += connection.execute(f"SELECT {columns} FROM events WHERE seq IN ({_marks(part)})", part).fetchall()
    return rows


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    start = 0
    for size in _MARKS:
        while len(values) - start >= size:
            yield values[start : start + size]
            start += size


def _marks(values: Sequence[Any]) -> str:
    return _MARKS[len(values)]
