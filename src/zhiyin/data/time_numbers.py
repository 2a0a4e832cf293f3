"""Numbers as times: seconds to nanoseconds, days written as 20231122, days as spreadsheets count them."""

from __future__ import annotations

import math

import polars as pl

from zhiyin.core.durations import SECOND, UNITS
from zhiyin.core.limits import EARLIEST, LATEST
from zhiyin.data.time_formats import SAMPLE_VALUES, Times, parse_format, spread
from zhiyin.data.time_policy import UNIT_PER_SECOND, wall_clock
from zhiyin.data.time_zones import in_zone

_DAY_1970, _DAY_2000 = 25_569, 36_526  # as spreadsheets count days


def numeric_unit(numbers: pl.Series) -> str | None:
    """Unit of a column of numbers that are times, judged by its median; None when they cannot be times."""
    middle = numbers.drop_nulls().cast(pl.Float64).median()
    if not isinstance(middle, int | float):
        return None
    for unit, per_second in UNIT_PER_SECOND.items():
        if EARLIEST * per_second <= middle * SECOND <= LATEST * per_second:
            return unit
    return None


def is_spreadsheet_days(numbers: pl.Series) -> bool:
    """Whether numbers are days as spreadsheets count them, every one from 2000 until tomorrow: 45245.5 is a noon."""
    if not len(numbers):
        return False
    first, last = numbers.cast(pl.Float64).min(), numbers.cast(pl.Float64).max()
    latest = wall_clock() // UNITS["d"] + 1 + _DAY_1970
    return isinstance(first, float) and isinstance(last, float) and _DAY_2000 <= first <= last <= latest


def read_numbers(column: pl.Series, zone: str | None) -> Times:
    """Times of numbers, with what was decided."""
    seen = column.drop_nulls()
    if numeric_unit(column) is not None or digits_format(seen) is not None or not is_spreadsheet_days(seen):
        return Times(_from_numbers(column))
    days = column.cast(pl.Float64) - _DAY_1970
    times = (days * 86_400_000).round().cast(pl.Int64, strict=False) * 1_000
    example = str(times.drop_nulls()[:1].cast(pl.Datetime("us"))[0])[:16]
    note = (
        f"{column.name}: numbers such as {seen[0]} are read as the days of a spreadsheet, {example} "
        "(if they are none, name another column: time = ... under [columns])"
    )
    return Times(in_zone(times, zone), notes=(note,))


def _from_numbers(column: pl.Series) -> pl.Series:
    unit = numeric_unit(column)
    form = digits_format(column.drop_nulls())
    if form is not None and (unit is None or form != "%Y%m%d"):
        text = column.cast(pl.Int64, strict=False).cast(pl.String)
        return parse_format(text, form, False)
    unit = unit or "seconds"
    if column.dtype.is_float() or column.dtype.is_decimal():
        scaled = column.cast(pl.Float64) * (SECOND / UNIT_PER_SECOND[unit])
        return scaled.fill_nan(None).round().cast(pl.Int64, strict=False)
    whole = column.cast(pl.Int64, strict=False)
    if unit == "nanoseconds":
        return whole // 1000
    factor = SECOND // UNIT_PER_SECOND[unit]
    limit = (2**63 - 1) // factor
    if not whole.is_between(-limit, limit).all():  # a product past 64 bits would come round as another time
        whole = whole.set(~whole.is_between(-limit, limit), None)
    return whole * factor if factor > 1 else whole


_DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def digits_format(numbers: pl.Series) -> str | None:
    """The format of whole numbers that are days or moments written in digits, such as 20231122; None for others."""
    if not len(numbers):
        return None
    middle = numbers.cast(pl.Float64).median()
    if not isinstance(middle, int | float) or not math.isfinite(middle):
        return None
    form = _DIGITS.get(len(str(int(abs(middle)))))
    if form is None or not 1900 <= int(str(int(abs(middle)))[:4]) < 2200:
        return None
    sample = spread(numbers, SAMPLE_VALUES).cast(pl.Int64, strict=False).cast(pl.String)
    return form if parse_format(sample, form, False).null_count() <= 0.1 * len(sample) else None
