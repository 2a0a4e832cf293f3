"""Unique ids: milliseconds since 1970, and 80 random bits of the system.

Later ids sort behind earlier ones, as UUIDs of version 7 do, so that an index of them grows at its end and a database
writes one page for many. Who was not told an id cannot guess it.
"""

from __future__ import annotations

import os
import re
import threading
import time

# The form of the ids as a regular expression, for descriptions too.
FRESH_ID_PATTERN = "^[0-9a-f]{32}$"
_FORM = re.compile(FRESH_ID_PATTERN)
_TIME_DIGITS = 12
# Random bytes of an id, and those that are asked of the system at once: asking costs as much as all else of an id.
_N_RANDOM, _N_ASKED = 10, 5_120


class _RandomBytes:
    """Random bytes of the system, each given once. Any number of threads may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes, self._position = b"", 0

    def __call__(self, n: int) -> bytes:
        with self._lock:
            if self._position + n > len(self._bytes):
                self._bytes, self._position = os.urandom(_N_ASKED), 0
            start = self._position
            self._position += n
            return self._bytes[start : start + n]

    def renew(self) -> None:
        """Forget the bytes that are left: a process that was forked has the same ones."""
        self._bytes, self._position = b"", 0
        self._lock = threading.Lock()


_random_bytes = _RandomBytes()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random_bytes.renew)


def fresh_id() -> str:
    """A new id of 32 hexadecimal digits. Thread-safe."""
    return f"{time.time_ns() // 1_000_000:012x}{_random_bytes(_N_RANDOM).hex()}"


def is_fresh_id(id: str) -> bool:
    """Whether an id has the form of those that `fresh_id` makes.

    >>> is_fresh_id(fresh_id()), is_fresh_id("order-7")
    (True, False)
    """
    return _FORM.fullmatch(id) is not None


def seconds_of(id: str) -> float:
    """When `fresh_id` made an id, seconds since 1970."""
    return int(id[:_TIME_DIGITS], 16) / 1_000
