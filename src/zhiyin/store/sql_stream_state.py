"""The streamed state in SQLite or PostgreSQL: a file's name and its effect are one transaction."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.store.records import Event, hash_of
from zhiyin.store.segment_files import Segment
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.sqlite_fast_path import BUSY_TIMEOUT_SECONDS
from zhiyin.store.stream_definitions import (
    HISTORY_EVENT,
    MAX_COVISITS,
    MAX_HISTORY_EVENTS,
    MAX_SESSION_BUCKETS,
    MAX_TRENDING_ITEMS,
    covisit_log_scores,
    merge_session_buckets,
    trending_log_scores,
)
from zhiyin.store.stream_state import (
    BUCKETS_FRAME,
    CLICK_THROUGH_FRAME,
    COVISITS_FRAME,
    TRENDING_FRAME,
    StreamState,
    StreamStateAwayError,
    checked_name,
    history_of_rows,
)

_PRAGMAS = (
    "journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON", "temp_store=MEMORY", "cache_size=-32768",
    f"busy_timeout={int(BUSY_TIMEOUT_SECONDS * 1000)}",
)  # fmt: skip
# Rows of users and items are counted, and trimmed where they are twice as many as are kept, by one of so many files;
# trending items by one of so many others.
_TRIM_PART, _TRIM_TRENDING = 16, 64
# Columns by table: those of the primary key, and the others. Each table also has the column `state`, first in its key.
_TEXT, _INTEGER, _NUMBER = "TEXT", "BIGINT", "DOUBLE PRECISION"
_TABLES: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "stream_files": ({"job": _TEXT, "file": _TEXT}, {}),
    "stream_versions": ({"job": _TEXT}, {"version": _INTEGER}),
    "stream_segments": ({"first": _INTEGER}, {"last": _INTEGER, "n_rows": _INTEGER, "applied": _INTEGER}),
    "stream_marks": ({"name": _TEXT}, {"seq": _INTEGER}),
    "stream_forgotten": ({"hash": _TEXT}, {"seq": _INTEGER}),
    "stream_trending": ({"item": _TEXT}, {"log_score": _NUMBER}),
    "stream_covisits": ({"item": _TEXT, "other": _TEXT}, {"log_score": _NUMBER}),
    "stream_events": (
        {"user": _TEXT, "seq": _INTEGER},
        {"id": _TEXT, "item": _TEXT, "time": _INTEGER, "kind": _TEXT, "value": _NUMBER, "list_id": _TEXT},
    ),
    "stream_sessions": (
        {"user": _TEXT, "bucket": _INTEGER}, {"first": _INTEGER, "last": _INTEGER, "n": _INTEGER},
    ),
    "stream_clicks": ({"placement": _TEXT, "item": _TEXT}, {"shown": _INTEGER, "clicked": _INTEGER}),
}  # fmt: skip
_ARRAY_TYPES = {_TEXT: "text[]", _INTEGER: "bigint[]", _NUMBER: "float8[]"}
_MERGED_LOG_SCORE = {
    "sqlite": "merge_log_scores({old}, {new})",
    # Below 2**-1000 nothing is added, and PostgreSQL refuses what is no number any more.
    "postgresql": "greatest({old}, {new}) + ln(1 + power(2::float8, greatest(-1000, least({old}, {new}) - "
    "greatest({old}, {new})))) / ln(2::float8)",
}
_LEAST, _GREATEST = {"sqlite": "min", "postgresql": "least"}, {"sqlite": "max", "postgresql": "greatest"}


class SqlStreamState(StreamState):
    """Tables `stream_...` in a database, with the rows of each name apart.

    Parameters
    ----------
    address: "sqlite:///path" or "postgresql://…".
    name: of the store.

    Raises ConfigError for an address that cannot be opened, and StreamStateAwayError where the server does not answer.
    """

    def __init__(self, address: str, name: str) -> None:
        self._name = checked_name(name)
        if address.startswith("postgresql://"):
            address = address.replace("postgresql://", "postgresql+psycopg://", 1)
        try:
            url = sa.make_url(address)
        except sa.exc.SQLAlchemyError:
            raise ConfigError(
                "the address of the streamed state cannot be read", remedy="sqlite:///streams.db or postgresql://…"
            ) from None
        self._dialect = url.get_backend_name()
        self._lock_id = int.from_bytes(hashlib.sha256(f"streams {name}".encode()).digest()[:8], "big", signed=True)
        if self._dialect == "sqlite":
            if url.database in (None, "", ":memory:"):
                raise ConfigError("a streamed state in memory is one for nobody", remedy="name a file: sqlite:///…")
            path = Path(url.database).absolute()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"the folder of the streamed state cannot be made: {error.strerror}",
                    file=path.parent,
                    remedy="name another file: [service] streams",
                ) from None
            self._engine = sa.create_engine(
                url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, hide_parameters=True
            )  # fmt: skip
            sa.event.listen(self._engine, "connect", _configure)
        else:
            self._engine = sa.create_engine(
                url, pool_pre_ping=True, hide_parameters=True,
                connect_args={"connect_timeout": int(BUSY_TIMEOUT_SECONDS)},
            )  # fmt: skip
        with self._writing() as connection:
            self._create(connection)

    # -- writing ------------------------------------------------------------------------------------------------------

    def _apply(self, job: str, file: str, rows: pl.DataFrame) -> bool:
        with self._writing() as connection:
            mark = pl.DataFrame({"job": [job], "file": [file]})
            if self._insert(connection, "stream_files", mark) == 0:
                return False
            version = self._next_version(connection, job)
            if job == "trending":
                self._merge(connection, "stream_trending", trending_log_scores(rows))
                if version % _TRIM_TRENDING == 0:
                    self._trim(connection, "stream_trending", None, [None], "log_score", "item", MAX_TRENDING_ITEMS)
            elif job == "covisits":
                self._merge(connection, "stream_covisits", scores := covisit_log_scores(rows))
                items = _part(scores["item"], version)
                self._trim_large(connection, "stream_covisits", "item", items, "log_score", "other", MAX_COVISITS)
            elif job == "histories":
                self._count_applied(connection, rows["seq"])
                rows = self._without_forgotten(connection, rows)
                self._insert(connection, "stream_events", rows.unique(["user", "seq"]))
                users = _part(rows["user"], version)
                self._trim_large(connection, "stream_events", "user", users, "seq", "seq", MAX_HISTORY_EVENTS)
            elif job == "sessions":
                rows = self._without_forgotten(connection, rows)
                self._merge(connection, "stream_sessions", merge_session_buckets(rows))
                users = _part(rows["user"], version)
                self._trim_large(connection, "stream_sessions", "user", users, "bucket", "bucket", MAX_SESSION_BUCKETS)
            else:
                sums = rows.group_by("placement", "item").agg(pl.col("shown", "clicked").sum())
                self._merge(connection, "stream_clicks", sums)
            return True

    def _without_forgotten(self, connection: Any, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows (user, seq, ...) but those of before their user was forgotten."""
        forgotten = dict(self._select(connection, "hash, seq", "stream_forgotten"))
        if not forgotten or rows.is_empty():
            return rows
        users = rows["user"].unique()
        upto = pl.DataFrame({"user": users, "upto": [forgotten.get(hash_of(user), -1) for user in users]})
        return rows.join(upto, on="user", how="left").filter(pl.col("seq") > pl.col("upto")).drop("upto")

    def _count_applied(self, connection: Any, seqs: pl.Series) -> None:
        """Count applied rows by segment, and move the mark past segments that are complete."""
        segments = self._select(connection, "first, last, n_rows, applied", "stream_segments", "ORDER BY first")
        if not segments:
            return
        firsts, lasts = (np.array([row[place] for row in segments], dtype=np.int64) for place in (0, 1))
        numbers = seqs.to_numpy()
        places = np.searchsorted(firsts, numbers, side="right") - 1
        within = (places >= 0) & (numbers <= lasts[places])
        counts = np.bincount(places[within], minlength=len(segments))
        for (first, *_), n_applied in zip(segments, counts.tolist(), strict=True):
            if n_applied:
                sql = "UPDATE stream_segments SET applied = applied + :n WHERE state = :state AND first = :first"
                self._execute(connection, sql, n=n_applied, first=first)
        self._advance_mark(connection)

    def _advance_mark(self, connection: Any) -> None:
        segments = self._select(connection, "first, last, n_rows, applied", "stream_segments", "ORDER BY first")
        mark = self._mark(connection)
        for first, last, n_rows, applied in segments:
            if first != mark + 1 or applied < n_rows:
                break
            mark = last
        self._execute(connection, "DELETE FROM stream_segments WHERE state = :state AND last <= :mark", mark=mark)
        self._set(connection, "stream_marks", {"name": "histories", "seq": mark})

    def set_segments(self, names: Iterable[str]) -> None:
        segments = [segment for name in names if (segment := Segment.of_name(name)) and segment.kind == "events"]
        rows = [(one.first, one.last, one.rows, 0) for one in segments]
        schema = dict.fromkeys(("first", "last", "n_rows", "applied"), pl.Int64)
        frame = pl.DataFrame(rows, schema=schema, orient="row")
        if self._known_last() >= max((one.last for one in segments), default=0):
            return
        with self._writing() as connection:
            self._insert(connection, "stream_segments", frame.filter(pl.col("last") > self._mark(connection)))

    def _known_last(self) -> int:
        """The last sequence number of all segments that were told."""
        with self._reading() as connection:
            ((last,),) = self._select(connection, "coalesce(max(last), 0)", "stream_segments")
            return max(int(last), self._mark(connection))

    def forget(self, user: str, seq: int) -> None:
        with self._writing() as connection:
            before = self._select(connection, "seq", "stream_forgotten", "AND hash = :hash", hash=hash_of(user))
            upto = max([seq, *(row[0] for row in before)])
            self._set(connection, "stream_forgotten", {"hash": hash_of(user), "seq": upto})
            self._execute(
                connection, 'DELETE FROM stream_events WHERE state = :state AND "user" = :user AND seq <= :seq',
                user=user, seq=upto,
            )  # fmt: skip
            self._execute(connection, 'DELETE FROM stream_sessions WHERE state = :state AND "user" = :user', user=user)
            for job in ("histories", "sessions"):
                self._next_version(connection, job)
        if self._dialect == "sqlite":  # what was overwritten must not live on in the write-ahead log
            with self._translated(), self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def has_forgotten(self, user: str) -> bool:
        with self._reading() as connection:
            return bool(self._select(connection, "seq", "stream_forgotten", "AND hash = :hash", hash=hash_of(user)))

    def maintain(self) -> None:
        """Nothing: a database holds all users."""

    def clear(self) -> None:
        with self._writing() as connection:
            for table in _TABLES:
                if table not in ("stream_forgotten", "stream_versions"):
                    self._execute(connection, f"DELETE FROM {table} WHERE state = :state")
            self._execute(connection, "UPDATE stream_versions SET version = version + 1 WHERE state = :state")

    def applied_files(self, job: str) -> set[str]:
        with self._reading() as connection:
            return {file for (file,) in self._select(connection, "file", "stream_files", "AND job = :job", job=job)}

    def remove_marks(self, job: str, files: Sequence[str]) -> None:
        if files:
            with self._writing() as connection:
                within = self._within("file")
                self._execute(
                    connection, f"DELETE FROM stream_files WHERE state = :state AND job = :job AND {within}",
                    job=job, values=self._array(list(files)),
                )  # fmt: skip

    # -- reading ------------------------------------------------------------------------------------------------------

    def trending(self, n: int) -> pl.DataFrame:
        order = "ORDER BY log_score DESC, item LIMIT :n"
        return self._frame(TRENDING_FRAME, "stream_trending", order, n=n)

    def _covisits(self, items: list[str], n: int) -> pl.DataFrame:
        place = "row_number() OVER (PARTITION BY item ORDER BY log_score DESC, other)"
        ranked = f"SELECT item, other, log_score, {place} AS place FROM stream_covisits WHERE state = :state"
        ranked += f" AND {self._within('item')}"
        query = f"SELECT item, other, log_score FROM ({ranked}) AS ranked WHERE place <= :n"
        with self._reading() as connection:
            rows = self._execute(connection, query, values=self._array(items), n=n).all()
        return pl.DataFrame(rows, schema=COVISITS_FRAME, orient="row")

    def history(self, user: str, limit: int = MAX_HISTORY_EVENTS) -> tuple[list[Event], int]:
        names = ", ".join(f'"{name}"' for name in HISTORY_EVENT)
        with self._reading() as connection:
            mark = self._mark(connection)  # first: the events are of then or later
            rows = self._select(
                connection, names, "stream_events", 'AND "user" = :user ORDER BY seq DESC LIMIT :limit', user=user,
                limit=limit,
            )  # fmt: skip
        return history_of_rows(user, rows), mark

    def _session_buckets(self, user: str) -> pl.DataFrame:
        query = 'AND "user" = :user ORDER BY bucket DESC LIMIT :limit'
        return self._frame(BUCKETS_FRAME, "stream_sessions", query, user=user, limit=MAX_SESSION_BUCKETS)

    def click_through(self, placement: str) -> pl.DataFrame:
        query = "AND placement = :placement"
        return self._frame(CLICK_THROUGH_FRAME, "stream_clicks", query, placement=placement).sort("item")

    def version(self, job: str) -> int:
        with self._reading() as connection:
            rows = self._select(connection, "version", "stream_versions", "AND job = :job", job=job)
        return int(rows[0][0]) if rows else 0

    @property
    def mark(self) -> int:
        with self._reading() as connection:
            return self._mark(connection)

    @property
    def is_incomplete(self) -> bool:
        with self._reading() as connection:
            return bool(self._select(connection, "seq", "stream_marks", "AND name = 'incomplete'"))

    def set_incomplete(self) -> None:
        with self._writing() as connection:
            self._set(connection, "stream_marks", {"name": "incomplete", "seq": 1})

    def close(self) -> None:
        self._engine.dispose()

    # -- statements ---------------------------------------------------------------------------------------------------

    def _create(self, connection: Any) -> None:
        for table, (keys, others) in _TABLES.items():
            columns = ", ".join(f'"{name}" {kind}' for name, kind in {"state": _TEXT, **keys, **others}.items())
            key = ", ".join(f'"{name}"' for name in ("state", *keys))
            rowid = " WITHOUT ROWID" if self._dialect == "sqlite" else ""
            connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {table} ({columns}, PRIMARY KEY ({key})){rowid}")
        connection.exec_driver_sql(
            "CREATE INDEX IF NOT EXISTS stream_trending_best ON stream_trending (state, log_score DESC, item)"
        )

    def _insert(self, connection: Any, table: str, rows: pl.DataFrame, update: str = "NOTHING") -> int:
        """Insert rows of distinct keys; `update` is what is done with those that are there. Returns how many."""
        if rows.is_empty():
            return 0
        keys, others = _TABLES[table]
        kinds = {**keys, **others}
        rows = rows.select(*kinds).sort(*keys)  # always in the same order, so that no two transactions block each other
        names = ", ".join(f'"{name}"' for name in kinds)
        key_names = ", ".join(f'"{name}"' for name in ("state", *keys))
        conflict = f"ON CONFLICT ({key_names}) DO {update}"
        if self._dialect == "sqlite":
            places = ", ".join("?" * len(kinds))
            sql = f"INSERT INTO {table} (state, {names}) VALUES ('{self._name}', {places}) {conflict}"
            return int(connection.exec_driver_sql(sql, rows.rows()).rowcount)
        arrays = ", ".join(f"%s::{_ARRAY_TYPES[kind]}" for kind in kinds.values())
        sql = f"INSERT INTO {table} (state, {names}) SELECT %s, * FROM unnest({arrays}) {conflict}"
        values = (self._name, *(column.to_list() for column in rows))
        return int(connection.exec_driver_sql(sql, values).rowcount)

    def _merge(self, connection: Any, table: str, rows: pl.DataFrame) -> None:
        """Insert rows, or merge them into those of the same key."""
        merged = []
        for name in _TABLES[table][1]:
            old, new = f'{table}."{name}"', f'excluded."{name}"'
            if name == "log_score":
                value = _MERGED_LOG_SCORE[self._dialect].format(old=old, new=new)
            elif name in ("first", "last"):
                value = f"{(_LEAST if name == 'first' else _GREATEST)[self._dialect]}({old}, {new})"
            else:
                value = f"{old} + {new}"
            merged.append(f'"{name}" = {value}')
        self._insert(connection, table, rows, f"UPDATE SET {', '.join(merged)}")

    def _set(self, connection: Any, table: str, row: Mapping[str, Any]) -> None:
        """Insert a row, or overwrite the one of the same key."""
        values = ", ".join(f'"{name}" = excluded."{name}"' for name in _TABLES[table][1])
        self._insert(connection, table, pl.DataFrame([row]), f"UPDATE SET {values}")

    def _next_version(self, connection: Any, job: str) -> int:
        self._merge(connection, "stream_versions", pl.DataFrame({"job": [job], "version": [1]}))
        ((version,),) = self._select(connection, "version", "stream_versions", "AND job = :job", job=job)
        return int(version)

    def _trim_large(
        self, connection: Any, table: str, group: str, groups: list[str], order: str, tie: str, keep: int
    ) -> None:
        """Of these groups, trim those that have more than twice as many rows as are kept."""
        if groups:
            sql = f'SELECT "{group}" FROM {table} WHERE state = :state AND {self._within(group)} '
            sql += f'GROUP BY "{group}" HAVING count(*) > :most'
            large = self._execute(connection, sql, values=self._array(groups), most=2 * keep).scalars().all()
            self._trim(connection, table, group, large, order, tie, keep)

    def _trim(
        self, connection: Any, table: str, group: str | None, groups: Sequence[Any], order: str, tie: str, keep: int
    ) -> None:
        """Delete all rows of each group but the `keep` of the highest `order`; of equal ones the lowest tie counts."""
        within = "" if group is None else f'AND "{group}" = :group'
        query = f'{within} ORDER BY "{order}" DESC, "{tie}" LIMIT 1 OFFSET :place'
        for one in groups:
            lowest = self._select(connection, f'"{order}", "{tie}"', table, query, group=one, place=keep - 1)
            if lowest:
                sql = f'DELETE FROM {table} WHERE state = :state {within} AND ("{order}" < :order OR '
                sql += f'("{order}" = :order AND "{tie}" > :tie))'
                self._execute(connection, sql, group=one, order=lowest[0][0], tie=lowest[0][1])

    def _mark(self, connection: Any) -> int:
        rows = self._select(connection, "seq", "stream_marks", "AND name = 'histories'")
        return int(rows[0][0]) if rows else 0

    def _frame(self, schema: Mapping[str, Any], table: str, query: str, **values: Any) -> pl.DataFrame:
        with self._reading() as connection:
            rows = self._select(connection, ", ".join(f'"{name}"' for name in schema), table, query, **values)
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _select(self, connection: Any, columns: str, table: str, rest: str = "", **values: Any) -> Sequence[Any]:
        sql = f"SELECT {columns} FROM {table} WHERE state = :state {rest}"
        rows: Sequence[Any] = [tuple(row) for row in self._execute(connection, sql, **values)]
        return rows

    def _execute(self, connection: Any, sql: str, **values: Any) -> Any:
        used = {name: value for name, value in values.items() if f":{name}" in sql}
        return connection.execute(sa.text(sql), {"state": self._name, **used})

    def _within(self, column: str) -> str:
        """A condition: the column is one of the parameter `values`, which `_array` gives."""
        if self._dialect == "sqlite":
            return f'"{column}" IN (SELECT value FROM json_each(:values))'
        return f'"{column}" = ANY(:values)'

    def _array(self, values: list[str]) -> Any:
        return json.dumps(values) if self._dialect == "sqlite" else values

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        """A transaction that no other of this name runs beside."""
        with self._translated(), self._engine.connect() as connection:
            if self._dialect == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({self._lock_id})")
            yield connection
            connection.commit()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError) as error:
            lines = str(getattr(error, "orig", None) or error).splitlines()
            cause = (lines or [type(error).__name__])[0][:200]
            if isinstance(error, sa.exc.DataError | sa.exc.IntegrityError):  # the rows, and not the database
                raise DataError(f"the rows cannot be merged: {cause}", remedy="see its job's log") from None
            raise StreamStateAwayError(
                f"the streamed state cannot be used: {cause}",
                remedy="see whether its database runs, and [service] streams",
            ) from None


def _configure(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say
    for setting in _PRAGMAS:
        connection.execute(f"PRAGMA {setting}")
    connection.create_function("merge_log_scores", 2, _merged, deterministic=True)


def _merged(one: float, other: float) -> float:
    """`merge_log_scores` of two numbers."""
    low, high = (one, other) if one < other else (other, one)
    return high + math.log2(1.0 + 2.0 ** (low - high))


def _part(values: pl.Series, version: int) -> list[str]:
    """One of _TRIM_PART parts of distinct values, another for each version."""
    distinct = values.unique()
    part: list[str] = distinct.filter(distinct.hash() % _TRIM_PART == version % _TRIM_PART).to_list()
    return part
