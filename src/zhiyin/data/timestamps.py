"""Times of any spelling into int64 microseconds since 1970, UTC.

Numbers are told by their size: seconds to nanoseconds, or a day written as 20231122. Texts are parsed by the format
that reads most of a sample from all over the column; what it leaves is given to further formats, so that days among
moments are read too. Whether the day or the month comes first is judged by the whole column, and said where it stays
open.
"""

from __future__ import annotations

import dataclasses
import math
import time

import polars as pl

from zhiyin.core.durations import SECOND, UNITS
from zhiyin.core.limits import EARLIEST, LATEST

# Whole numbers are read by their size: each unit has a range of its own between EARLIEST and LATEST.
_UNITS = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
_SAMPLE = 1_000


def wall_clock() -> int:
    """Microseconds since 1970, UTC, by the clock of this machine."""
    return time.time_ns() // 1000


@dataclasses.dataclass(frozen=True)
class TimePolicy:
    """Which times of events are accepted.

    Parameters
    ----------
    earliest: microseconds UTC; what is earlier is no moment at which somebody did something.
    ahead: microseconds that a time may be ahead of the clock. One that is, is taken as the clock's: clocks of those who
        send events differ a little. One further ahead is refused: it would be the end of the log for ever.
    """

    earliest: int = EARLIEST
    ahead: int = UNITS["d"]

    def latest(self, now: int) -> int:
        """The latest time accepted when the clock says `now`."""
        return now + self.ahead

    def accepts(self, moment: int, now: int) -> bool:
        return self.earliest <= moment <= now + self.ahead

    def refusal(self, moment: int, now: int) -> tuple[str, str]:
        """Why a time is not accepted, and what to do."""
        for unit, per_second in _UNITS.items():
            if unit != "microseconds" and self.accepts(moment * SECOND // per_second, now):
                why = "is before 1971" if moment < self.earliest else "is more than a day ahead of the clock"
                return f"time = {moment} {why}: it looks like {unit}", "send microseconds UTC"
        if moment < self.earliest:
            return f"time = {moment} is before 1971", "microseconds UTC, or leave time out for now"
        return (
            f"time = {moment} is more than a day ahead of the clock",
            "microseconds UTC; check the clock of who sends it, or leave time out for now",
        )


@dataclasses.dataclass(frozen=True)
class Times:
    """Times of a column.

    Parameters
    ----------
    times: Int64 microseconds UTC, null where a value is missing or no time.
    open_order: what is to be said where days and months of the column may be either; empty where they are not.
    day_first: the order that was read, where days and months are written as numbers below each other; else None.
    notes: what else was decided.
    mixed_orders: rows of a date whose day must be first and of one whose month must be, where the column has both.
    """

    times: pl.Series
    open_order: str = ""
    day_first: bool | None = None
    notes: tuple[str, ...] = ()
    mixed_orders: tuple[int, int] | None = None


def numeric_unit(numbers: pl.Series) -> str | None:
    """Unit of a column of numbers that are times, judged by its median; None when they cannot be times."""
    middle = numbers.drop_nulls().cast(pl.Float64).median()
    if not isinstance(middle, int | float):
        return None
    for unit, per_second in _UNITS.items():
        if EARLIEST * per_second <= middle * SECOND <= LATEST * per_second:
            return unit
    return None


def looks_like_times(column: pl.Series, named: bool = False) -> bool:
    """Whether a column, or a sample of one, holds times: moments, numbers of a unit, days as numbers, texts.

    named: its name says that it does; then days counted as spreadsheets do are times too.
    """
    seen = column.drop_nulls()
    if column.dtype in (pl.Date, pl.Datetime):
        return len(seen) > 0
    if not len(seen) or not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Categorical)):
        return False
    if column.dtype.is_numeric():
        known = numeric_unit(seen) is not None or _digits_format(seen) is not None
        return known or (named and _is_serial(seen))
    sample = _spread(seen.cast(pl.String), 200)
    if not named and _is_serial(sample.cast(pl.Float64, strict=False).drop_nulls()):
        return False
    return 2 * to_microseconds(sample).null_count() < len(sample)


def to_microseconds(column: pl.Series, day_first: bool | None = None) -> pl.Series:
    """Int64 microseconds UTC, null where a value is missing or no time. A time without a zone is UTC."""
    return read_times(column, day_first).times


