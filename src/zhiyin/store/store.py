"""The store: one database, SQLite by default, PostgreSQL by address; what is committed is never lost.

    store = Store("sqlite:///shop.db")        # or "postgresql://user:...@host/shop"
    store.append([Event("alice", "film 7", now)])
    store.history("alice", 100)

Events are only ever added. Items, users and placements have versions: each change is a row of its own, the newest
counts. Any number of threads and processes may use one database.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any, NamedTuple

from zhiyin.core.atomic_files import whole_file
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.store.ad_ledger import AdLedger
from zhiyin.store.decisions import DecisionTables
from zhiyin.store.errors import StoreAwayError, StoreFullError, translated_errors
from zhiyin.store.forgetting import FORGET_COUNT, count_rows
from zhiyin.store.links import LinkTable
from zhiyin.store.parquet_export import ParquetExport
from zhiyin.store.policy_states import PolicyStates
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.tables import (
    COLUMN_TYPES,
    EVENTS,
    FORGOTTEN,
    LINKS,
    LIST_NUMBERS,
    LISTS,
    POLICY_STATES,
    TABLES_OF_LISTS,
    VERSIONED_TABLES,
)

__all__ = ["ChangeMarks", "Store", "StoreAwayError", "StoreFullError"]

_CHANGE_MARKS = sa.text(
    "SELECT " + ", ".join(f"(SELECT max(seq) FROM {name})" for name in VERSIONED_TABLES)
    + f", (SELECT value FROM meta WHERE key = '{FORGET_COUNT}'), (SELECT max(seq) FROM {LINKS.name})"
)  # fmt: skip


class ChangeMarks(NamedTuple):
    """`Store.last_change` of each table that has versions, `Store.forget_count`, and `Store.last_link_change`."""

    items: int
    users: int
    placements: int
    catalogue_schema: int
    experiments: int
    policies: int
    campaigns: int
    forgettings: int
    links: int


class Store(ParquetExport, DecisionTables, PolicyStates, LinkTable, AdLedger):
    """Events, items, users, placements, lists and decisions in one database.

    Raises ConfigError where it cannot be opened.

    Every method raises StoreFullError where the disk is full and StoreAwayError where the database cannot be reached;
    when the cause is gone the same Store works again.

    Parameters
    ----------
    address: "sqlite:///path" or a path, or "postgresql://...". Tables are made where they are missing.
    """

    def change_marks(self) -> ChangeMarks:
        """The last changes of all tables by one statement: each request finds out by it what has changed.

        SQLite says for less whether anything at all was committed since this thread asked last.
        """
        if self._fast_path is None:
            return self._read_change_marks()
        with self._fast_path.connection() as connection:
            # Commits of other connections change the first, those of this one the second.
            version = connection.execute("PRAGMA data_version").fetchone()[0], connection.total_changes
            known = getattr(self._known_marks, "entry", None)
            if known is not None and known[0] is connection and known[1] == version:
                marks: ChangeMarks = known[2]
                return marks
        marks = self._read_change_marks()  # of this state of the database, or of a later one
        self._known_marks.entry = (connection, version, marks)
        return marks

    def _read_change_marks(self) -> ChangeMarks:
        (row,) = self.fetch(_CHANGE_MARKS)
        return ChangeMarks(*(int(mark or 0) for mark in row))

    @functools.cached_property
    def _known_marks(self) -> threading.local:
        """What each thread knows: its connection, what that said of the database, and the marks read after it."""
        return threading.local()

    def info(self) -> dict[str, Any]:
        """The number of rows of each table and the times of the first and last event, microseconds UTC.

        Counting a large store takes a while.
        """
        with self.reading() as connection:
            first, last = connection.execute(sa.select(sa.func.min(EVENTS.c.time), sa.func.max(EVENTS.c.time))).one()
            counts: dict[str, Any] = {"events": self.count(), "first event": first, "last event": last}
            for name, table in VERSIONED_TABLES.items():
                if name == COLUMN_TYPES:
                    continue
                newest = sa.select(sa.func.max(table.c.seq)).group_by(table.c.id)
                counts[name] = count_rows(connection, table.c.seq.in_(newest) & table.c.columns.is_not(None))
            for other in (LINKS, LISTS, *TABLES_OF_LISTS, POLICY_STATES, FORGOTTEN):
                if other is LIST_NUMBERS:  # one a list
                    continue
                counts[other.name] = int(connection.execute(sa.select(sa.func.count()).select_from(other)).scalar_one())
        return counts

    def backup(self, path: str | Path) -> Path:
        """Copy the SQLite file while it is in use; the copy opens as any other. PostgreSQL has pg_dump for this."""
        path = Path(path)
        if self.dialect != "sqlite":
            raise ConfigError("a PostgreSQL store is backed up by pg_dump", remedy="or export it as Parquet")
        if path.exists():
            raise DataError("there is a file already", file=path, remedy="name another")
        # Empty at first, so that SQLite takes it, and closed to others: the copy holds what the store holds.
        with whole_file(path, 0o600) as draft, translated_errors(path), self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM INTO ?", (str(draft),))
        return path
