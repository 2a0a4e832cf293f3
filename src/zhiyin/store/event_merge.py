"""Enters events into the indexes on the disk, in transactions that hold up no writer for long; see `event_index.py`."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import threading
import time
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

from zhiyin.core.errors import ZhiyinError
from zhiyin.core.run import log
from zhiyin.store.event_index import event_columns
from zhiyin.store.sqlite_fast_path import SqliteFastPath
from zhiyin.store.tables import EVENT_IDS, EVENT_LISTS, EVENTS_INDEXED, EVENTS_OF_USER

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

# Events after the mark from which on a merge begins, and from which on whoever appends has to take part in it, in a
# small log.
MERGE_EVENTS, MAX_TAIL_EVENTS = 200_000, 400_000
# In a large log a merge begins when the events after the mark are this share of the others, so that as many of them
# share a page as in a small one; so many at most, since each process holds them in its memory and reads twice as many
# within a second when it starts.
MERGE_SHARE, MAX_MERGE_EVENTS = 0.05, 500_000
# Seconds that a transaction should take; the events that it may have, and those of the first one.
STEP_SECONDS, MIN_STEP_EVENTS, MAX_STEP_EVENTS, FIRST_STEP_EVENTS = 0.01, 100, 20_000, 500
# Entries, each a page at most, after which the write-ahead log is written back.
ENTRIES_PER_CHECKPOINT = 16_000
# Rows that are read at once to plan a merge; from how many on columns are read, which takes compiled code.
ROWS_PER_READ, MIN_COLUMN_ROWS = 100_000, 20_000
# How long a merge pauses behind a transaction, in times of what that took with its waiting, and seconds at most: others
# write meanwhile.
PAUSE, MAX_PAUSE_SECONDS = 2.0, 0.05
# Seconds after which a process looks again whether another one still merges.
RETRY_SECONDS = 0.5
# Seconds between two transactions of a merge at least: whoever waits for the lock gets it.
MIN_PAUSE_SECONDS = 0.002
_columns_of_user = ", ".join(f'"{column.name}"' for column in EVENTS_OF_USER.columns)
# Of each index: the column it is sorted by, and by `seq` then; a condition for the events in it; and the statement that
# enters events.
_INDEXES = (
    (
        "user", "",
        f"INSERT OR IGNORE INTO {EVENTS_OF_USER.name} ({_columns_of_user}) SELECT {_columns_of_user} ",
    ),
    ("id", "", f"INSERT OR IGNORE INTO {EVENT_IDS.name} (id, seq) SELECT id, seq "),
    (
        "list_id", "AND list_id IS NOT NULL",
        f"INSERT OR IGNORE INTO {EVENT_LISTS.name} (list_id, seq) SELECT list_id, seq ",
    ),
)  # fmt: skip
# Events that were deleted meanwhile are not among these rows.
_SOURCE = "FROM (SELECT value AS chosen FROM json_each(?)) CROSS JOIN events ON events.seq = chosen"
_MARK = f"SELECT CAST(value AS INTEGER) FROM meta WHERE key = '{EVENTS_INDEXED}'"
_SET_MARK = f"""
    INSERT INTO meta (key, value) VALUES ('{EVENTS_INDEXED}', ?1)
    ON CONFLICT (key) DO UPDATE SET value = max(CAST(value AS INTEGER), ?1)
