"""Traces: the lists that were made, with their reasons and propensities, and the impressions that were really shown.

A trace has a head, which is JSON (the request, the settings, the reasons), and arrays (scores, propensities), stored as
safetensors: bytes with a description, nothing that runs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sqlite3
import time as clock
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load

from zhiyin.core.errors import DataError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.text_validation import text
from zhiyin.store.database import Database
from zhiyin.store.records import hash_of
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.sqlite_fast_path import SqliteFastPath
from zhiyin.store.tables import (
    FORGOTTEN,
    IMPRESSIONS,
    LIST_NUMBERS,
    LISTS,
    OPEN_DECISIONS,
    REPORTED_REWARDS,
    TABLES_OF_LISTS,
    number_lists,
)

MAX_TRACES_PER_TRANSACTION = 200
# Bytes of one trace: of its head, and of its arrays compressed.
MAX_TRACE_BYTES = 4 * 1024 * 1024
MAX_IMPRESSION_ITEMS = 10_000
# Rows of one deletion at most.
DELETE_BATCH_ROWS = 1_000
# Seconds between two transactions of traces, in which events get their turn.
PAUSE_SECONDS = 0.002
_COLUMNS = ("list_id", "user", "time", "version", "placement", "head", "arrays")


NUMBERED_LISTS: dict[str, Any] = {
    "number": pl.Int64, "list_id": pl.String, "placement": pl.String, "version": pl.Int64, "user": pl.String,
    "time": pl.Int64, "head": pl.String,
}  # fmt: skip
# Fixed statements; see `Database.fetch`.
_NUMBERED_LISTS = (
    sa.select(LIST_NUMBERS.c.seq, *(LISTS.c[name] for name in NUMBERED_LISTS if name != "number"))
    .join(LISTS, LISTS.c.list_id == LIST_NUMBERS.c.list_id)
    .where(LIST_NUMBERS.c.seq > sa.bindparam("after", type_=sa.BigInteger))
    .order_by(LIST_NUMBERS.c.seq)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_LAST_LIST_NUMBER = sa.select(sa.func.coalesce(sa.func.max(LIST_NUMBERS.c.seq), 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """One list that was made.

    Parameters
    ----------
    user: None where the request named none.
    time: microseconds UTC.
    version: of the models.
    placement: where the list is shown.
    head: JSON.
    arrays: numbers by name, of any shape.
    """

    list_id: str
    user: str | None
    time: int
    version: int
    placement: str
    head: dict[str, Any]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(part.nbytes for part in self.arrays.values())


def trace_row(trace: Trace) -> dict[str, Any]:
    """The row of `lists` for a trace. Raises DataError for one that cannot be stored."""
    text(trace.list_id, "list_id", MAX_ID_CHARS)
    text(trace.placement, "placement", MAX_ID_CHARS)
    if trace.user is not None:
        text(trace.user, "user", MAX_ID_CHARS)
    try:
        head = _head_json(trace.head)
        size = len(head.encode())
        arrays = None
        if trace.arrays:
            arrays = zlib.compress(packed_arrays(trace.arrays), 1)
    except (TypeError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"a trace cannot be kept: {error}", remedy="JSON in the head, numbers in the arrays") from None
    if size + len(arrays or b"") > MAX_TRACE_BYTES:
        raise DataError("a trace is too large", remedy=f"at most {MAX_TRACE_BYTES // 1024 // 1024} MiB")
    row = (trace.list_id, trace.user, int(trace.time), int(trace.version), trace.placement, head, arrays)
    return dict(zip(_COLUMNS, row, strict=True))


def trace_of_row(row: Any) -> Trace:
    """The trace of a row of `lists`. Raises DataError where it is damaged."""
    list_id, user, time, version, placement, head, arrays = row
    try:
        arrays_by_name = {} if arrays is None else load(zlib.decompress(arrays))
        return Trace(list_id, user, int(time), int(version), placement, json.loads(head), arrays_by_name)
    except (zlib.error, SafetensorError, ValueError) as error:
        raise DataError(f"the trace of list {list_id} is damaged: {error}", remedy="restore a backup") from None


def _head_json(head: Mapping[str, Any]) -> str:
    """A head as JSON without spaces. Raises TypeError or ValueError for what JSON cannot hold, NaN among it."""
    try:
        packed = orjson.dumps(head)
    except TypeError:  # keys that are no texts, a number beyond 64 bits, half a character
        packed = b""
    if not packed or b"null" in packed:  # orjson writes NaN as null
        return json.dumps(head, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return packed.decode()


# Types of safetensors by their names.
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U64": "<u8",
    "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?",
}  # fmt: skip


_DTYPE_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}


def packed_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as safetensors; many small ones are packed faster than by the library.

    Raises KeyError for a type that safetensors has not.
    """
    by_name = {name: np.asarray(array) for name, array in arrays.items()}
    header, names = _safetensors_header(tuple((name, array.dtype, array.shape) for name, array in by_name.items()))
    return b"".join([header, *(by_name[name].tobytes() for name in names)])


