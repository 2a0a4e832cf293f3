"""What exploring has cost within a day: losses by policy, and explored lists by user, in a file that is kept.

The processes of one machine that open one file count together, and after a restart they go on counting. The file is no
part of the store: where it cannot be used, a process counts in memory, and says so.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from zhiyin.core.run import log
from zhiyin.store.frequency_counts import DAY_SECONDS
from zhiyin.store.records import hash_of

# Seconds that another process may hold the file; writes after which what is older than a day is deleted.
BUSY_TIMEOUT_SECONDS, WRITES_PER_SWEEP = 0.1, 1_000
# Losses are summed by slices of this many seconds: a day of them is at most one slice longer than a day.
SLICE_SECONDS = 600.0
_TABLES = """
CREATE TABLE IF NOT EXISTS losses (
  name TEXT NOT NULL, slice INTEGER NOT NULL, loss REAL NOT NULL, PRIMARY KEY (name, slice)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS explored (user TEXT NOT NULL, name TEXT NOT NULL, time REAL NOT NULL);
CREATE INDEX IF NOT EXISTS explored_user ON explored (user, name, time);
CREATE INDEX IF NOT EXISTS explored_time ON explored (time);
"""
_ADD_LOSS = "INSERT INTO losses VALUES (?, ?, ?) ON CONFLICT (name, slice) DO UPDATE SET loss = loss + excluded.loss"
_LOSS = "SELECT coalesce(sum(loss), 0) FROM losses WHERE name = ? AND slice > ?"
_EXPLORED = "SELECT count(*) FROM explored WHERE user = ? AND name = ? AND time > ?"
T = TypeVar("T")


class ExplorationLedger:
    """See the module. Any number of threads may use one.

    Parameters
    ----------
    path: made with the first use; None: all is counted in memory.
    clock: seconds since 1970.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._lock, self._writes, self._failed = threading.Lock(), 0, False
        self._file: sqlite3.Connection | None = None
        self._own: sqlite3.Connection | None = None  # of this process, while the file cannot be used

    def add_loss(self, name: str, loss: float) -> None:
        """Add to the reward that exploring is expected to have cost a policy."""
        row = (name, int(self._clock() // SLICE_SECONDS), loss)
        self._write(lambda connection: connection.execute(_ADD_LOSS, row))

    def loss_of_day(self, name: str) -> float:
        """The reward that exploring is expected to have cost a policy within the last day."""
        begin = int((self._clock() - DAY_SECONDS) // SLICE_SECONDS) - 1
        return sum(self._read(lambda connection: float(connection.execute(_LOSS, (name, begin)).fetchone()[0])))

    def add_explored(self, name: str, user: str) -> None:
        """Count a list of a user that a policy has explored."""
        row = (hash_of(user), name, self._clock())
        self._write(lambda connection: connection.execute("INSERT INTO explored VALUES (?, ?, ?)", row))

    def explored_of_day(self, name: str, user: str) -> int:
        """The number of lists of a user that a policy has explored within the last day."""
        row = (hash_of(user), name, self._clock() - DAY_SECONDS)
        return sum(self._read(lambda connection: int(connection.execute(_EXPLORED, row).fetchone()[0])))

    def drop(self, user: str) -> None:
        """Forget a user."""
        self.drop_hashes([hash_of(user)])

    def drop_hashes(self, forgotten: Collection[str]) -> None:
        """Forget users by `hash_of` their ids; where it maps to times, microseconds UTC, what was before them."""

        def delete(connection: sqlite3.Connection) -> None:
            users = {user for (user,) in connection.execute("SELECT DISTINCT user FROM explored")}.intersection(
                forgotten
            )
            for user in users:
                until = forgotten[user] / 1e6 if isinstance(forgotten, Mapping) else self._clock()
                connection.execute("DELETE FROM explored WHERE user = ? AND time <= ?", (user, until))
            if users:  # what was deleted could still be read in the journal
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        if self._path is None or self._file is not None or self._path.is_file():
            self._read(delete)

    def clear(self) -> None:
        """Forget all users."""
        self._read(lambda connection: connection.execute("DELETE FROM explored"))

    def close(self) -> None:
        """Close the file; what it holds stays."""
        with self._lock:
            for connection in (self._file, self._own):
                if connection is not None:
                    connection.close()
            self._file = self._own = None

    def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        with self._lock:
            if self._path is None or self._in_file(work) is None:
                self._sweep(self._memory(), work)

    def _in_file(self, work: Callable[[sqlite3.Connection], object]) -> bool | None:
        return self._try(lambda connection: self._sweep(connection, work))

    def _sweep(self, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], object]) -> bool:
        """Do a write; now and then delete what is older than a day."""
        work(connection)
        if self._writes % WRITES_PER_SWEEP == 0:
            until = self._clock() - DAY_SECONDS
            connection.execute("DELETE FROM explored WHERE time <= ?", (until,))
            connection.execute("DELETE FROM losses WHERE slice < ?", (int(until // SLICE_SECONDS) - 1,))
        self._writes += 1
        return True

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> list[T]:
        """What the work gives of the file and of memory, as far as each is used."""
        with self._lock:
            parts = [] if self._path is None else [self._try(work)]
            if self._path is None or self._own is not None:
                parts.append(work(self._memory()))
            return [part for part in parts if part is not None]

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """The result of the work on the file; None where it cannot be used now."""
        try:
            if self._file is None:
                self._file = _opened(str(self._path))
            result = work(self._file)
            self._failed = False
            return result
        except sqlite3.Error as error:
            if not self._failed:
                what = "policies: the file of budgets of exploration cannot be used (%s); this process counts alone"
                log.warning(what, type(error).__name__)
            self._failed = True
            return None

    def _memory(self) -> sqlite3.Connection:
        if self._own is None:
            self._own = _opened(":memory:")
        return self._own


def _opened(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
    for setting in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {setting}")
    connection.executescript(_TABLES)
    return connection
