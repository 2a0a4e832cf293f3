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
from zhiyin.core.run import log
from zhiyin.store.connection import Database
from zhiyin.store.records import ID, Event, hash_of, made, text
from zhiyin.store.tables import EVENTS, FORGOTTEN, IMPRESSIONS, LISTS

try:
    import sqlalchemy as sa
except ImportError:
    raise MissingExtraError("sqlalchemy", "serve", "the store") from None

# Traces of one transaction at most; bytes of one trace, packed; items of one impression; rows deleted at once.
GROUP, LARGEST, SHOWN, BATCH = 200, 4 * 1024 * 1024, 10_000, 1_000
# Seconds between two transactions of traces, in which events get their turn; and in which traces gather for one: each
# transaction, and each waking of the thread, costs as much as the traces of some lists.
BREATH, GATHER = 0.002, 0.1
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
    text(trace.list_id, "list_id", ID)
    text(trace.placement, "placement", ID)
    if trace.user is not None:
        text(trace.user, "user", ID)
    try:
        head = json.dumps(trace.head, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(head.encode())
        arrays = None
        if trace.arrays:
            arrays = zlib.compress(save({n: np.asarray(a, order="C") for n, a in trace.arrays.items()}), 1)
    except (TypeError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"a trace cannot be kept: {error}", remedy="JSON in the head, numbers in the arrays") from None
    if size + len(arrays or b"") > LARGEST:
        raise DataError("a trace is too large", remedy=f"at most {LARGEST // 1024 // 1024} MiB")
    row = (trace.list_id, trace.user, int(trace.time), int(trace.version), trace.placement, head, arrays)
    return dict(zip(_NAMES, row, strict=True))


def unpacked(row: Any) -> Trace:
    """The trace of a row. Raises DataError where it is damaged."""
    list_id, user, when, version, placement, head, arrays = row
    try:
        found = {} if arrays is None else load(zlib.decompress(arrays))
        return Trace(list_id, user, int(when), int(version), placement, json.loads(head), found)
    except (zlib.error, SafetensorError, ValueError) as error:
        raise DataError(f"the trace of list {list_id} is damaged: {error}", remedy="restore a backup") from None


_GONE = "SELECT received FROM forgotten WHERE hash = ?"


class Lists(Database):
    """Traces and impressions in a database."""

    def forgotten(self, user: str) -> int:
        """When a user was forgotten last, microseconds UTC; 0: never."""
        if self.path is not None:
            with self._raw() as raw:
                gone = raw.execute(_GONE, (hash_of(user),)).fetchone()
            return int(gone[0] or 0) if gone else 0
        with self._reading() as link:
            asked = sa.select(FORGOTTEN.c.received).where(FORGOTTEN.c.hash == hash_of(user))
            return int(link.execute(asked).scalar() or 0)

    def keep_traces(self, traces: Sequence[Trace]) -> int:
        """Keep traces; returns how many. Not of a list known already, nor made before its user was forgotten.

        Raises DataError for one that cannot be, and keeps none.
        """
        return self.keep_packed([packed(trace) for trace in traces])

    def keep_packed(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """As `keep_traces`, for rows that `packed` gave."""
        kept = 0
        for start in range(0, len(rows), GROUP):
            kept += self._keep_group(rows[start : start + GROUP])
        return kept

    def _keep_group(self, rows: Sequence[Mapping[str, Any]]) -> int:
        by_user = {row["user"]: hash_of(row["user"]) for row in rows if row["user"] is not None}
        hashes = list(by_user.values())
        if self.path is not None:
            names, marks = ", ".join(f'"{name}"' for name in _NAMES), ", ".join("?" * len(_NAMES))
            with self._raw_writing(durable=False) as link:
                asked = f"SELECT hash, received FROM forgotten WHERE hash IN ({', '.join('?' * len(hashes))})"
                gone = dict(link.execute(asked, hashes).fetchall())
                some = _allowed(rows, by_user, gone)
                done = link.executemany(
                    f"INSERT INTO lists ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING",
                    [tuple(row[name] for name in _NAMES) for row in some],
                )
                return done.rowcount if some else 0
        with self._writing(durable=False) as link:
            known = sa.select(FORGOTTEN.c.hash, FORGOTTEN.c.received).where(FORGOTTEN.c.hash.in_(hashes))
            some = _allowed(rows, by_user, dict(tuple(row) for row in link.execute(known)))
            if not some:
                return 0
            insert = self._insert(LISTS).on_conflict_do_nothing().returning(LISTS.c.list_id)
            return len(link.execute(insert, some).all())

    def trace(self, list_id: str) -> Trace | None:
        """Of a list; None where it is not kept."""
        with self._reading() as link:
            row = link.execute(sa.select(LISTS).where(LISTS.c.list_id == list_id)).first()
        return None if row is None else unpacked(row)

    def traces(self, user: str | None = None, after_time: int = 0, most: int = 1_000) -> list[Trace]:
        """Of lists made after a moment, oldest first; of one user, or of all."""
        asked = sa.select(LISTS).where(LISTS.c.time > after_time).order_by(LISTS.c.time, LISTS.c.list_id).limit(most)
        if user is not None:
            asked = asked.where(LISTS.c.user == user)
        with self._reading() as link:
            rows = link.execute(asked).all()
        return [unpacked(row) for row in rows]

    def traces_with_features(self, most: int = 50, after_time: int = 0) -> list[Trace]:
        """The newest traces that hold what a ranker read, newest first; of lists made after a moment."""
        # JSON without spaces; a quote inside a text is escaped.
        held = LISTS.c.head.like('%"features":"%') & LISTS.c.arrays.is_not(None)
        asked = sa.select(LISTS).where(LISTS.c.time > after_time, held).order_by(LISTS.c.time.desc()).limit(most)
        with self._reading() as link:
            return [unpacked(row) for row in link.execute(asked)]

    def keep_impression(self, list_id: str, time: int, items: Sequence[str]) -> None:
        """Keep what was really shown of a list, in order; committed when this returns.

        Of one list and moment only the first is kept. Raises DataError for what cannot be.
        """
        text(list_id, "list_id", ID)
        if len(items) > SHOWN:
            raise DataError(f"{len(items):,} items were shown", column="items", remedy=f"at most {SHOWN:,}")
        row = {"list_id": list_id, "time": int(time),
               "items": json.dumps([text(item, "items", ID) for item in items], ensure_ascii=False)}  # fmt: skip
        with self._writing() as link:
            link.execute(self._insert(IMPRESSIONS).values(row).on_conflict_do_nothing())

    def impressions(self, list_id: str) -> list[tuple[int, list[str]]]:
        """When a list was really shown, and what of it; oldest first."""
        of = IMPRESSIONS.c
        asked = sa.select(of.time, of["items"]).where(of.list_id == list_id).order_by(of.time, of.seq)
        with self._reading() as link:
            return [(int(when), json.loads(items)) for when, items in link.execute(asked)]

    def events_of_list(self, list_id: str) -> list[Event]:
        """What was done with a list, in the order it was heard of."""
        asked = sa.select(*(EVENTS.c[name] for name in EVENT)).where(EVENTS.c.list_id == list_id)
        with self._reading() as link:
            return made(link.execute(asked.order_by(EVENTS.c.seq)).all())

    def drop_lists_before(self, moment: int) -> int:
        """Forget lists from before a moment, microseconds UTC, and their impressions. Returns how many lists."""
        gone = 0
        for number, found in enumerate(self.dropping_lists(moment)):
            if number:
                time.sleep(BREATH)
            gone += found
        return gone

    def lists_size(self) -> tuple[int, int]:
        """How many traces there are, and the bytes of all, as the newest thousand tell."""
        sizes = sa.func.length(LISTS.c.head) + sa.func.coalesce(sa.func.length(LISTS.c.arrays), 0)
        newest = sa.select(sizes.label("size")).order_by(LISTS.c.time.desc()).limit(BATCH).subquery()
        with self._reading() as link:
            number = int(link.execute(sa.select(sa.func.count()).select_from(LISTS)).scalar_one())
            mean = link.execute(sa.select(sa.func.avg(newest.c.size))).scalar()
        return number, int(number * float(mean or 0))

    def time_of_list(self, place: int) -> int | None:
        """When the list was made that so many are older than; None where there are no more."""
        asked = sa.select(LISTS.c.time).order_by(LISTS.c.time).offset(place).limit(1)
        with self._reading() as link:
            found = link.execute(asked).scalar()
        return None if found is None else int(found)

    def dropping_lists(self, moment: int) -> Iterator[int]:
        """As `drop_lists_before`, a part at a time: yields how many lists went with it."""
        shown = IMPRESSIONS.c
        old = sa.select(LISTS.c.list_id).where(LISTS.c.time < moment).order_by(LISTS.c.time).limit(BATCH)
        seen = sa.select(shown.seq).where(shown.time < moment).order_by(shown.time).limit(BATCH)
        while True:
            with self._writing() as link:
                some = list(link.execute(old).scalars())
                if some:
                    link.execute(sa.delete(IMPRESSIONS).where(shown.list_id.in_(some)))
                    link.execute(sa.delete(LISTS).where(LISTS.c.list_id.in_(some)))
            if not some:
                break
            yield len(some)
        while True:  # and those of lists that were never kept
            with self._writing() as link:
                if not link.execute(sa.delete(IMPRESSIONS).where(shown.seq.in_(seen))).rowcount:
                    return
            yield 0


# Columns of an event, in the order of its fields.
EVENT = tuple(field.name for field in dataclasses.fields(Event))


def _allowed(rows: Sequence[Mapping[str, Any]], by_user: Mapping[str, str], gone: Mapping[str, int]) -> list[Any]:
    """Rows but those of lists that were made before their user was forgotten."""
    return [row for row in rows if row["user"] is None or row["time"] > gone.get(by_user[row["user"]], -1)]


def _size(trace: Trace) -> int:
    """Bytes of a trace's arrays, and some for its head."""
    return 2_048 + sum(part.nbytes for part in trace.arrays.values())


class Traces:
    """A thread that writes traces behind everybody's back.

    Parameters
    ----------
    waiting: traces that may wait at most, and bytes of their arrays; beyond it they are dropped and counted.

    Counters: `waiting`, `written`, `dropped` (there was no room), `failed` (they could not be kept).
    """

    def __init__(self, store: Lists, waiting: int = 10_000, bytes: int = 64 << 20) -> None:
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
            if len(self._queue) in (1, GROUP):
                self._news.notify()

    def find(self, list_id: str) -> Trace | None:
        """The trace of a list, written or waiting; None where there is none, or where its user was forgotten since."""
        waiting = self._queue.get(list_id)
        if waiting is None:
            return self.store.trace(list_id)
        gone = waiting.user is not None and self.store.forgotten(waiting.user) >= waiting.time
        return None if gone else waiting

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
                if len(self._queue) < GROUP and not self._closed:
                    self._news.wait(GATHER)
                group = list(itertools.islice(self._queue.values(), GROUP))
            if not group:
                return
            self._write(group)
            with self._news:
                for trace in group:
                    self._bytes -= _size(trace)
                    if self._queue.get(trace.list_id) is trace:
                        del self._queue[trace.list_id]
            if self._queue:
                time.sleep(BREATH)

    def _write(self, group: list[Trace]) -> None:
        rows = []
        for trace in group:
            try:
                rows.append(packed(trace))
            except Exception as error:  # one bad trace costs none of the others
                self._lost(1, error)
        try:
            if rows:
                self.store.keep_packed(rows)
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