@functools.lru_cache(4_096)
def _safetensors_header(layout: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]) -> tuple[bytes, list[str]]:
    """The bytes before the numbers of arrays with these names, types and shapes, and the order of the arrays.

    Traces of similar requests have the same layout.
    """
    header: dict[str, Any] = {}
    start = 0
    # Of wide numbers first, so that all of them are aligned.
    for name, dtype, shape in sorted(layout, key=lambda entry: (-entry[1].itemsize, entry[0])):
        end = start + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": shape, "data_offsets": (start, end)}
        start = end
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, list(header)


def array_views(packed: bytes) -> dict[str, np.ndarray]:
    """The arrays of a row of `lists`, as views of their bytes: they cannot be written. Faster than `trace_of_row`.

    Raises ValueError, KeyError, TypeError or zlib.error where the bytes are no safetensors.
    """
    data = memoryview(zlib.decompress(packed))
    start = 8 + int.from_bytes(data[:8], "little")
    arrays = {}
    for name, entry in json.loads(str(data[8:start], "utf-8")).items():
        if name == "__metadata__":
            continue
        (begin, end), shape = entry["data_offsets"], entry["shape"]
        arrays[name] = np.frombuffer(data[start + begin : start + end], _DTYPES[entry["dtype"]]).reshape(shape)
    return arrays


