"""Showings counted together by the processes of one machine, in an SQLite file that lives as long as they do.

It is no part of the store: no write waits for the disk, and with a lost file counts are lost and nothing else. Where it
cannot be used within BUSY_TIMEOUT_SECONDS, the process counts its own showings in memory.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from zhiyin.core.run import log
from zhiyin.store.frequency_counts import DAY_SECONDS, MAX_SHOWINGS, MAX_SHOWINGS_PER_USER, Showings
from zhiyin.store.records import hash_of

# Seconds that another process may hold the file; writes after which old showings are dropped.
BUSY_TIMEOUT_SECONDS, WRITES_PER_SWEEP = 0.1, 1_000
_TABLE = """
CREATE TABLE IF NOT EXISTS showings (
  seq INTEGER PRIMARY KEY, user TEXT NOT NULL, time REAL NOT NULL, item TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS showings_user ON showings (user, time, seq, item);
"""
T = TypeVar("T")
_COUNT = "SELECT item FROM showings WHERE user = ? AND time > ? AND time <= ? ORDER BY time DESC, seq DESC LIMIT ?"


class FileShowings:
    """As `Showings`, of all processes that open one file.

    Parameters
    ----------
    path: made where it is missing.
    clock: seconds.
    showings: of all users, at most; the oldest go first.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, showings: int = MAX_SHOWINGS) -> None:
        self._path, self._clock, self._most = path, clock, showings
        self._lock, self._written = threading.Lock(), 0
        self._connection: sqlite3.Connection | None = None
        self._own, self._failed = Showings(clock=clock), False
        # Whether what was deleted may still be read in the journal of the file.
        self._in_journal = False
        self._execute(lambda connection: None)

    def add(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        """Count items that a user is shown now; showings of the user from before `window` seconds are dropped."""
        now, user_hash = self._clock(), hash_of(user)

        def write(connection: sqlite3.Connection) -> bool:
            rows = [(user_hash, now, item) for item in items[-MAX_SHOWINGS_PER_USER:]]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO showings (user, time, item) VALUES (?, ?, ?)", rows)
            connection.execute("DELETE FROM showings WHERE user = ? AND time <= ?", (user_hash, now - window))
            if self._written % WRITES_PER_SWEEP == 0:
                connection.execute(
                    "DELETE FROM showings WHERE seq <= (SELECT max(seq) FROM showings) - ?", (self._most,)
                )
            connection.execute("COMMIT")
            self._written += 1
            if self._in_journal:
                self._empty_journal(connection)
            return True

        if items and not self._execute(write):
            self._own.add(user, items, window)

    def counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]:
        """How often each item was shown to a user within the last `window` seconds, of the newest
        MAX_SHOWINGS_PER_USER."""
        now = self._clock()
        parameters = (hash_of(user), now - window, now, MAX_SHOWINGS_PER_USER)
        in_file = self._execute(lambda connection: Counter(item for (item,) in connection.execute(_COUNT, parameters)))
        return dict((Counter() if in_file is None else in_file) + Counter(self._own.counts(user, window)))

    def drop(self, user: str) -> None:
        """Forget a user."""
        self._own.drop(user)
        self._execute(lambda connection: self._delete(connection, [hash_of(user)]))

    def drop_hashes(self, forgotten: Collection[str]) -> None:
        """Forget users by `hash_of` their ids."""
        self._own.drop_hashes(forgotten)

        def write(connection: sqlite3.Connection) -> None:
            hashes = [user_hash for (user_hash,) in connection.execute("SELECT DISTINCT user FROM showings")]
            self._delete(connection, [user_hash for user_hash in hashes if user_hash in forgotten])

        self._execute(write)

    def clear(self) -> None:
        """Forget all that is counted, of all processes."""
        self._own.clear()

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM showings")
            self._empty_journal(connection)

        self._execute(write)

    def _delete(self, connection: sqlite3.Connection, users: Sequence[str]) -> None:
        """Remove users, by hash, from the file and its journal."""
        if users or self._in_journal:
            connection.executemany("DELETE FROM showings WHERE user = ?", [(user,) for user in users])
            self._empty_journal(connection)

    def _empty_journal(self, connection: sqlite3.Connection) -> None:
        """Deleted rows stay in the journal until then; while others read it, the next write tries again."""
        self._in_journal = True
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._in_journal = bool(busy)

    def close(self) -> None:
        """Close the file; what others count stays."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _execute(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """The result of `work(connection)`; None where the file cannot be used now."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                result = work(self._connection)
                self._failed = False
                return result
            except sqlite3.Error as error:
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.rollback()
                if not self._failed:
                    log.warning("showings: the file that processes share cannot be used (%s); each counts its own",
                                type(error).__name__)  # fmt: skip
                self._failed = True
                return None

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            str(self._path), BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        for setting in ("journal_mode=WAL", "synchronous=OFF", "secure_delete=ON", "cache_size=-4096"):
            connection.execute(f"PRAGMA {setting}")
        connection.executescript(_TABLE)
        return connection
