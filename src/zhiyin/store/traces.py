"""Traces: what was shown to whom, why, and with what chance; and a writer of them that nobody has to wait for.

A trace has a head, which is JSON (the request, the settings, the reasons), and arrays (scores, propensities), kept as
safetensors: bytes with a description, nothing that runs. An event must not be lost; a trace of the last moment may be,
in a crash.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from zhiyin.core.errors import DataError, MissingExtraError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.run import log
from zhiyin.core.texts import text
from zhiyin.store.connection import Database
from zhiyin.store.records import Event, events_from_rows, hash_of
from zhiyin.store.tables import EVENTS, FORGOTTEN, IMPRESSIONS, LISTS

try:
    import sqlalchemy as sa
except ImportError:
    raise MissingExtraError("sqlalchemy", "serve", "the store") from None

# Traces of one transaction at most; bytes of one trace, packed; items of one impression; rows deleted at once.
MAX_TRACES_PER_TRANSACTION, MAX_TRACE_BYTES, MAX_IMPRESSION_ITEMS, DELETE_BATCH_ROWS = (
    200,
    4 * 1024 * 1024,
    10_000,
    1_000,
)
# Seconds between two transactions of traces, in which events get their turn; and in which traces gather for one: each
# transaction, and each waking of the thread, costs as much as the traces of some lists.
PAUSE_SECONDS, GATHER_SECONDS = 0.002, 0.1
_NAMES = ("list_id", "user", "time", "version", "placement", "head", "arrays")


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """One list that was made.

    Parameters
    ----------
    user: None where there was none. time: microseconds UTC. version: of the models. placement: where it is shown.
    head: JSON. arrays: numbers by name, of any shape.
    """

    list_id: str
    user: str | None
    time: int
    version: int
    placement: str
    head: dict[str, Any]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def packed(trace: Trace) -> dict[str, Any]:
    """The row of a trace. Raises DataError for one that cannot be kept."""
    text(trace.list_id, "list_id", MAX_ID_CHARS)
    text(trace.placement, "placement", MAX_ID_CHARS)
    if trace.user is not None:
        text(trace.user, "user", MAX_ID_CHARS)
    try:
        head = json.dumps(trace.head, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(head.encode())
        arrays = None
        if trace.arrays:
            arrays = zlib.compress(save({n: np.asarray(a, order="C") for n, a in trace.arrays.items()}), 1)
    except (TypeError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"a trace cannot be kept: {error}", remedy="JSON in the head, numbers in the arrays") from None
    if size + len(arrays or b"") > MAX_TRACE_BYTES:
        raise DataError("a trace is too large", remedy=f"at most {MAX_TRACE_BYTES // 1024 // 1024} MiB")
    row = (trace.list_id, trace.user, int(trace.time), int(trace.version), trace.placement, head, arrays)
    return dict(zip(_NAMES, row, strict=True))


def unpacked(row: Any) -> Trace:
    """The trace of a row. Raises DataError where it is damaged."""
    list_id, user, when, version, placement, head, arrays = row
    try:
        arrays_by_name = {} if arrays is None else load(zlib.decompress(arrays))
        return Trace(list_id, user, int(when), int(version), placement, json.loads(head), arrays_by_name)
    except (zlib.error, SafetensorError, ValueError) as error:
        raise DataError(f"the trace of list {list_id} is damaged: {error}", remedy="restore a backup") from None


_GONE = "SELECT received FROM forgotten WHERE hash = ?"


class TraceTables(Database):
    """Traces and impressions in a database."""

    def forgotten_at(self, user: str) -> int:
        """When a user was forgotten last, microseconds UTC; 0: never."""
        if self.path is not None:
            with self._raw() as raw:
                row = raw.execute(_GONE, (hash_of(user),)).fetchone()
            return int(row[0] or 0) if row else 0
        with self.reading() as connection:
            query = sa.select(FORGOTTEN.c.received).where(FORGOTTEN.c.hash == hash_of(user))
            return int(connection.execute(query).scalar() or 0)

    def append_traces(self, traces: Sequence[Trace]) -> int:
        """Keep traces; returns how many. Not of a list known already, nor made before its user was forgotten.

        Raises DataError for one that cannot be, and keeps none.
        """
        return self.append_trace_rows([packed(trace) for trace in traces])

    def append_trace_rows(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """As `keep_traces`, for rows that `packed` gave."""
        n_stored = 0
        for start in range(0, len(rows), MAX_TRACES_PER_TRANSACTION):
            n_stored += self._keep_group(rows[start : start + MAX_TRACES_PER_TRANSACTION])
        return n_stored

    def _keep_group(self, rows: Sequence[Mapping[str, Any]]) -> int:
        by_user = {row["user"]: hash_of(row["user"]) for row in rows if row["user"] is not None}
        hashes = list(by_user.values())
        if self.path is not None:
            names, marks = ", ".join(f'"{name}"' for name in _NAMES), ", ".join("?" * len(_NAMES))
            with self._raw_writing(durable=False) as connection:
                query = f"SELECT hash, received FROM forgotten WHERE hash IN ({', '.join('?' * len(hashes))})"
                forgotten = dict(connection.execute(query, hashes).fetchall())
                some = _not_forgotten(rows, by_user, forgotten)
                done = connection.executemany(
                    f"INSERT INTO lists ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING",
                    [tuple(row[name] for name in _NAMES) for row in some],
                )
                return done.rowcount if some else 0
        with self.writing(durable=False) as connection:
            query_forgotten = sa.select(FORGOTTEN.c.hash, FORGOTTEN.c.received).where(FORGOTTEN.c.hash.in_(hashes))
            some = _not_forgotten(rows, by_user, dict(tuple(row) for row in connection.execute(query_forgotten)))
            if not some:
                return 0
            insert = self._insert(LISTS).on_conflict_do_nothing().returning(LISTS.c.list_id)
            return len(connection.execute(insert, some).all())

    def trace(self, list_id: str) -> Trace | None:
        """Of a list; None where it is not kept."""
        with self.reading() as connection:
            row = connection.execute(sa.select(LISTS).where(LISTS.c.list_id == list_id)).first()
        return None if row is None else unpacked(row)

    def traces(self, user: str | None = None, after_time: int = 0, most: int = 1_000) -> list[Trace]:
        """Of lists made after a moment, oldest first; of one user, or of all."""
        query = sa.select(LISTS).where(LISTS.c.time > after_time).order_by(LISTS.c.time, LISTS.c.list_id).limit(most)
        if user is not None:
            query = query.where(LISTS.c.user == user)
        with self.reading() as connection:
            rows = connection.execute(query).all()
        return [unpacked(row) for row in rows]

    def traces_with_features(self, most: int = 50, after_time: int = 0) -> list[Trace]:
        """The newest traces that hold what a ranker read, newest first; of lists made after a moment."""
        # JSON without spaces; a quote inside a text is escaped.
        held = LISTS.c.head.like('%"features":"%') & LISTS.c.arrays.is_not(None)
        query = sa.select(LISTS).where(LISTS.c.time > after_time, held).order_by(LISTS.c.time.desc()).limit(most)
        with self.reading() as connection:
            return [unpacked(row) for row in connection.execute(query)]

    def append_impression(self, list_id: str, time: int, items: Sequence[str]) -> None:
        """Keep what was really shown of a list, in order; committed when this returns.

        Of one list and moment only the first is kept. Raises DataError for what cannot be.
        """
        text(list_id, "list_id", MAX_ID_CHARS)
        if len(items) > MAX_IMPRESSION_ITEMS:
            raise DataError(
                f"{len(items):,} items were shown", column="items", remedy=f"at most {MAX_IMPRESSION_ITEMS:,}"
            )
        shown_items = json.dumps([text(item, "items", MAX_ID_CHARS) for item in items], ensure_ascii=False)
        row = {"list_id": list_id, "time": int(time), "items": shown_items}
        with self.writing() as connection:
            connection.execute(self._insert(IMPRESSIONS).values(row).on_conflict_do_nothing())

    def impressions(self, list_id: str) -> list[tuple[int, list[str]]]:
        """When a list was really shown, and what of it; oldest first."""
        of = IMPRESSIONS.c
        query = sa.select(of.time, of["items"]).where(of.list_id == list_id).order_by(of.time, of.seq)
        with self.reading() as connection:
            return [(int(when), json.loads(items)) for when, items in connection.execute(query)]

    def events_of_list(self, list_id: str) -> list[Event]:
        """What was done with a list, in the order it was heard of."""
        query = sa.select(*(EVENTS.c[name] for name in EVENT_COLUMNS)).where(EVENTS.c.list_id == list_id)
        with self.reading() as connection:
            return events_from_rows(connection.execute(query.order_by(EVENTS.c.seq)).all())

    def drop_lists_before(self, moment: int) -> int:
        """Forget lists from before a moment, microseconds UTC, and their impressions. Returns how many lists."""
        n_dropped = 0
        for number, n_lists in enumerate(self.drop_lists_in_batches(moment)):
            if number:
                time.sleep(PAUSE_SECONDS)
            n_dropped += n_lists
        return n_dropped

    def trace_count_and_bytes(self) -> tuple[int, int]:
        """How many traces there are, and the bytes of all, as the newest thousand tell."""
        sizes = sa.func.length(LISTS.c.head) + sa.func.coalesce(sa.func.length(LISTS.c.arrays), 0)
        newest = sa.select(sizes.label("size")).order_by(LISTS.c.time.desc()).limit(DELETE_BATCH_ROWS).subquery()
        with self.reading() as connection:
            number = int(connection.execute(sa.select(sa.func.count()).select_from(LISTS)).scalar_one())
            mean = connection.execute(sa.select(sa.func.avg(newest.c.size))).scalar()
        return number, int(number * float(mean or 0))

    def list_time_at(self, place: int) -> int | None:
        """When the list was made that so many are older than; None where there are no more."""
        query = sa.select(LISTS.c.time).order_by(LISTS.c.time).offset(place).limit(1)
        with self.reading() as connection:
            time_of_place = connection.execute(query).scalar()
        return None if time_of_place is None else int(time_of_place)

    def drop_lists_in_batches(self, moment: int) -> Iterator[int]:
        """As `drop_lists_before`, a part at a time: yields how many lists went with it."""
        impressions = IMPRESSIONS.c
        old = sa.select(LISTS.c.list_id).where(LISTS.c.time < moment).order_by(LISTS.c.time).limit(DELETE_BATCH_ROWS)
        seen = (
            sa.select(impressions.seq)
            .where(impressions.time < moment)
            .order_by(impressions.time)
            .limit(DELETE_BATCH_ROWS)
        )
        while True:
            with self.writing() as connection:
                some = list(connection.execute(old).scalars())
                if some:
                    connection.execute(sa.delete(IMPRESSIONS).where(impressions.list_id.in_(some)))
                    connection.execute(sa.delete(LISTS).where(LISTS.c.list_id.in_(some)))
            if not some:
                break
            yield len(some)
        while True:  # and those of lists that were never kept
            with self.writing() as connection:
                if not connection.execute(sa.delete(IMPRESSIONS).where(impressions.seq.in_(seen))).rowcount:
                    return
            yield 0


# Columns of an event, in the order of its fields.
EVENT_COLUMNS = tuple(field.name for field in dataclasses.fields(Event))


def _not_forgotten(
    rows: Sequence[Mapping[str, Any]], by_user: Mapping[str, str], forgotten: Mapping[str, int]
) -> list[Any]:
    """Rows but those of lists that were made before their user was forgotten."""
    return [row for row in rows if row["user"] is None or row["time"] > forgotten.get(by_user[row["user"]], -1)]


def _size(trace: Trace) -> int:
    """Bytes of a trace's arrays, and some for its head."""
    return 2_048 + sum(part.nbytes for part in trace.arrays.values())


