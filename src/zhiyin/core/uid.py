"""Unique ids: milliseconds since 1970, and 80 bits of a random generator that the system seeds.

Later ids sort behind earlier ones, as UUIDs of version 7 do, so that an index of them grows at its end and a database
writes one page for many. They are unique, but no secrets.
"""

from __future__ import annotations

import os
import random
import time

_source = random.Random(os.urandom(32))


def _reseed() -> None:
    _source.seed(os.urandom(32))


os.register_at_fork(after_in_child=_reseed)


def fresh_id() -> str:
    """A new id of 32 hexadecimal digits. Thread-safe."""
    return f"{time.time_ns() // 1_000_000:012x}{_source.getrandbits(80):020x}"
