"""Ids that nobody else has made: 128 bits of a generator that the system seeded, at a tenth of what asking it each time
costs. They tell things apart; they are no secrets."""

from __future__ import annotations

import os
import random

_source = random.Random(os.urandom(32))


def _reseed() -> None:
    _source.seed(os.urandom(32))


os.register_at_fork(after_in_child=_reseed)


def fresh_id() -> str:
    """32 hexadecimal digits; any number of threads may ask."""
    return f"{_source.getrandbits(128):032x}"