def is_zone(name: str) -> bool:
    """Whether a text is the name of a time zone, such as "Europe/Berlin" or "UTC"."""
    try:
        pl.Series([0]).cast(pl.Datetime("us")).dt.replace_time_zone(name)
    except pl.exceptions.PolarsError:
        return False
    return True


def read_times(column: pl.Series, day_first: bool | None = None, zone: str | None = None) -> Times:
    """As `to_microseconds`, with what was decided.

    Parameters
    ----------
    day_first: what to do where days and months may be either.
    zone: where times without a zone, or with an abbreviation that several zones have, are from; left out, UTC.
    """
    dtype = column.dtype
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            return Times(_in_zone(column.dt.epoch("us"), zone))
        return Times(column.dt.convert_time_zone("UTC").dt.epoch("us"))
    if dtype == pl.Date:
        return Times(_in_zone(column.cast(pl.Datetime("us")).dt.epoch("us"), zone))
    if dtype.is_numeric():
        return _numeric(column, zone)
    if dtype in (pl.Duration, pl.Time, pl.Boolean, pl.Binary) or dtype.is_nested():
        return Times(_nulls(column))
    text = column.cast(pl.String).str.strip_chars()
    text = text.set(text == "", None)
    if text.str.contains(_COMMA_NUMBER).any():
        text = text.str.replace(_COMMA_NUMBER, "$1.$2")
    if text.str.contains(_JSON_DATE).any():
        text = text.str.replace(_JSON_DATE, "$1")
    numbers = text.cast(pl.Float64, strict=False)
    written = len(text) - text.null_count()
    if written and 2 * (len(text) - numbers.null_count()) >= written:
        whole = text.cast(pl.Int64, strict=False)
        exact = whole if whole.null_count() <= numbers.null_count() else numbers
        if numeric_unit(numbers) or _digits_format(exact.drop_nulls()) or _is_serial(numbers.drop_nulls()):
            found = _numeric(exact.alias(column.name), zone)
            if found.times.null_count() <= text.null_count():
                return found
            rest = _parse_text(text.set(found.times.is_not_null(), None), day_first, zone)  # texts among numbers
            return dataclasses.replace(rest, times=found.times.fill_null(rest.times), notes=found.notes + rest.notes)
    return _parse_text(text, day_first, zone)


_CLOCK = (
    r"^(?<before>上午|下午|오전|오후)?\s*(?<hour>\d{1,2})[:.时時h](?<minute>\d{2})分?"
    r"(?:[:.]?(?<second>\d{2})秒?(?<fraction>[.,]\d{1,9})?)?\s*(?<after>(?i:[ap]\.?m\.?))?$"
)


def read_clock(column: pl.Series) -> pl.Series:
    """Times of day as Int64 microseconds since midnight, null where a value is missing or none.

    column: of type Time, or texts such as "07:05", "7:05:30.25 PM" and "下午3:08".
    """
    if column.dtype == pl.Time:
        return column.cast(pl.Int64) // 1_000
    if column.dtype not in (pl.String, pl.Categorical):
        return _nulls(column)
    parts = column.cast(pl.String).str.strip_chars().str.extract_groups(_CLOCK).struct.unnest()
    hour, minute, second = (parts[name].cast(pl.Int64) for name in ("hour", "minute", "second"))
    fraction = ("0" + parts["fraction"].str.replace(",", ".")).cast(pl.Float64).fill_null(0.0)
    half = (parts["before"].fill_null("") + parts["after"].fill_null("")).str.to_lowercase().str.head(1)
    afternoon = half.is_in(["p", "下", "오"]) & ~parts["before"].is_in(["오전"]).fill_null(False)
    named = half != ""
    hour = pl.select(
        pl.when(~named).then(hour).when((hour >= 1) & (hour <= 12)).then(hour % 12 + 12 * afternoon.cast(pl.Int64))
    ).to_series()
    second = second.fill_null(0)
    valid = ((hour < 24) & (minute < 60) & (second < 60)).fill_null(False)
    clock = ((hour * 60 + minute) * 60 + second) * SECOND + (fraction * SECOND).round().cast(pl.Int64)
    return clock.set(~valid, None).alias(column.name)


