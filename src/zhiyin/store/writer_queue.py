"""The processes that write to one SQLite file wait in a queue.

SQLite has one writer. Who finds another at work sleeps and tries again, later each time, up to 100 ms; who has just
written begins again at once, so that one busy process keeps the others out for long. Here two locks of the operating
system on files beside the store make a queue: who has the lock of the door is next and waits for the turn; who has had
the turn must pass the door again, behind whoever waits there. A process that ends loses its locks with it.

The queue only decides who tries first. What keeps two transactions apart is SQLite's own lock, so a file system without
such locks costs fairness, and nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Seconds between two looks at a lock: at first, the factor of each next one, and at most.
FIRST_PAUSE, PAUSE_FACTOR, MAX_PAUSE = 0.0002, 1.25, 0.002
# Errors of a lock that another holds.
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


class WriterQueue:
    """The queue of one process before one store. One thread at a time may be in it."""

    def __init__(self, path: Path) -> None:
        self._paths = [path.with_name(f"{path.name}.{name}") for name in ("door", "turn")]
        self._descriptors: list[int] | None = None
        self._lock = threading.Lock()  # of the descriptors

    @contextmanager
    def turn(self, seconds: float) -> Iterator[bool]:
        """Wait for the turn of this process and hold it. Yields False where it did not come within these seconds."""
        descriptors = self._open()
        if not descriptors:
            yield True
            return
        door, turn = descriptors
        until, has_turn = time.monotonic() + seconds, False
        if _locked(door, until):
            try:
                has_turn = _locked(turn, until)
            finally:
                _unlock(door)
        try:
            yield has_turn
        finally:
            if has_turn:
                _unlock(turn)

    def close(self) -> None:
        """Close the files; a later turn opens them again. No thread may be in the queue."""
        with self._lock:
            for descriptor in self._descriptors or ():
                os.close(descriptor)
            self._descriptors = None

    def _open(self) -> list[int]:
        """The descriptors of door and turn; none where they cannot be opened."""
        with self._lock:
            if self._descriptors is None:
                descriptors: list[int] = []
                try:
                    while len(descriptors) < len(self._paths):
                        path = self._paths[len(descriptors)]
                        descriptors.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                except OSError:
                    for descriptor in descriptors:
                        os.close(descriptor)
                    return []
                self._descriptors = descriptors
            return self._descriptors


def _locked(descriptor: int, until: float) -> bool:
    """Whether the lock was free before a time of `time.monotonic`; it is held then."""
    pause = FIRST_PAUSE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in _HELD:  # there are no such locks here
                return True
        left = until - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(pause * PAUSE_FACTOR, MAX_PAUSE)


def _unlock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:
        return
