"""Ids that nobody else has made: milliseconds since 1970, and 80 bits of a generator that the system seeded.

Later ones sort behind earlier ones, as UUIDs of version 7 do, so an index of them grows at its end and a database
touches one page for many. They tell things apart; they are no secrets.
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
    """32 hexadecimal digits; any number of threads may ask."""
    return f"{time.time_ns() // 1_000_000:012x}{_source.getrandbits(80):020x}"
