"""Durations as texts ("7d", "12h", "30m"), and in microseconds, in which all times are kept: int64, UTC."""

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
# The longest duration: a time of this century plus or minus it fits into int64 and `datetime`.
MAX_YEARS = 1_000
# Decimals of a number in `pattern_of`.
_DECIMALS = 6
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhdwy])\s*")


def is_duration(text: object) -> bool:
    """Whether `text` is a duration that `microseconds` takes."""
    try:
        return isinstance(text, str) and microseconds(text) > 0
    except ConfigError:
        return False


def microseconds(duration: str) -> int:
    """A duration such as "7d" in microseconds, at least 1.

    Raises ConfigError for a text that is no duration, or one of less than a microsecond or more than 1,000 years.

    >>> microseconds("2h") == 2 * 3600 * 1_000_000
    True
    """
    match = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        raise ConfigError(
            f"{duration!r} is not a duration", remedy='write a number and a unit of s, m, h, d, w, y, such as "7d"'
        )
    length = float(match[1]) * UNITS[match[2]]
    if not 0.5 <= length <= MAX_YEARS * UNITS["y"]:
        end = "shorter than a microsecond" if length < 1 else f"longer than {MAX_YEARS:,} years"
        raise ConfigError(f"{duration[:40]!r} is {end}", remedy=f'from 0.000001s to {MAX_YEARS}y, such as "7d"')
    return max(1, round(length))


def pattern_of(shortest: int, longest: int) -> str:
    """A regular expression of durations, for descriptions of the interface: each match is valid for `microseconds`.

    It matches a number without leading zeros and with at most six decimals, and a unit. Where `longest` is no multiple
    of a unit, values above the last multiple are not matched.

    Parameters
    ----------
    shortest: microseconds, at most a second.
    longest: microseconds, at least a second.
    """
    units = []
    for unit, length in UNITS.items():
        least, maximum = -(-shortest * 10**_DECIMALS // length), longest // length  # least: in millionths of the unit
        numbers = [rf"0\.(?:{_decimals_from(least)})"] if maximum and least < 10**_DECIMALS else []
        numbers += [rf"(?:{_whole_up_to(maximum - 1)})(?:\.[0-9]{{1,{_DECIMALS}}})?"] if maximum > 1 else []
        if maximum:
            units.append(rf"(?:{'|'.join([*numbers, str(maximum)])}){unit}")
    return f"^(?:{'|'.join(units)})$"


def _whole_up_to(maximum: int) -> str:
    """A regular expression of the whole numbers from 1 to `maximum`."""
    digits = str(maximum)
    parts = [f"[1-9]{_any_digits(len(digits) - 2, 0)}"] if len(digits) > 1 else []
    for at, digit in enumerate(digits):
        least = "0" if at else "1"
        if digit > least:
            rest = len(digits) - at - 1
            parts.append(f"{digits[:at]}{_between(least, chr(ord(digit) - 1))}{_any_digits(rest, rest)}")
    return "|".join([*parts, digits])


def _decimals_from(least: int) -> str:
    """A regular expression of decimals, at most six, of the fractions of one from `least` millionths on."""
    if least <= 1:
        return f"0{{0,{_DECIMALS - 1}}}[1-9]{_any_digits(_DECIMALS - 1, 0)}"
    digits = f"{least:0{_DECIMALS}d}"
    parts = [
        f"{digits[:at]}{_between(chr(ord(digit) + 1), '9')}{_any_digits(_DECIMALS - at - 1, 0)}"
        for at, digit in enumerate(digits)
        if digit < "9"
    ]
    short = digits.rstrip("0")
    return "|".join([short + f"0{{0,{_DECIMALS - len(short)}}}" * (len(short) < _DECIMALS), *parts])


def _between(first: str, last: str) -> str:
    return first if first == last else f"[{first}-{last}]"


def _any_digits(maximum: int, least: int) -> str:
    if maximum <= 0:
        return ""
    return (
        "[0-9]" if least == maximum == 1 else f"[0-9]{{{least}}}" if least == maximum else f"[0-9]{{{least},{maximum}}}"
    )


def spell(us: int) -> str:
    """A length of time in the largest unit that keeps it at one or more: 90 minutes are "1.5 h"."""
    names = {"y": "years", "d": "days", "h": "h", "m": "min", "s": "s"}
    for unit, name in names.items():
        if us >= UNITS[unit]:
            return f"{us / UNITS[unit]:.3g} {name}"
    return f"{us / 1000:.3g} ms"
