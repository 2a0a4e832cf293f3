"""The log of events: appended in transactions, read by user or in the order of arrival, dropped by age."""

from __future__ import annotations

import functools
import operator
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.store.database import Database
from zhiyin.store.event_index import event_columns
from zhiyin.store.event_tail import LIST, USER
from zhiyin.store.records import (
    EVENT_FIELD_TYPES,
    EVENT_FIELDS,
    STORED_EVENT_FIELDS,
    Event,
    events_from_rows,
    hash_of,
)
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.tables import EVENTS, HIGHEST_SEQ, ROWS_PER_STATEMENT

MAX_EVENTS_PER_TRANSACTION = 10_000
# Events from which on a frame is read as columns by compiled code.
MIN_COLUMN_ROWS = 5_000
# Types of the columns of `events` in frames.
_FRAME_TYPES = {"text": pl.String, "integer": pl.Int64, "number": pl.Float64}
EVENT_FRAME = {
    "seq": pl.Int64,
    **{name: _FRAME_TYPES[EVENT_FIELD_TYPES[name]] for name in STORED_EVENT_FIELDS},
    "received": pl.Int64,
}
_event_fields = operator.attrgetter(*STORED_EVENT_FIELDS)
_event_columns = [EVENTS.c[name] for name in EVENT_FIELDS]
_by_time = operator.itemgetter(EVENT_FIELDS.index("time"), EVENT_FIELDS.index("seq"))
# Fixed statements; see `Database.fetch`. PostgreSQL: the newest events of a user.
NEWEST_EVENTS_OF_USER = (
    sa.select(*_event_columns)
    .where(EVENTS.c.user == sa.bindparam("user_id"))
    .order_by(EVENTS.c.seq.desc())
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
# PostgreSQL: when a user was forgotten, and the events that came last, both of one state of the database.
_names = ", ".join(f'"{name}"' for name in EVENT_FIELDS)
_RECENT_EVENTS = sa.text(f"""
    SELECT f.received, e.* FROM (SELECT (SELECT received FROM forgotten WHERE hash = :hash) AS received) AS f
    LEFT JOIN (SELECT {_names} FROM events WHERE "user" = :user_id AND seq > :after ORDER BY seq DESC LIMIT :limit) AS e
    ON TRUE ORDER BY e.time, e.seq
""")
_FORGOTTEN_AT = "SELECT received FROM forgotten WHERE hash = ?"
_LAST_SEQ = sa.select(sa.func.coalesce(sa.func.max(EVENTS.c.seq), 0))
# PostgreSQL: any number of rows by a statement whose text is always the same.
_stored_names = ", ".join(f'"{name}"' for name in STORED_EVENT_FIELDS)
_ARRAY_TYPES = {"text": "text[]", "integer": "bigint[]", "number": "float8[]"}
_arrays = ", ".join(f"%s::{_ARRAY_TYPES[EVENT_FIELD_TYPES[name]]}" for name in STORED_EVENT_FIELDS)
_INSERT_BY_UNNEST = f"""
    INSERT INTO events ({_stored_names}, received)
    SELECT {_stored_names}, %s::bigint
    FROM unnest({_arrays})
    WITH ORDINALITY AS t({_stored_names}, row_number) ORDER BY row_number
    ON CONFLICT (id) DO NOTHING RETURNING id, seq
"""


@functools.cache
def _page_of_events(names: tuple[str, ...]) -> Any:
    """The statement of `EventLog.events`, one for each choice of columns."""
    after, limit = sa.bindparam("after", type_=sa.BigInteger), sa.bindparam("limit", type_=sa.Integer)
    return (
        sa.select(*(EVENTS.c[name] for name in names)).where(EVENTS.c.seq > after).order_by(EVENTS.c.seq).limit(limit)
    )


class EventLog(Database):
    """Events in a database. They are only ever added, and deleted by age or with their user."""

    def load_tail(self) -> None:
        """SQLite: read the newest events into the index of this process now, not when the first question needs it."""
        if self._fast_path is not None:
            with self._fast_path.reading() as connection:
                self._fast_path.index.catch_up(connection)

    def merge_events(self) -> int:
        """SQLite: enter all events into the indexes on the disk. Returns the number of entries.

        A store that takes many events does this beside. Returns early where another process merges already.
        """
        return 0 if self._merge is None else self._merge.run()

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Validate events and commit them in one transaction. Returns whether each is new.

        Of one id only the first event is stored. Raises DataError for an event that is not valid, or for more than
        MAX_EVENTS_PER_TRANSACTION; nothing is stored then.
        """
        if len(events) > MAX_EVENTS_PER_TRANSACTION:
            raise DataError(f"{len(events):,} events at once", remedy=f"at most {MAX_EVENTS_PER_TRANSACTION:,}")
        now = self.clock()
        return [seq > 0 for seq in self.append_validated([event.validated(now) for event in events])]

    def append_validated(self, events: Sequence[Event]) -> list[int]:
        """As `append`, of events that `Event.validated` gave. Returns sequence numbers; 0: the id was stored before."""
        now = self.clock()
        first_rows: dict[str, int] = {}
        for row, event in enumerate(events):
            first_rows.setdefault(event.id, row)
        if not first_rows:
            return []
        distinct = list(events) if len(first_rows) == len(events) else [events[row] for row in first_rows.values()]
        if self._fast_path is not None:
            assert self._merge is not None
            seq_by_id = self._fast_path.insert_events(distinct, now)
            self._merge.after_append(len(seq_by_id))
        else:
            seq_by_id = self._insert_by_unnest(distinct, now)
        return [seq_by_id.get(event.id, 0) if first_rows[event.id] == row else 0 for row, event in enumerate(events)]

    def _insert_by_unnest(self, events: Sequence[Event], received: int) -> dict[str, int]:
        """As `SqliteFastPath.insert_events`, in PostgreSQL."""
        columns: list[list[Any]] = [list(column) for column in zip(*map(_event_fields, events), strict=True)]
        for place, name in enumerate(STORED_EVENT_FIELDS):
            if EVENT_FIELD_TYPES[name] == "number":
                columns[place] = [None if number is None else float(number) for number in columns[place]]
        with self.writing() as connection:
            rows = connection.exec_driver_sql(_INSERT_BY_UNNEST, (received, *columns))
            return {row.id: int(row.seq) for row in rows}

    def history(self, user: str, limit: int = 1_000) -> list[Event]:
        """The events of a user that arrived last, sorted by time; those of one time in the order of arrival."""
        if self._fast_path is None:
            rows = self.fetch(NEWEST_EVENTS_OF_USER, user_id=user, limit=limit)
        else:
            with self._fast_path.reading() as connection:
                rows = self._fast_path.index.history(connection, user, limit)
        return events_from_rows(sorted(rows, key=_by_time))

    def recent_events(self, user: str, limit: int = 1_000, after: int = 0) -> tuple[list[Event], int]:
        """`history` and `forgotten_at` of a user, both of one state of the database.

        after: sequence number; events up to it are left out.
        """
        if self._fast_path is not None:
            with self._fast_path.reading() as connection:
                forgotten = connection.execute(_FORGOTTEN_AT, (hash_of(user),)).fetchone()
                own_rows = self._fast_path.index.history(connection, user, limit, after)
            return events_from_rows(sorted(own_rows, key=_by_time)), int((forgotten and forgotten[0]) or 0)
        rows = self.fetch(_RECENT_EVENTS, hash=hash_of(user), user_id=user, limit=limit, after=after)
        return events_from_rows(row[1:] for row in rows if row[1] is not None), int(rows[0][0] or 0)

    def events(self, after: int = 0, limit: int = 100_000, names: Sequence[str] = tuple(EVENT_FRAME)) -> pl.DataFrame:
        """Events in the order of arrival, from the one after a sequence number on: a frame with these columns."""
        if self.path is not None and limit >= MIN_COLUMN_ROWS:
            last_seq = self.last_seq
            n_rows = min(limit, last_seq - after)
            if n_rows >= MIN_COLUMN_ROWS:
                types = {name: EVENT_FIELD_TYPES.get(name, "integer") for name in names}
                columns = event_columns(self.path, types, after, last_seq, n_rows)
                if columns is not None:
                    return pl.DataFrame(columns)
        rows = self.fetch(_page_of_events(tuple(names)), after=after, limit=limit)
        return pl.DataFrame(rows, schema={name: EVENT_FRAME[name] for name in names}, orient="row")

    def events_by_seq(self, seqs: Sequence[int], names: Sequence[str] = tuple(EVENT_FRAME)) -> pl.DataFrame:
        """The events of these sequence numbers that exist, as `events` gives them."""
        rows: list[Any] = []
        columns = [EVENTS.c[name] for name in names]
        with self.reading() as connection:
            for start in range(0, len(seqs), ROWS_PER_STATEMENT):
                part = [int(seq) for seq in seqs[start : start + ROWS_PER_STATEMENT]]
                query = sa.select(*columns).where(EVENTS.c.seq.in_(part)).order_by(EVENTS.c.seq)
                rows += connection.execute(query).all()
        return pl.DataFrame(rows, schema={name: EVENT_FRAME[name] for name in names}, orient="row")

    def event_batches(self, after: int = 0, size: int = 100_000) -> Iterator[pl.DataFrame]:
        """All events after a sequence number, in frames of at most `size`."""
        while len(part := self.events(after, size)):
            yield part
            after = int(part["seq"][-1])

    def events_of_list(self, list_id: str) -> list[Event]:
        """The events that name a list, in the order of arrival."""
        with self.reading() as connection:
            return events_from_rows(self.select_events(connection, EVENT_FIELDS, "list_id", [list_id]))

    def event_seqs(self, connection: Any, field: Literal["user", "list_id"], values: Sequence[str]) -> list[int]:
        """The sequence numbers of the events whose field is one of these values, ascending, within a transaction."""
        if self._fast_path is not None:
            raw: sqlite3.Connection = connection.connection.driver_connection
            return self._fast_path.index.seqs(raw, USER if field == "user" else LIST, values)
        seqs: list[int] = []
        for start in range(0, len(values), ROWS_PER_STATEMENT):
            part = values[start : start + ROWS_PER_STATEMENT]
            seqs += connection.execute(sa.select(EVENTS.c.seq).where(EVENTS.c[field].in_(part))).scalars()
        return sorted(seqs)

    def select_events(
        self, connection: Any, names: Sequence[str], field: Literal["user", "list_id"], values: Sequence[str],
        condition: Any = None,
    ) -> list[Any]:  # fmt: skip
        """Columns of the events whose field is one of these values, in the order of arrival, within a transaction.

        condition: on other columns of EVENTS; None: none.
        """
        rows, seqs = list[Any](), self.event_seqs(connection, field, values)
        for start in range(0, len(seqs), ROWS_PER_STATEMENT):
            query = sa.select(*(EVENTS.c[name] for name in names)).order_by(EVENTS.c.seq)
            query = query.where(EVENTS.c.seq.in_(seqs[start : start + ROWS_PER_STATEMENT]))
            rows += connection.execute(query if condition is None else query.where(condition)).all()
        return rows

    @property
    def last_seq(self) -> int:
        """The sequence number of the last event; 0 where there is none."""
        return int(self.fetch(_LAST_SEQ)[0][0])

    @property
    def highest_seq(self) -> int:
        """The highest sequence number that was ever given to an event, also to a deleted one; 0: none was."""
        return int(self.fetch(HIGHEST_SEQ[self.dialect])[0][0])

    def oldest_seq(self, until: int) -> int:
        """The sequence number of the oldest event by time among those up to a number; 0 where there is none. Events
        that are deleted for their age go in this order."""
        query = sa.select(EVENTS.c.seq).where(EVENTS.c.seq <= until).order_by(EVENTS.c.time, EVENTS.c.seq).limit(1)
        with self.reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def first_seq_of(self, user: str) -> int:
        """The lowest sequence number of the events of a user; 0 where there is none."""
        with self.reading() as connection:
            return next(iter(self.event_seqs(connection, "user", [user])), 0)

    def count(self) -> int:
        """The number of events."""
        with self.reading() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(EVENTS)).scalar_one())

    def drop_events_before(self, time: int) -> int:
        """Delete the events of before a time, microseconds UTC. Returns how many they were."""
        return sum(self.drop_events_in_batches(time))

    def drop_events_in_batches(self, time: int) -> Iterator[int]:
        """As `drop_events_before`, a transaction at a time: yields the number of events that each deleted.

        Takes time for what is deleted, not for what stays: the oldest come first, by the index of times.
        """
        oldest = sa.select(EVENTS.c.seq).where(EVENTS.c.time < time).order_by(EVENTS.c.time).limit(ROWS_PER_STATEMENT)
        while True:
            with self.reading() as connection:
                seqs = list(connection.execute(oldest).scalars())
            if not seqs:
                return
            with self.writing() as connection:
                n_deleted = connection.execute(sa.delete(EVENTS).where(EVENTS.c.seq.in_(seqs))).rowcount
            yield n_deleted