def join_clock(days: pl.Series, clock: pl.Series, zone: str | None = None) -> pl.Series:
    """Int64 microseconds UTC of days (midnights, microseconds) and times of day; a missing time of day is midnight."""
    return _in_zone(days + clock.fill_null(0), zone)


def parse_text(text: pl.Series, day_first: bool | None = None) -> pl.Series:
    """Times written as text, Int64 microseconds UTC."""
    return _parse_text(text, day_first).times


# Numbers


_COMMA_NUMBER = r"^(\d{5,}),(\d+)$"
_JSON_DATE = r"^/?Date\((\d+)(?:[+-]\d{4})?\)/?$"
_DAY_1970, _DAY_2000 = 25_569, 36_526  # as spreadsheets count days


def _is_serial(numbers: pl.Series) -> bool:
    """Whether numbers are days as spreadsheets count them, every one from 2000 until tomorrow: 45245.5 is a noon."""
    if not len(numbers):
        return False
    first, last = numbers.cast(pl.Float64).min(), numbers.cast(pl.Float64).max()
    latest = wall_clock() // UNITS["d"] + 1 + _DAY_1970
    return isinstance(first, float) and isinstance(last, float) and _DAY_2000 <= first <= last <= latest


def _numeric(column: pl.Series, zone: str | None) -> Times:
    """Times of numbers, with what was decided."""
    seen = column.drop_nulls()
    if numeric_unit(column) is not None or _digits_format(seen) is not None or not _is_serial(seen):
        return Times(_from_numbers(column))
    days = column.cast(pl.Float64) - _DAY_1970
    times = (days * 86_400_000).round().cast(pl.Int64, strict=False) * 1_000
    example = str(times.drop_nulls()[:1].cast(pl.Datetime("us"))[0])[:16]
    note = (
        f"{column.name}: numbers such as {seen[0]} are read as the days of a spreadsheet, {example} "
        "(if they are none, name another column: time = ... under [columns])"
    )
    return Times(_in_zone(times, zone), notes=(note,))


def _in_zone(times: pl.Series, zone: str | None) -> pl.Series:
    """What a clock in a zone showed, as microseconds since 1970 by that clock, as microseconds UTC.

    An hour that came twice is taken as the first of both; one that never was is null.
    """
    if zone is None:
        return times
    local = times.cast(pl.Datetime("us")).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC").dt.epoch("us")


def _from_numbers(column: pl.Series) -> pl.Series:
    unit = numeric_unit(column)
    form = _digits_format(column.drop_nulls())
    if form is not None and (unit is None or form != "%Y%m%d"):
        text = column.cast(pl.Int64, strict=False).cast(pl.String)
        return _parse(text, form, False)
    unit = unit or "seconds"
    if column.dtype.is_float() or column.dtype.is_decimal():
        scaled = column.cast(pl.Float64) * (SECOND / _UNITS[unit])
        return scaled.fill_nan(None).round().cast(pl.Int64, strict=False)
    whole = column.cast(pl.Int64, strict=False)
    if unit == "nanoseconds":
        return whole // 1000
    factor = SECOND // _UNITS[unit]
    limit = (2**63 - 1) // factor
    if not whole.is_between(-limit, limit).all():  # a product past 64 bits would come round as another time
        whole = whole.set(~whole.is_between(-limit, limit), None)
    return whole * factor if factor > 1 else whole


_DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def _digits_format(numbers: pl.Series) -> str | None:
    """The format of whole numbers that are days or moments written in digits, such as 20231122; None for others."""
    if not len(numbers):
        return None
    middle = numbers.cast(pl.Float64).median()
    if not isinstance(middle, int | float) or not math.isfinite(middle):
        return None
    form = _DIGITS.get(len(str(int(abs(middle)))))
    if form is None or not 1900 <= int(str(int(abs(middle)))[:4]) < 2200:
        return None
    sample = _spread(numbers, _SAMPLE).cast(pl.Int64, strict=False).cast(pl.String)
    return form if _parse(sample, form, False).null_count() <= 0.1 * len(sample) else None


# Texts

