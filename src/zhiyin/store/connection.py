"""Connections of the store: how a database is opened, read and written, and what a commit promises."""

from __future__ import annotations

import functools
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zhiyin.core.errors import ConfigError, MissingExtraError
from zhiyin.data.time_policy import wall_clock
from zhiyin.store.errors import StoreAwayError, StoreUnreachableError, plain, plain_errors, reason, remedy_of
from zhiyin.store.tables import IDENTITY, MARKS, WRITE_LOCK_ID, prepare

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite
except ImportError:
    raise MissingExtraError("sqlalchemy", "serve", "the store") from None

# Seconds that a writer waits for another one, and a reader for a connection.
BUSY_TIMEOUT_SECONDS = 10.0
# SQLite: pages of its log from which on writers wait until all of it is written back.
MAX_WAL_PAGES = 65_536
# SQLite: a commit is on the disk when it returns, and what is deleted is overwritten.
PRAGMAS = (
    "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY", "cache_size=-16384",
    # Pages that many commits touch are written back once for all of them, mostly by `write_back`, for which no commit
    # waits.
    f"wal_autocheckpoint={2 * MAX_WAL_PAGES}",
    f"busy_timeout={int(BUSY_TIMEOUT_SECONDS * 1000)}",
)  # fmt: skip