class TraceWriter:
    """A thread that writes traces behind everybody's back.

    Parameters
    ----------
    waiting: traces that may wait at most, and bytes of their arrays; beyond it they are dropped and counted.

    Counters: `waiting`, `written`, `dropped` (there was no room), `failed` (they could not be kept).
    """

    def __init__(self, store: TraceTables, waiting: int = 10_000, bytes: int = 64 << 20) -> None:
        self.store, self.most, self.most_bytes, self._bytes = store, waiting, bytes, 0
        self.written = self.dropped = self.failed = 0
        self._queue: dict[str, Trace] = {}
        self._news, self._closed, self._streak = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._work, name="zhiyin-traces", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Traces that are not yet committed."""
        return len(self._queue)

    def put(self, trace: Trace) -> None:
        """Have a trace written. Never waits: where too many do already, or after `close`, it is dropped."""
        with self._news:
            size = _size(trace)
            if self._closed or len(self._queue) >= self.most or self._bytes + size > self.most_bytes:
                self.dropped += 1
                return
            self._bytes += size
            self._queue[trace.list_id] = trace
            if len(self._queue) in (1, MAX_TRACES_PER_TRANSACTION):
                self._news.notify()

    def find(self, list_id: str) -> Trace | None:
        """The trace of a list, written or waiting; None where there is none, or where its user was forgotten since."""
        waiting = self._queue.get(list_id)
        if waiting is None:
            return self.store.trace(list_id)
        is_forgotten = waiting.user is not None and self.store.forgotten_at(waiting.user) >= waiting.time
        return None if is_forgotten else waiting

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._news:
                while not self._queue and not self._closed:
                    self._news.wait()
                if len(self._queue) < MAX_TRACES_PER_TRANSACTION and not self._closed:
                    self._news.wait(GATHER_SECONDS)
                group = list(itertools.islice(self._queue.values(), MAX_TRACES_PER_TRANSACTION))
            if not group:
                return
            self._write(group)
            with self._news:
                for trace in group:
                    self._bytes -= _size(trace)
                    if self._queue.get(trace.list_id) is trace:
                        del self._queue[trace.list_id]
            if self._queue:
                time.sleep(PAUSE_SECONDS)

    def _write(self, group: list[Trace]) -> None:
        rows = []
        for trace in group:
            try:
                rows.append(packed(trace))
            except Exception as error:  # one bad trace costs none of the others
                self._lost(1, error)
        try:
            if rows:
                self.store.append_trace_rows(rows)
        except Exception as error:  # the thread must live on: the next transaction may succeed
            self._lost(len(rows), error)
        else:
            self.written += len(rows)
            if rows and len(rows) == len(group):
                self._streak = False

    def _lost(self, number: int, error: Exception) -> None:
        self.failed += number
        if not self._streak:
            log.warning("store: traces are not written: %s", error)
        self._streak = True
