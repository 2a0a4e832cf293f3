"""Times of any spelling into int64 microseconds since 1970, UTC.

The unit of numbers is inferred from their size: seconds to nanoseconds, or days written as 20231122. Texts are parsed
by the format that reads most of a sample from all over the column; further formats read the rest, such as dates without
a time of day. The order of days and months is inferred from the whole column; where it is ambiguous, a message says so.
"""

from __future__ import annotations

import dataclasses

import polars as pl

from zhiyin.data.time_formats import Times, nulls, spread
from zhiyin.data.time_numbers import digits_format, is_spreadsheet_days, numeric_unit, read_numbers
from zhiyin.data.time_texts import read_texts
from zhiyin.data.time_zones import in_zone

_COMMA_NUMBER = r"^(\d{5,}),(\d+)$"
_JSON_DATE = r"^/?Date\((\d+)(?:[+-]\d{4})?\)/?$"


def looks_like_times(column: pl.Series, named: bool = False) -> bool:
    """Whether a column, or a sample of one, holds times: moments, numbers of a unit, days as numbers, texts.

    named: whether its name is one of times; then days as spreadsheets count them are times, too.
    """
    seen = column.drop_nulls()
    if column.dtype in (pl.Date, pl.Datetime):
        return len(seen) > 0
    if not len(seen) or not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Categorical)):
        return False
    if column.dtype.is_numeric():
        has_unit = numeric_unit(seen) is not None or digits_format(seen) is not None
        return has_unit or (named and is_spreadsheet_days(seen))
    sample = spread(seen.cast(pl.String), 200)
    if not named and is_spreadsheet_days(sample.cast(pl.Float64, strict=False).drop_nulls()):
        return False
    return 2 * to_microseconds(sample).null_count() < len(sample)


def to_microseconds(column: pl.Series, day_first: bool | None = None) -> pl.Series:
    """Int64 microseconds UTC, null where a value is missing or no time. A time without a zone is UTC."""
    return read_times(column, day_first).times


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
            return Times(in_zone(column.dt.epoch("us"), zone))
        return Times(column.dt.convert_time_zone("UTC").dt.epoch("us"))
    if dtype == pl.Date:
        return Times(in_zone(column.cast(pl.Datetime("us")).dt.epoch("us"), zone))
    if dtype.is_numeric():
        return read_numbers(column, zone)
    if dtype in (pl.Duration, pl.Time, pl.Boolean, pl.Binary) or dtype.is_nested():
        return Times(nulls(column))
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
        if numeric_unit(numbers) or digits_format(exact.drop_nulls()) or is_spreadsheet_days(numbers.drop_nulls()):
            numeric = read_numbers(exact.alias(column.name), zone)
            if numeric.times.null_count() <= text.null_count():
                return numeric
            rest = read_texts(text.set(numeric.times.is_not_null(), None), day_first, zone)  # texts among numbers
            return dataclasses.replace(
                rest, times=numeric.times.fill_null(rest.times), notes=numeric.notes + rest.notes
            )
    return read_texts(text, day_first, zone)
