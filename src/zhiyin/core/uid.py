"""Unique ids: milliseconds since 1970, and 80 random bits of the system.

Later ids sort behind earlier ones, as UUIDs of version 7 do, so that an index of them grows at its end and a database
writes one page for many. Who was not told an id cannot guess it.
"""

from __future__ import annotations

import os
import re
import time

# The form of the ids as a regular expression, for descriptions too.
FRESH_ID_PATTERN = "^[0-9a-f]{32}$"
_FORM = re.compile(FRESH_ID_PATTERN)
_TIME_DIGITS = 12


def fresh_id() -> str:
    """A new id of 32 hexadecimal digits. Thread-safe."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def is_fresh_id(id: str) -> bool:
    """Whether an id has the form of those that `fresh_id` makes.

    >>> is_fresh_id(fresh_id()), is_fresh_id("order-7")
    (True, False)
    """
    return _FORM.fullmatch(id) is not None


def seconds_of(id: str) -> float:
    """When `fresh_id` made an id, seconds since 1970."""
    return int(id[:_TIME_DIGITS], 16) / 1_000
