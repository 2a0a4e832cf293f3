"""Texts of one time format as times, and what readers of times share."""

from __future__ import annotations

import dataclasses

import polars as pl

from zhiyin.core.durations import SECOND

SAMPLE_VALUES = 1_000
_YEAR_1000 = -30_610_224_000 * SECOND


@dataclasses.dataclass(frozen=True)
class Times:
    """Times of a column.

    Parameters
    ----------
    times: Int64 microseconds UTC, null where a value is missing or no time.
    open_order: the message where the order of days and months is ambiguous; else empty.
    day_first: the order that was read, where dates are written as three numbers; else None.
    notes: what else was decided.
    mixed_orders: a row whose day must be first and a row whose month must be, where the column has both.
    """

    times: pl.Series
    open_order: str = ""
    day_first: bool | None = None
    notes: tuple[str, ...] = ()
    mixed_orders: tuple[int, int] | None = None


def parse_format(text: pl.Series, form: str, zoned: bool) -> pl.Series:
    """Texts of one format; a year before 1000 is no year but two digits, and null."""
    clock = "%H" in form or "%I" in form
    if zoned and not clock:
        return nulls(text)
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


def nulls(column: pl.Series) -> pl.Series:
    return pl.repeat(None, len(column), dtype=pl.Int64, eager=True).alias(column.name)


def spread(column: pl.Series, n: int) -> pl.Series:
    """About n values from all over a column."""
    return column.gather_every(max(1, len(column) // n))