_YEAR_FIRST = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y%m%d",
    "%Y年%m月%d日",
    "%Y年%m月%d",
    "%Y년 %m월 %d일",
    "%G-W%V-%u",
)
_NAMED = (
    "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d/%b/%Y", "%b %d %Y", "%B %d %Y", "%d %b %y", "%d-%b-%y", "%Y-%b-%d",
)  # fmt: skip
_CLOCKS = (
    "%H:%M:%S%.f",
    "%H:%M",
    "%I:%M %p",
    "%I:%M:%S %p",
    "%H%M%S",
    "%H时%M分%S秒",
    "%H.%M.%S",
    "%H.%M",
    "%I.%M.%S%.f %p",
)
_WHOLE = ("%Y%m%d%H%M%S", "%Y%m%d%H%M", "%b %d %H:%M:%S %Y")
_PLAIN = "%Y-%m-%d %H:%M:%S%.f"
_ZONE = r"(:\d{2}(?:\.\d+)?)\s?(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$"
_NUMERIC_DATE = r"^(\d{1,2})([/.\-])(\d{1,2})[/.\-](\d{2}|\d{4})(?:\D|$)"


# Abbreviations of zones: minutes east of UTC. Those that several zones have, with what else each may be.
_OFFSETS = {
    "CET": 60, "CEST": 120, "MEZ": 60, "MESZ": 120, "EET": 120, "EEST": 180, "WET": 0, "WEST": 60, "MSK": 180,
    "EST": -300, "EDT": -240, "CDT": -300, "MST": -420, "MDT": -360, "PST": -480, "PDT": -420, "AKST": -540,
    "HST": -600, "BRT": -180, "JST": 540, "KST": 540, "HKT": 480, "SGT": 480, "ICT": 420, "WIB": 420, "PKT": 300,
    "AEST": 600, "AEDT": 660, "ACST": 570, "AWST": 480, "NZST": 720, "NZDT": 780, "SAST": 120, "EAT": 180,
    "CST": -360, "IST": 330, "BST": 60,
}  # fmt: skip
_SHARED = {
    "CST": ("UTC-6", "UTC+8", "Asia/Shanghai"), "IST": ("UTC+5:30", "UTC+1 or UTC+2", "Europe/Dublin"),
    "BST": ("UTC+1", "UTC+6", "Asia/Dhaka"),
}  # fmt: skip
_NAMED_ZONE = r"\s*\[?([A-Z][A-Za-z_]+(?:/[A-Za-z_+\-0-9]+)+|[A-Z]{3,5})\]?$"
_OFFSET_BEFORE = r"(?:Z|[+-]\d{2}:?(?:\d{2})?)\s*\[?[A-Z][A-Za-z_/]+\]?$"


def _parse_text(text: pl.Series, day_first: bool | None, zone: str | None = None) -> Times:
    """Times of texts, those with the name of a zone at their end among them: "10:00 CET", "10:00 Europe/Berlin"."""
    if text.str.contains(_ZONE_BEFORE_YEAR).any():  # as `date` of Unix writes
        text = text.str.replace(_ZONE_BEFORE_YEAR, "$3 $1 $2")
    plain, named = _named_zones(text)
    if named is None:
        return _parse_unnamed(text, day_first, zone)
    found = _parse_unnamed(plain, day_first, None)
    times, notes = found.times, []
    for name in named.drop_nulls().unique().sort().to_list():
        rows = (named == name).fill_null(False)
        here, minutes = times.filter(rows), _OFFSETS.get(name)
        if name in _SHARED and zone is not None:
            here = _in_zone(here, zone)
        elif minutes is not None:
            here = here - minutes * 60 * SECOND
        else:
            here = _in_zone(here, name)
        if name in _SHARED and zone is None:
            usual, other, example = _SHARED[name]
            notes.append(
                f"{text.name}: {name} may be {usual} or {other}, read as {usual} "
                f'(else: zone = "{example}" under [read] or by --assume)'
            )
        times = times.scatter(rows.arg_true(), here)
    if zone is not None:
        bare = (named.is_null() & ~text.str.contains(_OFFSET_END)).fill_null(False)
        times = times.scatter(bare.arg_true(), _in_zone(times.filter(bare), zone))
    return dataclasses.replace(found, times=times, notes=tuple(notes))


_ZONE_BEFORE_YEAR = r"(\d+:\d+:\d+) ([A-Z]{3,5}) (\d{4})$"
_OFFSET_END = r"(?:Z|UTC|GMT|[+-]\d{2}:?(?:\d{2})?)(?:\s*\[.*\])?$"