class TraceTables(Database):
    """Traces and impressions in a database."""

    def append_traces(self, traces: Sequence[Trace]) -> int:
        """Insert traces; returns how many. Left out are lists that are stored, and those of before their user was
        forgotten.

        Raises DataError for a trace that cannot be stored; none is inserted then.
        """
        return self.append_trace_rows([trace_row(trace) for trace in traces])

    def append_trace_rows(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """As `append_traces`, for rows that `trace_row` gave."""
        return sum(
            self._insert_rows(rows[start : start + MAX_TRACES_PER_TRANSACTION])
            for start in range(0, len(rows), MAX_TRACES_PER_TRANSACTION)
        )

    def _insert_rows(self, rows: Sequence[Mapping[str, Any]]) -> int:
        hash_by_user = {row["user"]: hash_of(row["user"]) for row in rows if row["user"] is not None}
        if self._fast_path is not None:
            return self._insert_rows_directly(self._fast_path, rows, hash_by_user)
        query = sa.select(FORGOTTEN.c.hash, FORGOTTEN.c.received).where(FORGOTTEN.c.hash.in_(hash_by_user.values()))
        with self.writing(durable=False) as connection:
            forgotten = dict(connection.execute(query).all())
            rows = _not_forgotten(rows, hash_by_user, forgotten)
            if not rows:
                return 0
            insert = self._insert(LISTS).on_conflict_do_nothing().returning(LISTS.c.list_id)
            new = set(connection.execute(insert, rows).scalars())
            number_lists(connection, list(new))
            decided = [row for row in rows if row["list_id"] in new and _has_decision(row["head"])]
            if decided:
                names = ("list_id", "placement", "time")
                open_decisions = [{name: row[name] for name in names} for row in decided]
                connection.execute(self._insert(OPEN_DECISIONS).on_conflict_do_nothing(), open_decisions)
            return len(new)

    def _insert_rows_directly(
        self, fast_path: SqliteFastPath, rows: Sequence[Mapping[str, Any]], hash_by_user: Mapping[str, str]
    ) -> int:
        """As `_insert_rows`, in SQLite: SQLAlchemy takes several times as long as the database for so small rows."""
        with fast_path.write_turn(), fast_path.connection() as connection:
            connection.execute("PRAGMA synchronous=NORMAL")  # a power cut may lose the transaction, and only it
            try:
                connection.execute("BEGIN IMMEDIATE")
                hashes = list(hash_by_user.values())
                places = ",".join("?" * len(hashes))
                query = f"SELECT hash, received FROM forgotten WHERE hash IN ({places})"
                forgotten = dict(connection.execute(query, hashes).fetchall()) if hashes else {}
                kept = _not_forgotten(rows, hash_by_user, forgotten)
                new = [row for row in kept if connection.execute(_INSERT_LIST, row).rowcount]
                _insert_marks_of_lists(connection, new)
                connection.execute("COMMIT")
                return len(new)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                connection.execute("PRAGMA synchronous=FULL")

    def numbered_lists(self, after: int = 0, limit: int = 1_000) -> pl.DataFrame:
        """Lists in the order in which they were committed, from the one after a number on.

        Frame number, list_id, placement, version, user, time, head: numbers are given to lists in this order and never
        twice, so that a reader that goes on from a number misses none. `user` may be null; `head` is JSON.
        """
        rows = self.fetch(_NUMBERED_LISTS, after=after, limit=limit)
        return pl.DataFrame(rows, schema=NUMBERED_LISTS, orient="row")

    @property
    def highest_list_number(self) -> int:
        """The number of the newest list; 0 where there is none."""
        return int(self.fetch(_LAST_LIST_NUMBER)[0][0])

    def trace(self, list_id: str) -> Trace | None:
        """The trace of a list; None where it is not stored."""
        with self.reading() as connection:
            row = connection.execute(sa.select(LISTS).where(LISTS.c.list_id == list_id)).first()
        return None if row is None else trace_of_row(row)

    def traces(self, user: str | None = None, after_time: int = 0, limit: int = 1_000) -> list[Trace]:
        """Traces of lists that were made after a time, oldest first; of one user, or of all."""
        query = sa.select(LISTS).where(LISTS.c.time > after_time).order_by(LISTS.c.time, LISTS.c.list_id).limit(limit)
        if user is not None:
            query = query.where(LISTS.c.user == user)
        with self.reading() as connection:
            rows = connection.execute(query).all()
        return [trace_of_row(row) for row in rows]

    def traces_with_features(self, limit: int = 50, after_time: int = 0) -> list[Trace]:
        """The newest traces that hold the features of a ranker, newest first; of lists made after a time."""
        # The head is JSON without spaces, and quotes inside its texts are escaped.
        has_features = LISTS.c.head.like('%"features":"%') & LISTS.c.arrays.is_not(None)
        query = sa.select(LISTS).where(LISTS.c.time > after_time, has_features).order_by(LISTS.c.time.desc())
        with self.reading() as connection:
            return [trace_of_row(row) for row in connection.execute(query.limit(limit))]

    def append_impression(self, list_id: str, time: int, items: Sequence[str]) -> None:
        """Insert the items of a list that were really shown, in order; committed when this returns.

        Of one list and time only the first impression is stored. Raises DataError for ids that are not valid, and for
        more than MAX_IMPRESSION_ITEMS.
        """
        text(list_id, "list_id", MAX_ID_CHARS)
        if len(items) > MAX_IMPRESSION_ITEMS:
            raise DataError(
                f"{len(items):,} items were shown", column="items", remedy=f"at most {MAX_IMPRESSION_ITEMS:,}"
            )
        items_json = json.dumps([text(item, "items", MAX_ID_CHARS) for item in items], ensure_ascii=False)
        row = {"list_id": list_id, "time": int(time), "items": items_json}
        with self.writing() as connection:
            connection.execute(self._insert(IMPRESSIONS).values(row).on_conflict_do_nothing())

    def impressions(self, list_id: str) -> list[tuple[int, list[str]]]:
        """Times at which a list was really shown, and the items that were; oldest first."""
        columns = IMPRESSIONS.c
        query = sa.select(columns.time, columns["items"]).where(columns.list_id == list_id)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(columns.time, columns.seq)).all()
        return [(int(time), json.loads(items)) for time, items in rows]

    def trace_count_and_bytes(self) -> tuple[int, int]:
        """The number of traces, and their bytes, estimated by the mean of the newest DELETE_BATCH_ROWS."""
        sizes = sa.func.length(LISTS.c.head) + sa.func.coalesce(sa.func.length(LISTS.c.arrays), 0)
        newest = sa.select(sizes.label("size")).order_by(LISTS.c.time.desc()).limit(DELETE_BATCH_ROWS).subquery()
        with self.reading() as connection:
            number = int(connection.execute(sa.select(sa.func.count()).select_from(LISTS)).scalar_one())
            mean = connection.execute(sa.select(sa.func.avg(newest.c.size))).scalar()
        return number, int(number * float(mean or 0))

    def list_time_at(self, position: int) -> int | None:
        """When the list at a position, from the oldest on, was made; None where there are fewer."""
        query = sa.select(LISTS.c.time).order_by(LISTS.c.time).offset(position).limit(1)
        with self.reading() as connection:
            time = connection.execute(query).scalar()
        return None if time is None else int(time)

    def drop_lists_before(self, time: int) -> int:
        """Delete the lists of before a time, microseconds UTC, with their impressions, decisions and rewards.

        Returns the number of lists.
        """
        n_dropped = 0
        for number, n_lists in enumerate(self.drop_lists_in_batches(time)):
            if number:
                clock.sleep(PAUSE_SECONDS)
            n_dropped += n_lists
        return n_dropped

    def drop_lists_in_batches(self, time: int) -> Iterator[int]:
        """As `drop_lists_before`, a transaction at a time: yields the number of lists that each deleted."""
        oldest_lists = sa.select(LISTS.c.list_id).where(LISTS.c.time < time).order_by(LISTS.c.time)
        while True:
            with self.writing() as connection:
                list_ids = list(connection.execute(oldest_lists.limit(DELETE_BATCH_ROWS)).scalars())
                if list_ids:
                    for table in (*TABLES_OF_LISTS, LISTS):
                        connection.execute(sa.delete(table).where(table.c.list_id.in_(list_ids)))
            if not list_ids:
                break
            yield len(list_ids)
        # And impressions and rewards of lists that were never stored.
        for table, column in ((IMPRESSIONS, IMPRESSIONS.c.time), (REPORTED_REWARDS, REPORTED_REWARDS.c.received)):
            oldest = sa.select(table.c.seq).where(column < time).order_by(column).limit(DELETE_BATCH_ROWS)
            while True:
                with self.writing() as connection:
                    n_deleted = connection.execute(sa.delete(table).where(table.c.seq.in_(oldest))).rowcount
                if not n_deleted:
                    break
                yield 0


