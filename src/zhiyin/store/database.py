"""The store: one database, SQLite by default, PostgreSQL by address; what is committed is never lost.

    store = Store("sqlite:///shop.db")        # or "postgresql://user:...@host/shop"
    store.append([Event("alice", "film 7", now)])
    store.history("alice", 100)

Events are only ever added. Items, users and placements have versions: each change is a row of its own, the newest
counts. Any number of threads and processes may use one database.
"""

from __future__ import annotations

import itertools
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from zhiyin.core.atomic_files import whole_file
from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import ConfigError, DataError, MissingExtraError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.run import Run, log
from zhiyin.core.texts import text
from zhiyin.store.errors import StoreAwayError, StoreFullError, plain_errors
from zhiyin.store.records import Event, columns, events_from_rows, hash_of
from zhiyin.store.tables import EVENTS, FORGOTTEN, IMPRESSIONS, LISTS, MARKS, VERSIONED_TABLES
from zhiyin.store.traces import EVENT_COLUMNS, TraceTables

try:
    import sqlalchemy as sa
except ImportError:
    raise MissingExtraError("sqlalchemy", "serve", "the store") from None

__all__ = [
    "EVENTS",
    "MAX_EVENTS_PER_TRANSACTION",
    "VERSIONED_TABLES",
    "Store",
    "StoreAwayError",
    "StoreFullError",
    "hash_of",
    "sa",
]

# Events of one transaction at most, and rows of one statement.
MAX_EVENTS_PER_TRANSACTION, ROWS_PER_STATEMENT = 10_000, 500
# Columns that say something of an item rather than describe it: they are never kept as null.
_MARKS = ("hidden",)
# The table of types of columns; see `column_types`.
COLUMN_TYPES = "catalogue_schema"
# How often `forget` removes what its own search still finds.
MAX_FORGET_ROUNDS = 3
_SCHEMA = {
    "seq": pl.Int64, "id": pl.String, "user": pl.String, "item": pl.String, "time": pl.Int64, "kind": pl.String,
    "value": pl.Float64, "list_id": pl.String, "received": pl.Int64,
}  # fmt: skip
_FRAMES: dict[str, dict[str, Any]] = {
    "lists": {
        "list_id": pl.String, "user": pl.String, "time": pl.Int64, "version": pl.Int64, "placement": pl.String,
        "head": pl.String, "arrays": pl.Binary,
    },
    "impressions": {"list_id": pl.String, "time": pl.Int64, "items": pl.String},
    "forgotten": {"hash": pl.String, "received": pl.Int64},
}  # fmt: skip
_STORED_FIELDS = ("id", "user", "item", "time", "kind", "value", "list_id")
_fields = operator.attrgetter(*_STORED_FIELDS)
_COLUMNS = ", ".join(f'"{name}"' for name in EVENT_COLUMNS)
_NEWEST = f'SELECT {_COLUMNS} FROM events WHERE "user" = ? ORDER BY seq DESC LIMIT ?'
_NEWEST_VERSION = "SELECT columns, version FROM {} WHERE id = ? ORDER BY version DESC LIMIT 1"
_LAST = "SELECT coalesce(max(seq), 0) FROM {}"
_FORGETTINGS, _MARK = "SELECT value FROM meta WHERE key = ?", "forgettings"
_HIGHEST_SEQ = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"
_CHANGE_MARKS = ("SELECT " + ", ".join(f"(SELECT max(seq) FROM {name})" for name in VERSIONED_TABLES)
          + f", (SELECT value FROM meta WHERE key = '{_MARK}')")  # fmt: skip
# Of a user: when forgotten, and the events that came last, in one look at one state.
_RECENT = f"""
    SELECT f.received, e.* FROM (SELECT (SELECT received FROM forgotten WHERE hash = :hash) AS received) AS f
    LEFT JOIN (SELECT {_COLUMNS} FROM events WHERE "user" = :user ORDER BY seq DESC LIMIT :most) AS e
    ON TRUE ORDER BY e.time, e.seq
"""
# Many rows by one statement whose text is always the same.
_UNNEST = """
    INSERT INTO events (id, "user", item, time, kind, value, list_id, received)
    SELECT id, "user", item, time, kind, value, list_id, %s::bigint
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::float8[], %s::text[])
    WITH ORDINALITY AS t(id, "user", item, time, kind, value, list_id, place) ORDER BY place
    ON CONFLICT (id) DO NOTHING RETURNING id, seq
"""