def _named_zones(text: pl.Series) -> tuple[pl.Series, pl.Series | None]:
    """Texts without the names of zones at their ends, and these names; None where no text has one that is known."""
    sample = _spread(text.drop_nulls(), _SAMPLE)
    if not bool(sample.str.contains(_NAMED_ZONE).any()):
        return text, None
    named = text.str.extract(_NAMED_ZONE, 1)
    names = [
        name for name in named.drop_nulls().unique().to_list() if name in _OFFSETS or ("/" in name and is_zone(name))
    ]
    known = named.is_in(names).fill_null(False)
    if not known.any():
        return text, None
    plain = pl.select(
        pl.when(known).then(text.str.replace(_NAMED_ZONE, "")).otherwise(text).alias(text.name)
    ).to_series()
    told = text.str.contains(_OFFSET_BEFORE).fill_null(False)  # "+01:00[Europe/Berlin]" says it already
    return plain, named.set(~known | told, None)


def _parse_unnamed(text: pl.Series, day_first: bool | None, zone: str | None) -> Times:
    unread = text
    times = _nulls(text)
    said, order, mixed = "", None, None
    for _ in range(6):
        sample = _spread(unread.drop_nulls(), _SAMPLE)
        if not len(sample):
            break
        unread, sample = _normalised(unread, sample)
        if order is None and not said and bool(sample.str.contains(_NUMERIC_DATE).any()):
            order, said, mixed = _day_order(unread, day_first)
        form, zoned = _best_format(sample, order)
        if form is None:
            break
        found = _parse(unread, form, zoned)
        found = found if zoned else _in_zone(found, zone)
        times = times.fill_null(found) if times.null_count() < len(times) else found
        if found.null_count() == unread.null_count():
            break
        left = unread.set(found.is_not_null(), None)
        if left.null_count() == unread.null_count():
            break
        unread = left
    return Times(times, said, order, mixed_orders=mixed)


