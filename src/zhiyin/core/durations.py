"""Durations as people write them ("7d", "12h", "30m") and times as the house keeps them: int64 microseconds, UTC."""

from __future__ import annotations

import re

from zhiyin.core.errors import ConfigError

SECOND = 1_000_000
UNITS = {
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3_600 * SECOND,
    "d": 86_400 * SECOND,
    "w": 7 * 86_400 * SECOND,
    "y": 365 * 86_400 * SECOND,
}
# The longest duration, years: any moment of our times plus or minus it is still one of int64 and of `datetime`.
LONGEST = 1_000
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhdwy])\s*")


def is_duration(text: object) -> bool:
    """Whether `text` is a duration that `microseconds` takes."""
    try:
        return isinstance(text, str) and microseconds(text) > 0
    except ConfigError:
        return False


def microseconds(duration: str) -> int:
    """Length of a duration such as "7d" in microseconds, at least 1. Raises ConfigError when it is not one, is shorter
    than a microsecond or longer than 1,000 years.

    >>> microseconds("2h") == 2 * 3600 * 1_000_000
    True
    """
    match = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if match is None or float(match[1]) == 0:
        raise ConfigError(
            f"{duration!r} is not a duration", remedy='write a number and a unit of s, m, h, d, w, y, such as "7d"'
        )
    length = float(match[1]) * UNITS[match[2]]
    if not 0.5 <= length <= LONGEST * UNITS["y"]:
        end = "shorter than a microsecond" if length < 1 else f"longer than {LONGEST:,} years"
        raise ConfigError(f"{duration[:40]!r} is {end}", remedy=f'from 0.000001s to {LONGEST}y, such as "7d"')
    return max(1, round(length))


def spell(us: int) -> str:
    """A length of time in the largest unit that keeps it at one or more: 90 minutes are "1.5 h"."""
    names = {"y": "years", "d": "days", "h": "h", "m": "min", "s": "s"}
    for unit, name in names.items():
        if us >= UNITS[unit]:
            return f"{us / UNITS[unit]:.3g} {name}"
    return f"{us / 1000:.3g} ms"
