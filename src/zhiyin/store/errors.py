"""Errors of the database translated into those of the store: the disk is full, or the database cannot be reached."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zhiyin.core.errors import ConfigError, DataError, ZhiyinError
from zhiyin.store.sqlalchemy_import import sa

# With less free space an I/O error is taken for a full disk: SQLite's own files grow in steps.
MIN_FREE_BYTES = 256 * 1024

# Remedies for an SQLite file, by the primary code of the error.
_DAMAGED = "the file is damaged; stop the service, then bring back a backup: zhiyin store restore BACKUP"
_REMEDIES = {
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_READONLY: "let the user that runs the service write the file and its folder",
    sqlite3.SQLITE_PERM: "let the user that runs the service write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "see whether the folder is there, the rights to it, and how many files may be open",
    sqlite3.SQLITE_IOERR: "see the disk",
}


class StoreFullError(ZhiyinError):
    """The disk of the database is full. Nothing of this call was stored; it works again when there is space."""


class StoreAwayError(ZhiyinError):
    """The database cannot be reached, or another process has locked it for too long.

    Whether this call took effect is not known. An event that is sent again with its id is not stored twice.
    """


class StoreUnreachableError(ConfigError):
    """The database server of a store does not answer, or refuses the connection, when the store is opened."""


@contextmanager
def translated_errors(path: Path | None = None) -> Iterator[None]:
    """Raise errors of the database as StoreFullError, StoreAwayError or DataError, without statements and their values.

    path: the SQLite file, whose disk is checked for free space.
    """
    try:
        yield
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        raise translated(error, path) from None


def is_busy(error: Exception) -> bool:
    """Whether another process has locked the SQLite file for too long."""
    below = getattr(error, "orig", None) or error
    return getattr(below, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def translated(error: Exception, path: Path | None = None) -> ZhiyinError:
    """The store's error for one of the database."""
    below = getattr(error, "orig", None) or error
    state = getattr(below, "sqlstate", None)
    code = getattr(below, "sqlite_errorcode", 0) & 0xFF
    if state == "53100" or code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _no_space(path)):
        return StoreFullError("the disk of the store is full", remedy="make space on it; then send it again")
    if isinstance(error, sa.exc.DataError | sa.exc.IntegrityError | sqlite3.DataError | sqlite3.IntegrityError):
        return DataError(f"the store cannot hold this: {reason(error)}", remedy="check the ids and texts")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or state == "55P03":
        return StoreAwayError("the store is held by another process", remedy="try again in a second")
    return StoreAwayError(f"the store cannot be reached: {reason(error)}", remedy=remedy_of(error))


def remedy_of(error: Exception) -> str:
    """The remedy for an error of the database that is neither a full disk nor a lock."""
    below = getattr(error, "orig", None) or error
    if not isinstance(below, sqlite3.Error):
        return "see whether the database runs"
    return _REMEDIES.get(getattr(below, "sqlite_errorcode", 0) & 0xFF, "see the file, its disk and the rights to it")


def reason(error: Exception) -> str:
    """The database's own message, without the statement and its values."""
    if isinstance(error, sa.exc.TimeoutError):
        return "all connections are in use"
    return (str(getattr(error, "orig", None) or error).splitlines() or ["no reason was given"])[0][:200]


def _no_space(path: Path | None) -> bool:
    try:
        return path is not None and shutil.disk_usage(path.parent).free < MIN_FREE_BYTES
    except OSError:
        return False