"""


@dataclasses.dataclass
class _Plan:
    """What is still to be entered: of each index its statement and the events sorted by its key.

    until: the mark afterwards.
    """

    until: int
    entries: list[tuple[str, array[int]]]
    start: int = 0  # events of the first index that are entered


class EventMerge:
    """Moves the mark of the indexes on: by a thread that runs while there is much to merge, and by whoever appends
    faster than it merges.

    Of several processes one merges, by a lock of the operating system on a file beside the store. Were there two, they
    would enter the same and only take longer.

    Parameters
    ----------
    checkpoint: writes the write-ahead log back.
    """

    def __init__(self, file: SqliteFastPath, checkpoint: Callable[[], object]) -> None:
        self._file, self._checkpoint, self._index = file, checkpoint, file.index
        self._lock = threading.Lock()  # of the plan
        self._plan: _Plan | None = None
        self._descriptor: int | None = None
        self._step_events, self._entries_in_log = FIRST_STEP_EVENTS, 0
        self._thread_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    @property
    def merge_events(self) -> int:
        """Events after the mark from which on a merge begins."""
        return max(MERGE_EVENTS, min(int(MERGE_SHARE * self._index.mark), MAX_MERGE_EVENTS))

    @property
    def _max_tail_events(self) -> int:
        return MAX_TAIL_EVENTS * self.merge_events // MERGE_EVENTS

    def after_append(self, n_events: int) -> None:
        """Begin to merge where there is enough, and take part where there is too much. Never raises."""
        is_due = self._index.n_after_mark >= self.merge_events
        if self._thread is None and (is_due or self._index.tail.is_compactable):
            self._start_thread()
        if self._index.n_after_mark > self._max_tail_events:
            try:
                n_entered, share = 0, 3 * len(_INDEXES) * n_events
                while n_entered < share and (n := self.step(self.merge_events)):
                    n_entered += n
            except ZhiyinError as error:
                log.debug("store: events are not merged: %s", error)

    def step(self, min_events: int = 1) -> int:
        """Enter some events by one transaction. Returns the number of entries; 0: there are fewer events after the mark
        than `min_events`, or another process merges.

        Raises StoreFullError and StoreAwayError.
        """
        with self._lock:
            try:
                if self._plan is None:
                    self._plan = self._new_plan(min_events)
                n_entered = 0 if self._plan is None else self._enter(self._plan)
                if self._plan is not None and not self._plan.entries:
                    self._plan = None  # the next step plans anew
            except BaseException:
                self._end()
                raise
            if n_entered == 0:
                self._end()
        self._entries_in_log += n_entered
        return n_entered

    def run(self) -> int:
        """Merge until there is nothing left, and write the log back. Returns the number of entries."""
        total = 0
        while n_entered := self.step():
            total += n_entered
            self._write_back(ENTRIES_PER_CHECKPOINT)
        self._write_back(1)
        return total

    def _write_back(self, min_entries: int) -> None:
        """Write SQLite's log back: it grows by a page for nearly every entry."""
        if self._entries_in_log >= min_entries:
            self._entries_in_log = 0
            self._checkpoint()

    def close(self) -> None:
        """End the thread after its transaction. What it has entered stays, and the mark where it was."""
        with self._thread_lock:
            self._stopped.set()
            if self._thread is not None:
                self._thread.join()
            self._thread = None
            self._stopped = threading.Event()
        with self._lock:
            self._end()

    def _new_plan(self, min_events: int) -> _Plan | None:
        if self._descriptor is None and not self._acquire_file():
            return None
        with self._file.reading() as connection:
            mark = (connection.execute(_MARK).fetchone() or (0,))[0]
            query = "SELECT max(seq), count(*) FROM (SELECT seq FROM events WHERE seq > ? ORDER BY seq LIMIT ?)"
            until, n_events = connection.execute(query, (mark, MAX_MERGE_EVENTS)).fetchone()
            if n_events < max(min_events, 1):
                return None
        # Not within that transaction: while one is open, the write-ahead log cannot begin anew.
        columns = self._key_columns(mark, until) if n_events >= MIN_COLUMN_ROWS else None
        entries = []
        for key, condition, statement in _INDEXES:
            if columns is not None:
                seqs = array("q", _sorted_seqs(columns, key).tobytes())
            else:
                query = f'SELECT seq FROM events WHERE seq > ? AND seq <= ? {condition} ORDER BY "{key}", seq'
                with self._file.reading() as connection:
                    seqs = array("q", (seq for (seq,) in connection.execute(query, (mark, until))))
            entries.append((statement, seqs))
        return _Plan(until, entries)

    def _key_columns(self, mark: int, until: int) -> pl.DataFrame | None:
        """Number and keys of the events in (mark, until]; None where columns cannot be read."""
        import polars as pl

        types = {"seq": "integer", **{key: "text" for key, _, _ in _INDEXES}}
        parts = []
        while mark < until:
            columns = event_columns(self._file.path, types, mark, until, ROWS_PER_READ)
            if columns is None:
                return None
            if not len(columns["seq"]):
                break
            parts.append(pl.DataFrame(columns))
            mark = int(columns["seq"][-1])
        return pl.concat(parts) if parts else None

    def _enter(self, plan: _Plan) -> int:
        """Enter the next events; with the last ones the mark is moved."""
        while plan.entries and plan.start == len(plan.entries[0][1]):
            del plan.entries[0]
            plan.start = 0
        if not plan.entries:
            return 0
        statement, seqs = plan.entries[0]
        chosen = seqs[plan.start : plan.start + self._step_events]
        is_last = plan.start + len(chosen) == len(seqs) and not any(len(others) for _, others in plan.entries[1:])
        begun = time.perf_counter()
        with self._file.writing(durable=False) as connection:
            begun = time.perf_counter()
            connection.execute(statement + _SOURCE, (json.dumps(chosen.tolist()),))
            if is_last:
                connection.execute(_SET_MARK, (plan.until,))
        seconds = time.perf_counter() - begun
        plan.start += len(chosen)
        if is_last:
            plan.entries.clear()
        wanted = int(self._step_events * min(2.0, max(0.5, STEP_SECONDS / max(seconds, 1e-6))))
        self._step_events = min(MAX_STEP_EVENTS, max(MIN_STEP_EVENTS, wanted))
        return len(chosen)

    def _end(self) -> None:
        self._plan = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _acquire_file(self) -> bool:
        """Whether no other process merges. With far too many events that is not asked."""
        path = self._file.path.with_name(f"{self._file.path.name}.merging")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return self._index.n_after_mark > 2 * self._max_tail_events
        self._descriptor = descriptor
        return True

    def _start_thread(self) -> None:
        with self._thread_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="zhiyin-merge", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        stopped = self._stopped
        while not stopped.is_set():
            begun, n_entered = time.perf_counter(), 0
            try:
                self._index.tail.compact()
                if self._plan is not None or self._index.n_after_mark >= self.merge_events:
                    n_entered = self.step(self.merge_events)
                pause = min(MAX_PAUSE_SECONDS, PAUSE * (time.perf_counter() - begun))
                self._write_back(ENTRIES_PER_CHECKPOINT if n_entered else 1)
                if n_entered == 0:  # the mark may have moved, here or in another process
                    with self._file.reading() as connection:
                        self._index.catch_up(connection)
            except Exception as error:  # the next append begins again
                log.debug("store: events are not merged: %s", error)
            if n_entered == 0:
                if self._index.n_after_mark < self.merge_events and not self._index.tail.is_compactable:
                    break
                pause = RETRY_SECONDS
            elif self._index.n_after_mark > self._max_tail_events:
                pause = MIN_PAUSE_SECONDS
            stopped.wait(pause)
        self._thread = None


def _sorted_seqs(columns: pl.DataFrame, key: str) -> np.ndarray:
    """int64: the numbers of the events that have a key, sorted by it and then by number."""
    # Bytes of UTF-8 are compared, as in SQLite.
    return columns.drop_nulls(key).sort(key, maintain_order=True, multithreaded=False)["seq"].to_numpy()