class Marks(NamedTuple):
    """`Store.last_change` of each table that is not of events, and `Store.forget_count`."""

    items: int
    users: int
    placements: int
    catalogue_schema: int
    forgettings: int


# What `forget` says.
PLACES = ("events", "versions", "lists", "impressions")
PROOF = tuple(f"{what} {how}" for how in ("removed", "found") for what in PLACES)


def _many(rows: int) -> str:
    """SQLite's statement for so many events; its first parameter is when they were received."""
    places = ", ".join(
        "(" + ", ".join(f"?{2 + row * len(_STORED_FIELDS) + at}" for at in range(len(_STORED_FIELDS))) + ", ?1)"
        for row in range(rows)
    )
    names = ", ".join(f'"{name}"' for name in _STORED_FIELDS)
    return f"INSERT INTO events ({names}, received) VALUES {places} ON CONFLICT (id) DO NOTHING"


# A statement is prepared once for each number of rows: these add up to any number in few steps.
_MANY = {size: _many(size) for size in (100, 10, 1)}


class Store(TraceTables):
    """Events, items, users, placements and lists in one database. Raises ConfigError where it cannot be opened.

    Every method raises StoreFullError where the disk is full and StoreAwayError where the database cannot be reached;
    when the cause is gone the same Store works again.

    Parameters
    ----------
    address: "sqlite:///path" or a path, or "postgresql://...". Tables are made where they are missing.
    """

    # -- events -----------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Keep events, all in one transaction; committed when this returns. Of each: whether it is new.

        An event whose id is known already is not kept again. Raises DataError for one that cannot be, and keeps none.
        """
        if len(events) > MAX_EVENTS_PER_TRANSACTION:
            raise DataError(f"{len(events):,} events at once", remedy=f"at most {MAX_EVENTS_PER_TRANSACTION:,}")
        now = self.clock()
        return [seq > 0 for seq in self.append_validated([event.validated(now) for event in events])]

    def append_validated(self, rows: Sequence[Event]) -> list[int]:
        """As `append`, for events that `Event.validated` gave. Of each its sequence number; 0: it is known already."""
        now = self.clock()
        first: dict[str, int] = {}
        for at, event in enumerate(rows):
            first.setdefault(event.id, at)
        if not first:
            return []
        once = list(rows) if len(first) == len(rows) else [rows[at] for at in first.values()]
        new = self._keep_in_file(once, now) if self.path is not None else self._keep_on_server(once, now)
        return [new.get(event.id, 0) if first[event.id] == at else 0 for at, event in enumerate(rows)]

    def _keep_in_file(self, once: list[Event], now: int) -> dict[str, int]:
        """Sequence numbers of those that are new, by id."""
        with self._raw_writing() as connection:
            before = connection.execute(_HIGHEST_SEQ).fetchone()[0]
            n_new, start = 0, 0
            for size, statement in _MANY.items():
                while len(once) - start >= size:
                    part = itertools.chain.from_iterable(map(_fields, once[start : start + size]))
                    n_new += connection.execute(statement, (now, *part)).rowcount
                    start += size
            if n_new == len(once):  # numbers are given in the order of the rows
                return {event.id: seq for seq, event in enumerate(once, before + 1)}
            return dict(connection.execute("SELECT id, seq FROM events WHERE seq > ?", (before,)).fetchall())

    def _keep_on_server(self, once: list[Event], now: int) -> dict[str, int]:
        parts: list[list[Any]] = [list(part) for part in zip(*map(_fields, once), strict=True)]
        parts[5] = [None if value is None else float(value) for value in parts[5]]
        with self.writing() as connection:
            return {row.id: int(row.seq) for row in connection.exec_driver_sql(_UNNEST, (now, *parts))}

    def history(self, user: str, most: int = 1_000) -> list[Event]:
        """The events of a user that came last, sorted by time, those of one moment as they came."""
        if self.path is not None:
            with self._raw() as raw:
                rows = raw.execute(_NEWEST, (user, most)).fetchall()
        else:
            newest = sa.select(*(EVENTS.c[name] for name in EVENT_COLUMNS)).where(EVENTS.c.user == user)
            with self.reading() as connection:
                rows = connection.execute(newest.order_by(EVENTS.c.seq.desc()).limit(most)).all()
        return sorted(events_from_rows(rows), key=operator.attrgetter("time", "seq"))

    def recent_events(self, user: str, most: int = 1_000) -> tuple[list[Event], int]:
        """`history` and `forgotten` of a user, both of one moment."""
        params = {"hash": hash_of(user), "user": user, "most": most}
        if self.path is None:
            with self.reading() as connection:
                rows = connection.execute(sa.text(_RECENT), params).all()
        else:
            with self._raw() as raw:
                rows = raw.execute(_RECENT, params).fetchall()
        return events_from_rows(row[1:] for row in rows if row[1] is not None), int(rows[0][0] or 0)

    def events(self, after: int = 0, most: int = 100_000, names: Sequence[str] = tuple(_SCHEMA)) -> pl.DataFrame:
        """Events in the order they came, from the one after a `seq` on: a frame with these columns of the table."""
        query = sa.select(*(EVENTS.c[name] for name in names)).where(EVENTS.c.seq > after)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(EVENTS.c.seq).limit(most)).all()
        parts = zip(*rows) if rows else ([] for _ in names)
        return pl.DataFrame(dict(zip(names, parts)), schema={name: _SCHEMA[name] for name in names})

    def events_by_seq(self, seqs: Sequence[int], names: Sequence[str] = tuple(_SCHEMA)) -> pl.DataFrame:
        """Events by `seq`, as `events` gives them; those that are not there are left out."""
        rows: list[Any] = []
        columns = [EVENTS.c[name] for name in names]
        with self.reading() as connection:
            for start in range(0, len(seqs), ROWS_PER_STATEMENT):
                part = [int(seq) for seq in seqs[start : start + ROWS_PER_STATEMENT]]
                rows += connection.execute(
                    sa.select(*columns).where(EVENTS.c.seq.in_(part)).order_by(EVENTS.c.seq)
                ).all()
        return pl.DataFrame(rows, schema={name: _SCHEMA[name] for name in names}, orient="row")

    def event_batches(self, after: int = 0, size: int = 100_000) -> Iterator[pl.DataFrame]:
        """All events after a `seq`, a frame of at most `size` at a time."""
        while len(part := self.events(after, size)):
            yield part
            after = int(part["seq"][-1])

    @property
    def last_seq(self) -> int:
        """`seq` of the last event; 0 where there is none."""
        return self._last(EVENTS)

    @property
    def highest_seq(self) -> int:
        """The highest `seq` that was ever given to an event, whether or not it is still there; 0: none was."""
        if self.path is not None:
            with self._raw() as raw:
                return int(raw.execute(_HIGHEST_SEQ).fetchone()[0])
        with self.reading() as connection:
            named = connection.execute(sa.text("SELECT pg_get_serial_sequence('events', 'seq')")).scalar_one()
            value, called = connection.execute(sa.text(f"SELECT last_value, is_called FROM {named}")).one()
            return int(value) if called else 0

    def _last(self, of: sa.Table) -> int:
        if self.path is not None:
            with self._raw() as raw:
                return int(raw.execute(_LAST.format(of.name)).fetchone()[0])
        with self.reading() as connection:
            return int(connection.execute(sa.select(sa.func.coalesce(sa.func.max(of.c.seq), 0))).scalar_one())

    def count(self) -> int:
        """How many events there are."""
        with self.reading() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(EVENTS)).scalar_one())

    def drop_events_before(self, moment: int) -> int:
        """Retention: forget events from before a moment, microseconds UTC. Returns how many there were."""
        return sum(self.drop_events_in_batches(moment))

    def drop_events_in_batches(self, moment: int) -> Iterator[int]:
        """As `drop_before`, a part at a time: yields how many went with it. Takes time for what goes, not for what
        stays: the oldest come first, by the index of times."""
        of = EVENTS.c
        old = sa.select(of.seq).where(of.time < moment).order_by(of.time).limit(ROWS_PER_STATEMENT)
        while True:
            with self.reading() as connection:
                some = list(connection.execute(old).scalars())
            if not some:
                return
            with self.writing() as connection:
                dropped = connection.execute(sa.delete(EVENTS).where(of.seq.in_(some))).rowcount
            yield dropped

    # -- items, users and placements --------------------------------------------------------------------------------

    def put(self, table: str, things: Mapping[str, Mapping[str, Any] | None]) -> dict[str, int]:
        """Write versions of items, users or placements: columns by id, None to delete. Returns the new version of each.

        What is the same as the newest version is not written again. Raises DataError for columns that cannot be.
        """
        return self.change(table, things, lambda key, old, new: new)

    def patch(self, table: str, things: Mapping[str, Mapping[str, Any] | None]) -> dict[str, int]:
        """As `put`, but columns that are not named stay as the newest version has them. Of two at once both count."""
        return self.change(table, things, lambda key, old, new: {**(old or {}), **new})

    def replace(
        self, table: str, things: Mapping[str, Mapping[str, Any] | None], other_columns: Mapping[str, Iterable[str]]
    ) -> dict[str, int]:
        """As `put`, for columns that lie over others: what an id has not any more is kept as null.

        known: names of the columns that each id has elsewhere, in a catalogue for one.
        """

        def combine(key: str, old: dict[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
            names = [name for name in (*other_columns.get(key, ()), *(old or {})) if name not in _MARKS]
            return {**dict.fromkeys(names), **new}

        return self.change(table, things, combine)

    def change(
        self,
        table: str,
        things: Mapping[str, Mapping[str, Any] | None],
        combine: Callable[[str, dict[str, Any] | None, Mapping[str, Any]], Mapping[str, Any]],
    ) -> dict[str, int]:
        """Write versions made of the newest ones and what is new, in one transaction that no other writer is within."""
        of = _table(table)
        right = dict if table == COLUMN_TYPES else columns
        checked = {
            text(key, "id", MAX_ID_CHARS): None if value is None else right(value) for key, value in things.items()
        }
        now, versions = self.clock(), {}
        keys = list(checked)
        with self.writing() as connection:
            for start in range(0, len(keys), ROWS_PER_STATEMENT):
                part = keys[start : start + ROWS_PER_STATEMENT]
                newest = {row.id: row for row in connection.execute(self._newest(of, part))}
                rows = []
                for key in part:
                    old, new = newest.get(key), checked[key]
                    before = None if old is None else _object(old.columns)
                    if before is None and old is not None and old.columns is not None:
                        before = _readable(connection, of, key)
                    stored = None if new is None else _json(combine(key, before, new))
                    if (old is not None and old.columns == stored) or (old is None and stored is None):
                        versions[key] = old.version if old is not None else 0
                        continue
                    versions[key] = 1 if old is None else old.version + 1
                    rows.append({"id": key, "version": versions[key], "columns": stored, "received": now})
                if rows:
                    connection.execute(sa.insert(of), rows)
        return versions

    def get(self, table: str, key: str) -> tuple[dict[str, Any], int] | None:
        """Columns of an item or user and their version; None for one unknown or deleted."""
        of = _table(table)
        if self.path is not None:
            with self._raw() as raw:
                newest = raw.execute(_NEWEST_VERSION.format(of.name), (key,)).fetchone()
        else:
            with self.reading() as connection:
                row = connection.execute(self._newest(of, [key])).first()
            newest = None if row is None else (row.columns, row.version)
        if newest is None or newest[0] is None:
            return None
        columns_of_key = _object(newest[0])
        if columns_of_key is not None:
            return columns_of_key, int(newest[1])
        before = [(columns, number) for number, columns, _ in self.versions(table, key)]
        return next(((columns, number) for columns, number in before if columns is not None), None)

    def is_deleted(self, table: str, key: str) -> bool:
        """Whether the newest version of an id says that it is deleted."""
        with self.reading() as connection:
            row = connection.execute(self._newest(_table(table), [key])).first()
        return row is not None and row.columns is None

    def changes_since(
        self, table: str, after: int = 0, until: int | None = None, unreadable: list[int] | None = None
    ) -> tuple[dict[str, dict[str, Any] | None], int]:
        """Newest columns of all that changed after a `seq` (None: deleted), and the last `seq`.

        `until`: the state as of that `seq`; later changes are not looked at. `unreadable`: takes the `seq` of rows that
        are no columns: of these the version before counts.
        """
        of = _table(table)
        query = sa.select(of.c.seq, of.c.id, of.c.columns).where(of.c.seq > after).order_by(of.c.seq)
        if until is not None:
            query = query.where(of.c.seq <= until)
        columns_by_id: dict[str, dict[str, Any] | None] = {}
        with self.reading() as connection:
            for seq, key, text_or_none in connection.execute(query):
                after = int(seq)
                value = _object(text_or_none)
                if value is None and text_or_none is not None:
                    if unreadable is not None:
                        unreadable.append(after)
                    continue  # what it said before counts
                columns_by_id[key] = value
        return columns_by_id, after

    def last_change_of(self, table: str, key: str) -> int:
        """`seq` of the newest version of an id; 0 for none: what messages call a row by, since ids stand in no log."""
        of = _table(table)
        with self.reading() as connection:
            newest = sa.select(sa.func.coalesce(sa.func.max(of.c.seq), 0)).where(of.c.id == key)
            return int(connection.execute(newest).scalar_one())

    def id_of_change(self, table: str, seq: int) -> str:
        """The id of a version by its `seq`; empty where there is none."""
        of = _table(table)
        with self.reading() as connection:
            return str(connection.execute(sa.select(of.c.id).where(of.c.seq == seq)).scalar() or "")

    def last_change(self, table: str) -> int:
        """`seq` of the last change of items, users or placements; 0 where there is none."""
        return self._last(_table(table))

    def versions(self, table: str, key: str) -> list[tuple[int, dict[str, Any] | None, int]]:
        """All versions of one id that can be read, newest first: number, columns (None: deleted), when received."""
        of = _table(table)
        query = sa.select(of.c.version, of.c.columns, of.c.received).where(of.c.id == key)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(of.c.version.desc())).all()
        read = [(int(n), text_or_none is None, _object(text_or_none), int(when)) for n, text_or_none, when in rows]
        return [(number, columns, when) for number, deleted, columns, when in read if deleted or columns is not None]

    @staticmethod
    def _newest(of: sa.Table, keys: list[str]) -> Any:
        newest = sa.func.max(of.c.version).label("version")
        last = sa.select(of.c.id, newest).where(of.c.id.in_(keys)).group_by(of.c.id).subquery()
        return sa.select(of).join(last, (of.c.id == last.c.id) & (of.c.version == last.c.version))

    # -- whole ------------------------------------------------------------------------------------------------------

    def forget(self, user: str, at_least: int = 0) -> dict[str, int]:
        """Remove all of a user. Returns the proof: what was removed, and what a search still finds (0 of each).

        at_least: microseconds UTC; when the version in use was made. Of who was forgotten then or later it may use
        nothing, even where the clock of this machine is behind.
        """
        of, proof = VERSIONED_TABLES["users"], dict.fromkeys(PROOF, 0)
        key = json.dumps(user, ensure_ascii=False)
        inside = sa.func.strpos if self.dialect == "postgresql" else sa.func.instr
        # A list is a user's by its column, or because its head names them.
        named = inside(LISTS.c.head, f'"user":{key}') > 0
        list_ids: set[str] = set()
        also: list[str] = []
        for number in range(MAX_FORGET_ROUNDS):
            with self.writing() as connection:
                own = sa.select(LISTS.c.list_id).where((LISTS.c.user == user) | LISTS.c.list_id.in_(also))
                # Of lists that were not kept, impressions are a user's where the user's events name the list.
                lost = sa.select(EVENTS.c.list_id).where(EVENTS.c.user == user, EVENTS.c.list_id.is_not(None))
                lost = lost.where(~sa.exists().where(LISTS.c.list_id == EVENTS.c.list_id)).distinct()
                list_ids.update(ids := [*connection.execute(own).scalars(), *connection.execute(lost).scalars()])
                for start in range(0, len(ids), ROWS_PER_STATEMENT):
                    part = ids[start : start + ROWS_PER_STATEMENT]
                    statement = sa.delete(IMPRESSIONS).where(IMPRESSIONS.c.list_id.in_(part))
                    proof["impressions removed"] += connection.execute(statement).rowcount
                    proof["lists removed"] += connection.execute(
                        sa.delete(LISTS).where(LISTS.c.list_id.in_(part))
                    ).rowcount
                proof["events removed"] += connection.execute(sa.delete(EVENTS).where(EVENTS.c.user == user)).rowcount
                proof["versions removed"] += connection.execute(sa.delete(of).where(of.c.id == user)).rowcount
                mark = FORGOTTEN.c.hash == hash_of(user)
                # Of a user later each time, also where the clock stands still or was set back: a change is seen by it.
                before = connection.execute(sa.select(FORGOTTEN.c.received).where(mark)).scalar() or 0
                connection.execute(sa.delete(FORGOTTEN).where(mark))
                if not number:
                    _count_forgetting(connection)
                moment = max(self.clock(), at_least, before + 1)
                connection.execute(sa.insert(FORGOTTEN).values(hash=hash_of(user), received=moment))
            with self.reading() as connection:
                proof["events found"] = _count(connection, EVENTS.c.user == user)
                proof["versions found"] = _count(connection, of.c.id == user)
                ids = list(list_ids)
                proof["impressions found"] = sum(
                    _count(connection, IMPRESSIONS.c.list_id.in_(ids[start : start + ROWS_PER_STATEMENT]))
                    for start in range(0, len(ids), ROWS_PER_STATEMENT)
                )
                left = sa.select(LISTS.c.list_id).where((LISTS.c.user == user) | named).limit(ROWS_PER_STATEMENT)
                also = list(connection.execute(left).scalars())
                proof["lists found"] = len(also)
            if not also:
                break
        if self.dialect == "sqlite":
            self._checkpoint()
        return proof

    def _checkpoint(self) -> None:
        """What was overwritten must not live on in the journal; a reader of the old state is waited for."""
        with (
            plain_errors(self.path),
            self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").first()
        if busy is not None and busy[0]:
            log.warning("store: readers hold the journal; what was forgotten leaves it with the next checkpoint")

    def forget_count(self) -> int:
        """How often somebody was forgotten: grows with each time, whatever the clocks say."""
        if self.path is not None:
            with self._raw() as raw:
                row = raw.execute(_FORGETTINGS, (_MARK,)).fetchone()
            return int(row[0]) if row else 0
        with self.reading() as connection:
            return int(connection.execute(sa.select(MARKS.c.value).where(MARKS.c.key == _MARK)).scalar() or 0)

    def forgotten_at_each(self, users: Sequence[str]) -> list[int]:
        """As `forgotten`, of several users."""
        hashes = [hash_of(user) for user in users]
        times: dict[str, int] = {}
        for start in range(0, len(hashes), ROWS_PER_STATEMENT):
            query = sa.select(FORGOTTEN).where(FORGOTTEN.c.hash.in_(hashes[start : start + ROWS_PER_STATEMENT]))
            with self.reading() as connection:
                times |= {row.hash: int(row.received) for row in connection.execute(query)}
        return [times.get(one, 0) for one in hashes]

    def change_marks(self) -> Marks:
        """How far the store has come, in one look: what changed since is told by it."""
        if self.path is not None:
            with self._raw() as raw:
                return Marks(*(int(part or 0) for part in raw.execute(_CHANGE_MARKS).fetchone()))
        with self.reading() as connection:
            return Marks(*(int(part or 0) for part in connection.exec_driver_sql(_CHANGE_MARKS).one()))

    def forgotten_by_hash(self) -> dict[str, int]:
        """When each user who was forgotten was so last, microseconds UTC, by `hash_of` the id."""
        with self.reading() as connection:
            return {row.hash: int(row.received) for row in connection.execute(sa.select(FORGOTTEN))}

    def export(self, folder: str | Path, run: Run | None = None) -> Path:
        """Write everything as Parquet; whole or not at all.

        events/, lists/ and impressions/part-*.parquet, items, users, placements and forgotten.parquet.
        """
        with whole_folder(Path(folder)) as draft, (run or Run()).bar("Exporting", self.count()) as advance:
            for table in (EVENTS, LISTS, IMPRESSIONS):
                (draft / table.name).mkdir()
                for number, part in enumerate(self._pages(table)):
                    part.write_parquet(draft / table.name / f"part-{number:05}.parquet")
                    advance(len(part) if table is EVENTS else 0, table.name)
            for name in VERSIONED_TABLES:
                found, _ = self.changes_since(name)
                rows = [(key, json.dumps(value)) for key, value in found.items() if value is not None]
                frame = pl.DataFrame(rows, schema={"id": pl.String, "columns": pl.String}, orient="row")
                frame.write_parquet(draft / f"{name}.parquet")
            gone = list(self.forgotten_by_hash().items())
            pl.DataFrame(gone, schema=_FRAMES["forgotten"], orient="row").write_parquet(draft / "forgotten.parquet")
        return Path(folder)

    def _pages(self, table: sa.Table, size: int = 100_000) -> Iterator[pl.DataFrame]:
        """All rows of a table by its primary key, a frame of at most `size` at a time."""
        if table is EVENTS:
            yield from self.event_batches(size=size)
            return
        size = size // 20 if table is LISTS else size  # a list with its arrays takes kilobytes
        (key,) = table.primary_key.columns
        schema = _FRAMES[table.name]
        query, after = sa.select(*(table.c[name] for name in schema), key).order_by(key).limit(size), None
        while True:
            with self.reading() as connection:
                rows = connection.execute(query if after is None else query.where(key > after)).all()
            if not rows:
                return
            yield pl.DataFrame([row[:-1] for row in rows], schema=schema, orient="row")
            after = rows[-1][-1]

    def load(
        self,
        folder: str | Path,
        run: Run | None = None,
        catalogue: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    ) -> int:
        """Take in what `export` wrote; what is known already stays. Returns the number of new events.

        What users did before they were forgotten, here or there, is left out; likewise events that `append` would
        refuse, which is said in the log.

        catalogue: columns of items and users by table and id, instead of those of the files: as their types have them.
        """
        folder, new, refused, first = Path(folder), 0, 0, ""
        parts = sorted((folder / "events").glob("part-*.parquet"))
        if not parts and not (folder / "items.parquet").is_file():
            raise DataError("this is no export of a store", file=folder, remedy="name the folder that was written")
        self._load_rows(folder / "forgotten.parquet", FORGOTTEN)
        forgotten = self.forgotten_by_hash()
        with (run or Run()).bar("Loading", len(parts)) as advance:
            for path in parts:
                frame = _exported(path, list(EVENT_COLUMNS))
                for part in _without(frame, forgotten).iter_slices(MAX_EVENTS_PER_TRANSACTION):
                    rows, reason = _right(part.select(EVENT_COLUMNS), self.clock())
                    new += sum(seq > 0 for seq in self.append_validated(rows))
                    refused += len(part) - len(rows)
                    first = first or reason
                advance(1)
        if refused:
            log.warning("store: %s events were left out; the first: %s", f"{refused:,}", first)
        for table in (LISTS, IMPRESSIONS):
            for path in sorted((folder / table.name).glob("part-*.parquet")):
                self._load_rows(path, table, forgotten)
        for name in VERSIONED_TABLES:
            checked = None if catalogue is None else catalogue.get(name)
            rows_by_id: Mapping[str, Any] = exported_rows(folder, name) if checked is None else checked
            if name == "users" and forgotten:
                rows_by_id = {user: value for user, value in rows_by_id.items() if hash_of(user) not in forgotten}
            put = self.patch if name == COLUMN_TYPES else self.put
            put(name, rows_by_id)
        return new

    def _load_rows(self, path: Path, table: sa.Table, forgotten: Mapping[str, int] | None = None) -> None:
        """Rows of a file that are not known yet."""
        if not path.is_file():
            return
        frame = _exported(path, list(_FRAMES[table.name]))
        if table is LISTS:
            frame = _without(frame, forgotten or {})
        for part in frame.iter_slices(ROWS_PER_STATEMENT):
            with self.writing() as connection:
                connection.execute(self._insert(table).on_conflict_do_nothing(), part.to_dicts())
                if table is FORGOTTEN:
                    _count_forgetting(connection)

    def info(self) -> dict[str, Any]:
        """How much there is of each, and from when to when events are; counting a large store takes a while."""
        with self.reading() as connection:
            first, last = connection.execute(sa.select(sa.func.min(EVENTS.c.time), sa.func.max(EVENTS.c.time))).one()
            counts: dict[str, Any] = {"events": self.count(), "first event": first, "last event": last}
            for name, of in VERSIONED_TABLES.items():
                if name == COLUMN_TYPES:
                    continue
                newest = sa.select(sa.func.max(of.c.seq)).group_by(of.c.id)
                counts[name] = _count(connection, of.c.seq.in_(newest) & of.c.columns.is_not(None))
            for table in (LISTS, IMPRESSIONS, FORGOTTEN):
                counts[table.name] = int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
        return counts

    def backup(self, path: str | Path) -> Path:
        """A copy of the SQLite file while it is in use; open it as any other. PostgreSQL has pg_dump for this."""
        path = Path(path)
        if self.dialect != "sqlite":
            raise ConfigError("a PostgreSQL store is backed up by pg_dump", remedy="or export it as Parquet")
        if path.exists():
            raise DataError("there is a file already", file=path, remedy="name another")
        # Empty at first, so that SQLite takes it, and closed to others: the copy holds what the store holds.
        with whole_file(path, 0o600) as draft, plain_errors(path), self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM INTO ?", (str(draft),))
        return path


def exported_rows(folder: Path, name: str) -> dict[str, Any]:
    """Columns by id of items, users, placements or types, of an export; none where it has no such file.

    Raises DataError where the file is cut off or damaged.
    """
    path = Path(folder) / f"{name}.parquet"
    if not path.is_file():
        return {}
    try:
        return {key: json.loads(value) for key, value in _exported(path, ["id", "columns"]).iter_rows()}
    except (ValueError, TypeError, RecursionError):
        raise DataError("the columns of a row are no JSON", file=path, remedy="export again") from None


def _exported(path: Path, names: list[str]) -> pl.DataFrame:
    """A file of an export. Raises DataError where it is cut off or damaged."""
    try:
        return pl.read_parquet(path, columns=names)
    except (OSError, pl.exceptions.PolarsError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"the file is cut off or damaged ({why})", file=path, remedy="export again") from None


def _count_forgetting(connection: Any) -> None:
    """One more; within the transaction that forgets."""
    mark = sa.select(MARKS.c.value).where(MARKS.c.key == _MARK)
    before = connection.execute(mark).scalar()
    if before is None:
        connection.execute(sa.insert(MARKS).values(key=_MARK, value="1"))
    else:
        connection.execute(sa.update(MARKS).where(MARKS.c.key == _MARK).values(value=str(int(before) + 1)))


def _count(connection: Any, where: Any) -> int:
    return int(connection.execute(sa.select(sa.func.count()).where(where)).scalar_one())


def _without(frame: pl.DataFrame, forgotten: Mapping[str, int]) -> pl.DataFrame:
    """Rows (user, time, ...) without those from before their user was forgotten."""
    if not forgotten:
        return frame
    users = frame["user"].drop_nulls().unique()
    when = pl.DataFrame({"user": users, "gone": [forgotten.get(hash_of(user), -1) for user in users]})
    marked = frame.join(when, on="user", how="left", maintain_order="left")
    return marked.filter(pl.col("time") > pl.col("gone").fill_null(-1)).drop("gone")


def _right(frame: pl.DataFrame, now: int) -> tuple[list[Event], str]:
    """The events of rows that can be kept, and why the first of the others cannot."""
    events, reason = [], ""
    for row in frame.iter_rows():
        try:
            events.append(Event(*row).validated(now))
        except DataError as error:
            reason = reason or error.message
    return events, reason


def _table(name: str) -> sa.Table:
    if name not in VERSIONED_TABLES:
        raise ConfigError(f"the store has no table {name!r}", remedy="items, users or placements")
    return VERSIONED_TABLES[name]


def _object(text: str | None) -> dict[str, Any] | None:
    """Columns as they are kept; None where there are none, or where the text is no JSON object."""
    try:
        value = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _readable(connection: Any, of: sa.Table, key: str) -> dict[str, Any] | None:
    """Columns of the newest version of an id that can be read; None where that says deleted, or none can."""
    texts = (
        connection.execute(sa.select(of.c.columns).where(of.c.id == key).order_by(of.c.version.desc())).scalars().all()
    )
    return next((_object(text) for text in texts if text is None or _object(text) is not None), None)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