# SQLite: a row of `trace_row` that is not stored yet.
_INSERT_LIST = (
    f"INSERT INTO {LISTS.name} ({', '.join(map(json.dumps, _COLUMNS))}) "
    f"VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) ON CONFLICT DO NOTHING"
)


def _insert_marks_of_lists(connection: sqlite3.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Give numbers to lists that were just inserted, as `number_lists` does, and note those that a policy decided."""
    in_order = sorted((row["time"], row["list_id"]) for row in rows)
    number = f"INSERT INTO {LIST_NUMBERS.name} (list_id) VALUES (?) ON CONFLICT DO NOTHING"
    connection.executemany(number, [(list_id,) for _, list_id in in_order])
    decided = [(row["list_id"], row["placement"], row["time"]) for row in rows if _has_decision(row["head"])]
    open_decision = f"INSERT INTO {OPEN_DECISIONS.name} (list_id, placement, time) VALUES (?, ?, ?)"
    connection.executemany(f"{open_decision} ON CONFLICT DO NOTHING", decided)


def _not_forgotten(
    rows: Sequence[Mapping[str, Any]], hash_by_user: Mapping[str, str], forgotten: Mapping[str, int]
) -> list[Any]:
    """Rows but those of lists that were made before their user was forgotten."""
    return [row for row in rows if row["user"] is None or row["time"] > forgotten.get(hash_by_user[row["user"]], -1)]


def _has_decision(head: str) -> bool:
    """Whether the JSON of a head says that a policy decided the list."""
    return '"decision":{' in head and isinstance(json.loads(head).get("decision"), dict)
