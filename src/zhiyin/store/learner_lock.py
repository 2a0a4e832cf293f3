"""The lock of the learner: of all processes that use a store, one learns; when it ends, however it ends, another may.

Beside an SQLite file it is a lock of the operating system on a file, in PostgreSQL an advisory lock of a connection:
both are released with the process that holds them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from typing import Any

from zhiyin.store.errors import translated_errors
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.store import Store


class LearnerLock:
    """The right to learn in a store. One object serves one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._descriptor: int | None = None
        self._connection: Any = None

    def acquire(self) -> bool:
        """Whether this object holds the lock now; takes it where nobody does. Never waits.

        Raises StoreAwayError where the database cannot be reached.
        """
        return self._acquire_file() if self._store.path is not None else self._acquire_server()

    def release(self) -> None:
        """Give the lock up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.invalidate()  # closes it: a pooled connection would keep the lock
            connection.close()

    def _acquire_file(self) -> bool:
        if self._descriptor is not None:
            return True
        assert self._store.path is not None
        path = self._store.path.with_name(f"{self._store.path.name}.learner")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def _acquire_server(self) -> bool:
        with translated_errors():
            if self._connection is not None:
                try:  # a connection that was lost has lost its lock
                    self._connection.execute(sa.text("SELECT 1"))
                    return True
                except sa.exc.DBAPIError:
                    self.release()
            connection = self._store.lock_connection()
            try:
                taken = connection.execute(
                    sa.select(sa.func.pg_try_advisory_lock(_lock_id(self._store.identity)))
                ).scalar()
            except BaseException:
                connection.invalidate()
                connection.close()
                raise
            if not taken:
                connection.close()
                return False
            self._connection = connection
            return True


def _lock_id(identity: str) -> int:
    """The key of a store's advisory lock: several stores may be schemas of one database. 64 bits, signed."""
    digest = hashlib.sha256(f"learner of {identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