def _normalised(text: pl.Series, sample: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Texts without what formats do not know: names of weekdays, commas, an hour without minutes."""
    for seen, changes in _REWRITES:
        if bool(sample.str.contains(seen).any()):
            for pattern, by in changes:
                text, sample = text.str.replace_all(pattern, by), sample.str.replace_all(pattern, by)
    return text, sample


# Names of months in German, French, Spanish and Italian, as words in English.
_MONTHS = {
    "Jan": "januar|jänner|jän|janvier|janv|enero|gennaio|gen", "Feb": "februar|février|févr|febrero|febbraio",
    "Mar": "märz|mär|mars|marzo", "Apr": "avril|avr|abril|abr|aprile", "May": "mai|mayo|maggio|mag",
    "Jun": "juni|juin|junio|giugno|giu", "Jul": "juli|juillet|juil|julio|luglio|lug",
    "Aug": "août|agosto|ago", "Sep": "septembre|sept|septiembre|settembre|set",
    "Oct": "oktober|okt|octobre|octubre|ottobre|ott",
    "Nov": "novembre|noviembre", "Dec": "dezember|dez|décembre|déc|diciembre|dic|dicembre",
}  # fmt: skip
_MONTH = [
    (rf"(?i)(\d)\.? (?:de )?(?:{names})\.?(?: de)? (\d)", rf"${{1}} {month} ${{2}}") for month, names in _MONTHS.items()
]

# What is done to texts of which a sample holds a pattern.
_REWRITES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (r"^\[.*\]$", ((r"^\[(.*)\]$", "$1"),)),  # logs of web servers
    (
        r"\d[时時]\d",
        (
            (r"(\d)[时時](\d{1,2})分(\d{1,2})秒", "${1}:${2}:${3}"),
            (r"(\d)[时時](\d{1,2})分?$", "${1}:${2}"),
        ),
    ),
    (r"\(.*\)$", ((r"\s*\([\p{L} ]+\)$", ""),)),  # "... GMT+0100 (Central European Standard Time)"
    (
        r"(?:UTC|GMT)\s?[+-]\d",
        (
            (r"\s?(?:UTC|GMT)\s?([+-])(\d)$", " ${1}0${2}:00"),
            (r"\s?(?:UTC|GMT)\s?([+-]\d{2}):?(\d{2})?$", " ${1}:${2}"),
            (r"([+-]\d{2}):$", "${1}:00"),
        ),
    ),
    (
        r"上午|下午|오전|오후",
        (
            (r"\s?(?:上午|오전)\s?(\d{1,2}:\d{2}(?::\d{2})?)", " $1 AM"),
            (r"\s?(?:下午|오후)\s?(\d{1,2}:\d{2}(?::\d{2})?)", " $1 PM"),
        ),
    ),
    (r"\d(?:st|nd|rd|th)\b", ((r"(\d)(?:st|nd|rd|th)\b", "$1"),)),
    (r"(?i)\d\.? (?:de )?(?:" + "|".join(_MONTHS.values()) + r")\b", tuple(_MONTH)),
    (r"\d{1,2}\. \p{L}{3}", ((r"(\d{1,2})\. (\p{L}{3})", "$1 $2"), (r"(\p{L}{3})\. ", "$1 "))),
    (r"^\p{L}{3} \p{L}{3} \d{1,2} \d{4} ", ((r"^\p{L}{3} (\p{L}{3} \d{1,2} \d{4} )", "$1"),)),
    (r"^\p{L}{3,9},? ", ((r"^(?i:mon|tue|wed|thu|fri|sat|sun)\p{L}*,? ", ""),)),
    (r"[+-]\d{4} \d{4}$", ((r"(\d+:\d+:\d+) ([+-]\d{4}) (\d{4})$", "${3} ${1} ${2}"),)),  # "03:08:59 -0700 2023"
    (r"\p{L}{3,9}\.? \d{1,2},|\d{1,2} \p{L}{3,9}\.?,", ((",", ""),)),
    (r":\d{2},\d{1,9}$", ((r",(\d{1,9})$", ".$1"),)),
    (r"^\d{4}\D\d{1,2}\D\d{1,2}[ T]\d{1,2}$", ((r"^(\d{4}\D\d{1,2}\D\d{1,2}[ T]\d{1,2})$", "$1:00"),)),
    (r"^\d{1,2}\D\d{1,2}\D\d{2,4} \d{1,2}$", ((r"^(\d{1,2}\D\d{1,2}\D\d{2,4} \d{1,2})$", "$1:00"),)),
    (r"\d[T_]\d", ((r"(\d)[T_](\d)", "$1 $2"),)),
    (r"^\d{1,2}/\p{L}{3}/\d{4}:", ((r"^(\d{1,2}/\p{L}{3}/\d{4}):", "$1 "),)),  # logs of Apache
    (r"^\d{4}:\d{2}:\d{2}\b", ((r"^(\d{4}):(\d{2}):(\d{2})\b", "$1-$2-$3"),)),  # pictures
    (r",", ((r"^([^,]*\d),\s*(\d)", "$1 $2"),)),
    (r"(?i)\d\s?[ap]\.?m\.?$", ((r"(?i)\s?([ap])\.?m\.?$", " ${1}m"),)),
    (r"  ", ((r" {2,}", " "),)),
)


def _day_order(text: pl.Series, day_first: bool | None) -> tuple[bool | None, str, tuple[int, int] | None]:
    """Whether the day comes first in dates such as 03/04/2024, by the whole column, and what to say where it is open.
    Where both orders occur, also a row of each, the day first one first.

    A two-digit year first, as in 23/11/22, is no order of days and months: None.
    """
    parts = text.str.extract_groups(_NUMERIC_DATE).struct.unnest().with_row_index("row").drop_nulls()
    row, first, mark, second, last = (parts.to_series(at) for at in range(5))
    first, second = first.cast(pl.Int32), second.cast(pl.Int32)
    if not len(parts):
        return None, "", None
    short = last.str.len_bytes() == 2
    if short.all() and _is_year(first, last):
        return None, "", None
    days_first, days_second = (first > 12) & (second <= 12), (second > 12) & (first <= 12)
    surplus = int(days_first.sum()) - int(days_second.sum())
    if days_first.any() and days_second.any():
        mixed = int(row[days_first.arg_max()]), int(row[days_second.arg_max()])  # type: ignore[index]
        order = day_first if day_first is not None else surplus > 0 if surplus else mark[0] != "/"
        return order, "", mixed
    if surplus:
        return surplus > 0, "", None
    if day_first is not None:
        return day_first, "", None
    either = ((first <= 12) & (second <= 12) & (first != second)).arg_true()
    if not len(either):
        return mark[0] != "/", "", None
    at = int(either[0])
    chosen = mark[at] != "/"
    example = f"{first[at]}{mark[at]}{second[at]}{mark[at]}{last[at]}"
    day, month = (first[at], second[at]) if chosen else (second[at], first[at])
    read = f"day {day}, month {month}"
    return chosen, f"{text.name} = {example!r} may be day {month}, month {day} or {read}, read as {read}", None


def _is_year(first: pl.Series, last: pl.Series) -> bool:
    """Whether the first of three numbers is the year: more than a day, or of few values where the last has many."""
    days = last.cast(pl.Int32)
    if int(first.max()) > 31:  # type: ignore[arg-type]
        return True
    return int(days.max()) <= 31 and int(first.max()) > 12 and 3 * first.n_unique() < days.n_unique()  # type: ignore[arg-type]


def _best_format(sample: pl.Series, day_first: bool | None) -> tuple[str | None, bool]:
    """The format that reads most of a sample, and whether a zone follows; None where none reads anything."""
    zoned = float(sample.str.contains(_ZONE).mean() or 0) > 0.5  # type: ignore[arg-type]
    best, hits = None, 0
    for zone in (zoned, not zoned):
        for form in _candidates(sample, day_first):
            read = len(sample) - _parse(sample, form, zone).null_count()
            if read > hits:
                best, hits, zoned = form, read, zone
            if hits == len(sample):
                return best, zoned
        if hits:
            break
    return best, zoned


def _candidates(sample: pl.Series, day_first: bool | None) -> list[str]:
    """Formats to try, the likeliest first."""
    marks = [mark for mark in "/.-" if sample.str.contains(rf"\d{{1,2}}\{mark}\d{{1,2}}\{mark}\d{{2,4}}").any()]
    orders = {True: ("%d{0}%m{0}%Y", "%d{0}%m{0}%y"), False: ("%m{0}%d{0}%Y", "%m{0}%d{0}%y"), None: ("%y{0}%m{0}%d",)}
    dates = [form.format(mark) for mark in marks for form in orders[day_first]]
    letters = bool(sample.str.contains(r"\p{L}{3}").any())
    dates = [*_YEAR_FIRST, *dates, *(_NAMED if letters else ())]
    spaces = bool(sample.str.contains(r" ").any())
    clocks = _CLOCKS if spaces else ()
    both = [f"{date} {clock}" for clock in clocks for date in dates]
    return [*both, *dates, *_WHOLE] if spaces else [*dates, *_WHOLE, *both]


def _parse(text: pl.Series, form: str, zoned: bool) -> pl.Series:
    """Texts of one format; a year before 1000 is no year but two digits, and null."""
    clock = "%H" in form or "%I" in form
    if zoned and not clock:
        return _nulls(text)
    if zoned:
        plain = text.str.replace(r"\s?(Z|UTC|GMT)$", "+00:00").str.replace(
            r"(:\d{2}(?:\.\d+)?)\s?([+-]\d{2})$", "${1}${2}:00"
        )
        plain = plain.str.replace(r"(:\d{2}(?:\.\d+)?)\s([+-]\d{2}:?\d{2})$", "$1$2")
        times = plain.str.to_datetime(form + "%:z", time_unit="us", time_zone="UTC", strict=False).dt.epoch("us")
    elif clock:
        times = text.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("us")
    else:
        times = text.str.to_date(form, strict=False).cast(pl.Datetime("us")).dt.epoch("us")
    if "%Y" in form and "%Y%m%d" not in form:
        early = times < _YEAR_1000
        times = times.set(early.fill_null(False), None) if early.any() else times
    return times


_YEAR_1000 = -30_610_224_000 * SECOND


def _nulls(column: pl.Series) -> pl.Series:
    return pl.repeat(None, len(column), dtype=pl.Int64, eager=True).alias(column.name)


def _spread(column: pl.Series, n: int) -> pl.Series:
    """About n values from all over a column."""
    return column.gather_every(max(1, len(column) // n))
