"""Connections of the store: opening a database, reading, and transactions with what their commit guarantees."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import log
from zhiyin.data.time_policy import wall_clock
from zhiyin.store import sqlite_fast_path
from zhiyin.store.errors import (
    StoreAwayError,
    StoreUnreachableError,
    is_busy,
    reason,
    remedy_of,
    translated_errors,
)
from zhiyin.store.event_merge import EventMerge
from zhiyin.store.sqlalchemy_import import postgresql, sa, sqlite
from zhiyin.store.sqlite_fast_path import BUSY_TIMEOUT_SECONDS, SqliteFastPath, set_pragmas
from zhiyin.store.tables import IDENTITY, MARKS, WRITE_LOCK_ID, is_older_format, prepare

# How often, each BUSY_TIMEOUT_SECONDS long, an older store is waited for that another process holds.
MAX_UPGRADE_WAITS = 360


class Database:
    """An open database. Raises ConfigError for an address that cannot be opened.

    Parameters
    ----------
    clock: the present time, microseconds UTC; for tests.
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
        # The SQLite file; None for PostgreSQL.
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
        self._fast_path = None if self.path is None else SqliteFastPath(self.path)
        # Enters events into the indexes; None for PostgreSQL.
        self._merge = None if self._fast_path is None else EventMerge(self._fast_path, self.checkpoint)
        try:
            self._prepare()
        except (sa.exc.DBAPIError, OSError) as error:
            remedy = "check the address, its rights, and whether the database runs"
            if self.path is not None and isinstance(error, sa.exc.DBAPIError):
                remedy = remedy_of(error)
            kind = StoreUnreachableError if self.path is None else ConfigError
            raise kind(f"the store cannot be opened: {reason(error)}", file=self.address, remedy=remedy) from None

    def _prepare(self) -> None:
        """Make the tables, or bring them to the newest format. Waits while another process does that."""
        for _ in range(MAX_UPGRADE_WAITS):
            is_older = self.path is not None and self._is_of_older_format()
            settings = _upgrade_settings if is_older else nullcontext
            try:
                with self._engine.connect() as connection, settings(connection), connection.begin():
                    prepare(connection, self.address)
                return
            except sa.exc.OperationalError as error:
                if not (is_older and is_busy(error)):
                    raise
                log.info("store: %s is held by another process, which may bring it to a newer format", self.address)
        raise StoreAwayError("another process holds the store", file=self.path, remedy="try again when it has ended")

    def _is_of_older_format(self) -> bool:
        with self._reader.connect() as connection:
            return is_older_format(connection)

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
        sa.event.listen(engine, "connect", set_pragmas)
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
        """The name of this store, wherever it is: its sequence numbers mean nothing in another one."""
        with self.reading() as connection:
            return str(connection.execute(sa.select(MARKS.c.value).where(MARKS.c.key == IDENTITY)).scalar_one())

    @property
    def address(self) -> str:
        """The address without its password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def url(self) -> str:
        """The address with its password, for another process of the same program; never to be logged."""
        return self._url.render_as_string(hide_password=False)

    def close(self) -> None:
        """Close the connections; a later call opens others."""
        if self._merge is not None:
            self._merge.close()
        if self._fast_path is not None:
            self._fast_path.close()
        self._engine.dispose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """A connection of SQLAlchemy to read by."""
        with translated_errors(self.path), self._reader.connect() as connection:
            yield connection

    def fetch(self, statement: Any, **parameters: Any) -> Sequence[Any]:
        """All rows of a fixed statement: a constant of its module, whose parameters are `bindparam`s.

        Every request runs some of these, so on SQLite they do not pass through SQLAlchemy.
        """
        if self._fast_path is not None:
            return self._fast_path.fetch(statement, parameters)
        with self.reading() as connection:
            rows: Sequence[Any] = connection.execute(statement, parameters).all()
            return rows

    @contextmanager
    def writing(self, durable: bool = True) -> Iterator[Any]:
        """A transaction of SQLAlchemy, committed at the end. Not `durable`: a power cut may lose it, and only it."""
        if self._fast_path is not None:
            engine = self._engine.execution_options(durable=durable)
            with translated_errors(self.path), self._fast_path.write_turn(), engine.begin() as connection:
                yield connection
            return
        with translated_errors(), self._engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK_ID})")
            if not durable:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            yield connection

    def lock_connection(self) -> Any:
        """A connection of SQLAlchemy in autocommit mode, which the caller closes: for locks of a session."""
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def checkpoint(self) -> int:
        """SQLite: write commits of the write-ahead log back to the database, beside whoever reads and writes.

        Returns the pages of the log. One longer than MAX_WAL_PAGES begins anew, for which writers wait a moment.
        """
        if self._fast_path is None:
            return 0
        for _ in range(4):  # each time what came meanwhile is less
            _, pages, _ = self._wal_checkpoint("PASSIVE")
            if pages <= sqlite_fast_path.MAX_WAL_PAGES:
                return pages
        with self._fast_path.write_turn():
            self._wal_checkpoint("RESTART")
        return pages

    def _wal_checkpoint(self, mode: str) -> tuple[bool, int, int]:
        """SQLite's checkpoint: whether readers or writers were in its way, pages of the log, pages written back."""
        options = {"isolation_level": "AUTOCOMMIT"}
        with translated_errors(self.path), self._engine.connect().execution_options(**options) as connection:
            busy, pages, n_written = connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").one()
        return bool(busy), int(pages), int(n_written)


@contextmanager
def _upgrade_settings(connection: Any) -> Iterator[None]:
    """Let an upgrade of SQLite, as large as the store, sort in files and write each page once."""
    raw = connection.connection.driver_connection  # these settings cannot be changed within a transaction
    for setting in ("temp_store=FILE", "cache_size=-262144"):
        raw.execute(f"PRAGMA {setting}")
    try:
        yield
    finally:
        set_pragmas(raw, None)


def _set_lock_timeout(connection: Any, _: Any) -> None:
    connection.autocommit = True
    connection.execute(f"SET lock_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
    connection.autocommit = False


def _begin(connection: Any) -> None:
    """SQLite: a transaction that will write takes its lock at once, since one that reads first could find it taken."""
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    if options.get("writes", True):
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options.get('durable', True) else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes", True) else "BEGIN")
