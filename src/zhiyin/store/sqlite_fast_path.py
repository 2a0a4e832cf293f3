"""SQLite's settings, its queue of writers, and direct access without SQLAlchemy for what every request does.

Each thread has a connection of its own, which keeps its statements prepared. Only reads by fixed statements
(`Database.fetch`) and the insertion of events go this way. What that saves was measured and is printed by

    python benchmarks/store.py fast-path
"""

from __future__ import annotations

import functools
import itertools
import operator
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zhiyin.store.errors import StoreAwayError, translated
from zhiyin.store.event_index import EventIndex
from zhiyin.store.records import STORED_EVENT_FIELDS, Event
from zhiyin.store.sqlalchemy_import import sa, sqlite
from zhiyin.store.tables import HIGHEST_SEQ
from zhiyin.store.writer_queue import WriterQueue

# Seconds that a writer waits for another one, and a reader for a connection.
BUSY_TIMEOUT_SECONDS = 10.0
# Pages of the write-ahead log from which on writers wait until all of it is written back.
MAX_WAL_PAGES = 65_536
# A commit is on the disk when it returns, and what is deleted is overwritten.
PRAGMAS = (
    "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY", "cache_size=-16384",
    # Pages that many commits touch are written back once for all of them, mostly by `Database.checkpoint`, for which no
    # commit waits.
    f"wal_autocheckpoint={2 * MAX_WAL_PAGES}",
    f"busy_timeout={int(BUSY_TIMEOUT_SECONDS * 1000)}",
)  # fmt: skip
_HIGHEST_SEQ = str(HIGHEST_SEQ["sqlite"])
_event_fields = operator.attrgetter(*STORED_EVENT_FIELDS)


class SqliteFastPath:
    """The threads' own connections to one SQLite file.

    Every method raises StoreFullError where the disk is full and StoreAwayError where the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # SQLite has one writer: those of this process wait for the lock, and processes in the queue.
        self._write_lock, self._queue = threading.Lock(), WriterQueue(path)
        self._thread_local, self.connections = threading.local(), weakref.WeakSet[_ThreadConnection]()
        self._registry_lock = threading.Lock()
        self.index = EventIndex(path)

    def fetch(self, statement: sa.Executable, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """All rows of a statement that is a constant of its module; its SQL is compiled once."""
        sql, defaults = sqlite_text(statement)
        with self.connection() as connection:
            return connection.execute(sql, {**defaults, **parameters}).fetchall()

    def insert_events(self, events: Sequence[Event], received: int) -> dict[str, int]:
        """Insert valid events of different ids in one transaction. Returns the sequence numbers of new ones by id.

        received: microseconds UTC.
        """
        with self.writing() as connection:
            stored = self.index.stored_ids(connection, [event.id for event in events])
            new = [event for event in events if event.id not in stored] if stored else events
            before, start = connection.execute(_HIGHEST_SEQ).fetchone()[0], 0
            for size, statement in _INSERT_STATEMENTS.items():
                while len(new) - start >= size:
                    values = itertools.chain.from_iterable(map(_event_fields, new[start : start + size]))
                    connection.execute(statement, (received, *values))
                    start += size
        # Numbers are given in the order of the rows.
        seqs = range(before + 1, before + 1 + len(new))
        self.index.tail.extend([(seq, event.user, event.id, event.list_id) for seq, event in zip(seqs, new)])
        return {event.id: seq for seq, event in zip(seqs, new)}

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection of this thread in a transaction that sees one state of the database."""
        with self.connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def writing(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """The connection of this thread in a transaction that is committed at the end.

        Not `durable`: a power cut may lose it; the next durable commit makes it so too.
        """
        with self.write_turn(), self.connection() as connection:
            if not durable:
                connection.execute("PRAGMA synchronous=NORMAL")
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if not durable:
                    connection.execute("PRAGMA synchronous=FULL")

    @contextmanager
    def write_turn(self) -> Iterator[None]:
        """Wait for the other writers, also of other processes. Raises StoreAwayError after BUSY_TIMEOUT_SECONDS."""
        until = time.monotonic() + BUSY_TIMEOUT_SECONDS
        if not self._write_lock.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            raise _held_by_others()
        try:
            with self._queue.turn(until - time.monotonic()) as has_turn:
                if not has_turn:
                    raise _held_by_others()
                yield
        finally:
            self._write_lock.release()

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """The connection of this thread, in autocommit mode."""
        thread_connection = getattr(self._thread_local, "thread_connection", None)
        try:
            if thread_connection is None:
                thread_connection = self._open_thread_connection()
            with thread_connection.lock:
                yield thread_connection.connection
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL):
                self._thread_local.thread_connection = None  # whatever is wrong with it, the next call opens another
            raise translated(error, self.path) from None

    def close(self) -> None:
        """Close all connections; one that is in use is waited for. A later call opens another."""
        with self._registry_lock:
            thread_connections, self._thread_local = list(self.connections), threading.local()
            self.connections.clear()
        for thread_connection in thread_connections:
            with thread_connection.lock:
                thread_connection.connection.close()
        if self._write_lock.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            self._queue.close()
            self._write_lock.release()

    def _open_thread_connection(self) -> _ThreadConnection:
        connection = sqlite3.connect(
            str(self.path), BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        set_pragmas(connection, None)
        thread_connection = _ThreadConnection(connection)
        with self._registry_lock:
            self._thread_local.thread_connection = thread_connection
            self.connections.add(thread_connection)
        return thread_connection


class _ThreadConnection:
    """A connection of one thread; closed by another only while it is not in use."""

    __slots__ = ("__weakref__", "connection", "lock")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection, self.lock = connection, threading.Lock()


def _held_by_others() -> StoreAwayError:
    return StoreAwayError("other writers hold the store", remedy="try again in a second")


def set_pragmas(connection: Any, _: Any) -> None:
    """Configure a new connection of the `sqlite3` module; a listener of SQLAlchemy's "connect"."""
    connection.isolation_level = None  # transactions begin where we say, not where the driver thinks
    cursor = connection.cursor()
    for setting in PRAGMAS:
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


@functools.cache
def sqlite_text(statement: Any) -> tuple[str, dict[str, Any]]:
    """SQLite's text of a statement, with named parameters, and values of those that the statement brings itself."""
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
    return str(compiled), {name: value for name, value in compiled.params.items() if value is not None}


def _insert_statement(n_rows: int) -> str:
    """The statement that inserts so many events; its first parameter is when they were received."""
    n_fields = len(STORED_EVENT_FIELDS)
    rows = ", ".join(
        "(" + ", ".join(f"?{2 + row * n_fields + field}" for field in range(n_fields)) + ", ?1)"
        for row in range(n_rows)
    )
    names = ", ".join(f'"{name}"' for name in STORED_EVENT_FIELDS)
    return f"INSERT INTO events ({names}, received) VALUES {rows}"


# A statement is prepared once for each number of rows: these add up to any number in few steps.
_INSERT_STATEMENTS = {n_rows: _insert_statement(n_rows) for n_rows in (100, 10, 1)}
