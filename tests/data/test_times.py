"""Times of any spelling become microseconds, UTC."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from zhiyin.data.times import numeric_unit, parse_text, to_microseconds

MOMENT = dt.datetime(2014, 5, 13, 16, 53, 20, tzinfo=dt.UTC)
US = 1_400_000_000_000_000


@pytest.mark.parametrize(
    ("factor", "unit"),
    [(1, "seconds"), (10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")],
)
def test_units_are_told_by_size(factor: int, unit: str) -> None:
    numbers = pl.Series([1_400_000_000 * factor, 1_400_000_060 * factor])
    assert numeric_unit(numbers) == unit
    assert to_microseconds(numbers).to_list() == [US, US + 60_000_000]
    assert to_microseconds(numbers.cast(pl.String)).to_list() == [US, US + 60_000_000]


def test_small_numbers_are_no_times() -> None:
    assert numeric_unit(pl.Series([1, 2, 3])) is None
    assert numeric_unit(pl.Series([None], dtype=pl.Int64)) is None


def test_fractions_and_blanks() -> None:
    assert to_microseconds(pl.Series([1_400_000_000.25, None, float("nan")])).to_list() == [
        US + 250_000,
        None,
        None,
    ]
    assert to_microseconds(pl.Series(["1400000000.5", "x", None])).to_list() == [US + 500_000, None, None]


def test_a_number_too_large_does_not_come_round() -> None:
    assert to_microseconds(pl.Series([1_400_000_000, 1_400_000_000, 2**63 - 1])).to_list() == [US, US, None]


def test_columns_of_times() -> None:
    zoned = pl.Series([MOMENT.replace(tzinfo=None)]).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo")
    assert to_microseconds(zoned).to_list() == [US]
    assert to_microseconds(pl.Series([MOMENT.replace(tzinfo=None)]).cast(pl.Datetime("ms"))).to_list() == [US]
    assert to_microseconds(pl.Series([dt.date(1970, 1, 2)])).to_list() == [86_400_000_000]


def test_zones_mixed_with_none() -> None:
    text = pl.Series(["2014-05-13T16:53:20Z", "2014-05-13T18:53:20+02:00", "2014-05-13T16:53:20", "soon", None])
    assert parse_text(text).to_list() == [US, US, US, None, None]


def test_the_order_of_day_and_month_is_judged_by_the_whole_column() -> None:
    days = pl.Series(["03/04/2014"] * 5_000 + ["13/04/2014"] * 50)
    assert parse_text(days).null_count() == 0
    assert parse_text(pl.Series(["20140513"])).to_list() == [US // 86_400_000_000 * 86_400_000_000]