class Database:
    """An open database. Raises ConfigError for an address that cannot be opened.

    Parameters
    ----------
    clock: what time it is, microseconds UTC; for tests.
    """

    def __init__(self, address: str | Path, clock: Callable[[], int] = wall_clock) -> None:
        self.clock, address = clock, str(address)
        if "://" not in address:
            address = f"sqlite:///{address}"
        if address.startswith("postgresql://"):
            address = address.replace("postgresql://", "postgresql+psycopg://", 1)
        try:
            self._url = sa.make_url(address)
            dialect = self._url.get_backend_name()
        except sa.exc.SQLAlchemyError:
            raise ConfigError(
                "the store's address cannot be read", remedy="sqlite:///shop.db or postgresql://…"
            ) from None
        if dialect not in ("sqlite", "postgresql"):
            raise ConfigError(f"there is no store for {dialect}", remedy="sqlite:///shop.db or postgresql://…")
        self.dialect = dialect
        # The file of SQLite; None for PostgreSQL.
        self.path: Path | None = None
        self._reader: Any
        if dialect == "sqlite":
            if self._url.database in (None, "", ":memory:"):
                raise ConfigError("a store in memory would lose events", remedy="name a file: sqlite:///shop.db")
            self.path = Path(self._url.database).absolute()
            self._url = self._url.set(database=str(self.path))
            self._engine = self._open_file(self.path)
            self._reader = self._engine.execution_options(writes=False)
        else:
            self._engine = self._open_server()
            self._reader = self._engine
        self._insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
        # SQLite has one writer: those of this process wait in line here instead of trying again and again.
        self._write_lock = threading.Lock()
        self._thread_local, self._thread_connections = threading.local(), weakref.WeakSet[_ThreadConnection]()
        self._registry_lock = threading.Lock()
        try:
            with self._engine.begin() as connection:
                prepare(connection, self.address)
        except (sa.exc.DBAPIError, OSError) as error:
            remedy = "check the address, its rights, and whether the database runs"
            if self.path is not None and isinstance(error, sa.exc.DBAPIError):
                remedy = remedy_of(error)
            kind = StoreUnreachableError if self.path is None else ConfigError
            raise kind(f"the store cannot be opened: {reason(error)}", file=self.address, remedy=remedy) from None

    def _open_file(self, path: Path) -> sa.Engine:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the store's folder cannot be made: {error.strerror}", file=path.parent, remedy="check its rights"
            ) from None
        engine = sa.create_engine(
            self._url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, hide_parameters=True,
            pool_size=8, max_overflow=24, pool_timeout=BUSY_TIMEOUT_SECONDS,
        )  # fmt: skip
        sa.event.listen(engine, "connect", _set_pragmas)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def _open_server(self) -> sa.Engine:
        engine = sa.create_engine(
            self._url, pool_pre_ping=True, hide_parameters=True, pool_size=8, max_overflow=24,
            pool_timeout=BUSY_TIMEOUT_SECONDS, connect_args={"connect_timeout": int(BUSY_TIMEOUT_SECONDS)},
        )  # fmt: skip
        sa.event.listen(engine, "connect", _set_lock_timeout)
        return engine

    @functools.cached_property
    def identity(self) -> str:
        """What names this store, wherever it stands: its sequence numbers mean nothing in another one."""
        with self.reading() as connection:
            return str(connection.execute(sa.select(MARKS.c.value).where(MARKS.c.key == IDENTITY)).scalar_one())

    @property
    def address(self) -> str:
        """The address without its password."""
        return self._url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Let the connections go."""
        with self._registry_lock:
            thread_connections, self._thread_local = list(self._thread_connections), threading.local()
            self._thread_connections.clear()
        for thread_connection in thread_connections:
            with thread_connection.lock:
                thread_connection.connection.close()
        self._engine.dispose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """A connection to read by."""
        with plain_errors(self.path), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, durable: bool = True) -> Iterator[Any]:
        """A transaction, committed at the end. Not `durable`: a power cut may lose it, and only it."""
        if self.path is not None:
            with plain_errors(self.path), self._write_turn(), self._engine.begin() as connection:
                yield connection
            return
        with plain_errors(), self._engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK_ID})")
            if not durable:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            yield connection

    @contextmanager
    def _write_turn(self) -> Iterator[None]:
        if not self._write_lock.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            raise StoreAwayError("other writers hold the store", remedy="try again in a second")
        try:
            yield
        finally:
            self._write_lock.release()

    # -- SQLite without anything between: the few paths that every request takes --------------------------------------

    @contextmanager
    def _raw(self) -> Iterator[sqlite3.Connection]:
        """The connection of this thread, which keeps its statements prepared."""
        thread_connection = getattr(self._thread_local, "thread_connection", None)
        try:
            if thread_connection is None:
                thread_connection = self._open_thread_connection()
            with thread_connection.lock:
                yield thread_connection.connection
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL):
                self._thread_local.thread_connection = None  # whatever is wrong with it, the next call begins anew
            raise plain(error, self.path) from None

    @contextmanager
    def _raw_writing(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """As `_writing`."""
        with self._write_turn(), self._raw() as connection:
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

    def checkpoint(self) -> int:
        """SQLite: write what commits have put into its log back to the database, beside whoever reads and writes.

        Returns pages of the log. One longer than LOG is begun anew, for which writers wait a moment.
        """
        if self.path is None:
            return 0
        with plain_errors(self.path), self._raw() as connection:
            for _ in range(4):  # each time what came meanwhile is less
                pages = int(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
                if pages <= MAX_WAL_PAGES:
                    break
        if pages > MAX_WAL_PAGES:
            with self._write_turn(), self._raw() as connection:
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        return pages

    def _open_thread_connection(self) -> _ThreadConnection:
        connection = sqlite3.connect(
            str(self.path), BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        _set_pragmas(connection, None)
        thread_connection = _ThreadConnection(connection)
        with self._registry_lock:
            self._thread_local.thread_connection = thread_connection
            self._thread_connections.add(thread_connection)
        return thread_connection


class _ThreadConnection:
    """A connection of one thread; closed by another only while it is not in use."""

    __slots__ = ("__weakref__", "connection", "lock")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection, self.lock = connection, threading.Lock()


def _set_pragmas(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver thinks
    cursor = connection.cursor()
    for setting in PRAGMAS:
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _set_lock_timeout(connection: Any, _: Any) -> None:
    connection.autocommit = True
    connection.execute(f"SET lock_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
    connection.autocommit = False


def _begin(connection: Any) -> None:
    """A transaction that will write takes its lock at once: one that reads first could find it taken."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if connection.get_execution_options().get("writes", True) else "BEGIN"
        )
