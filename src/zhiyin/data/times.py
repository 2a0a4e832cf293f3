"""Times of any spelling into int64 microseconds since 1970, UTC."""

from __future__ import annotations

import dataclasses
import time

import polars as pl

from zhiyin.core.durations import SECOND, UNITS

# Whole numbers are read by their size: each unit has a range of its own between the years 1971 and 2128.
EARLIEST, LATEST = 31_536_000 * SECOND, 5_000_000_000 * SECOND
_UNITS = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}


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


def numeric_unit(numbers: pl.Series) -> str | None:
    """Unit of a column of numbers that are times, judged by its median; None when they cannot be times."""
    middle = numbers.drop_nulls().cast(pl.Float64).median()
    if not isinstance(middle, int | float):
        return None
    for unit, per_second in _UNITS.items():
        if EARLIEST * per_second <= middle * SECOND <= LATEST * per_second:
            return unit
    return None


def to_microseconds(column: pl.Series) -> pl.Series:
    """Int64 microseconds UTC, null where a value is missing or no time. A time without a zone is UTC."""
    dtype = column.dtype
    if isinstance(dtype, pl.Datetime):
        aware = column if dtype.time_zone else column.dt.replace_time_zone("UTC")
        return aware.dt.convert_time_zone("UTC").dt.epoch("us")
    if dtype == pl.Date:
        return column.cast(pl.Datetime("us")).dt.epoch("us")
    if dtype.is_numeric():
        unit = numeric_unit(column) or "seconds"
        if dtype.is_float():
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
    text = column.cast(pl.String).str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    if 2 * (numbers.null_count() - text.null_count()) <= len(text) and numeric_unit(numbers):
        whole = text.cast(pl.Int64, strict=False)
        return to_microseconds(whole if whole.null_count() <= numbers.null_count() else numbers)
    return parse_text(text)


_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d",
    "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y",
    "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%Y%m%d",
)  # fmt: skip
_ZONE = r"(:\d{2}(?:\.\d+)?)\s?(Z|UTC|[+-]\d{2}(?::?\d{2})?)$"


def parse_text(text: pl.Series) -> pl.Series:
    """Times written as text. One format is chosen for the column: the one that reads most of a sample."""
    sample = text.drop_nulls()
    sample = sample.gather_every(max(1, len(sample) // 1000))  # from all over: 03/04 may be March or April, 13/04 not
    zoned = bool(len(sample)) and float(sample.str.contains(_ZONE).mean() or 0) > 0.5  # type: ignore[arg-type]
    best, hits = _FORMATS[0], -1
    for form in _FORMATS:
        read = _parse(sample, form, zoned)
        if len(sample) - read.null_count() > hits:
            best, hits = form, len(sample) - read.null_count()
    times = _parse(text, best, zoned)
    if times.null_count() > text.null_count():  # some with a zone and some without
        times = times.fill_null(_parse(text, best, not zoned))
    return times


def _parse(text: pl.Series, form: str, zoned: bool) -> pl.Series:
    if zoned:
        if "%H" not in form:
            return pl.repeat(None, len(text), dtype=pl.Int64, eager=True)
        plain = text.str.replace(r"\s?(Z|UTC)$", "+00:00").str.replace(
            r"(:\d{2}(?:\.\d+)?)\s?([+-]\d{2})$", "${1}${2}:00"
        )
        return plain.str.to_datetime(form + "%:z", time_unit="us", time_zone="UTC", strict=False).dt.epoch("us")
    if "%H" not in form:
        return text.str.to_date(form, strict=False).cast(pl.Datetime("us")).dt.epoch("us")
    return text.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("us")
