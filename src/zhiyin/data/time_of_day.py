"""Times of day, and days joined with them."""

from __future__ import annotations

import polars as pl

from zhiyin.core.durations import SECOND
from zhiyin.data.time_formats import nulls
from zhiyin.data.time_zones import in_zone

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
        return nulls(column)
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
    return in_zone(days + clock.fill_null(0), zone)
