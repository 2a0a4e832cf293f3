"""Times of any spelling become microseconds, UTC."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from zhiyin.data.time_numbers import numeric_unit
from zhiyin.data.timestamps import looks_like_times, read_times, to_microseconds

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
    assert to_microseconds(text).to_list() == [US, US, US, None, None]


def test_the_order_of_day_and_month_is_judged_by_the_whole_column() -> None:
    days = pl.Series(["03/04/2014"] * 5_000 + ["13/04/2014"] * 50)
    assert to_microseconds(days).null_count() == 0
    assert to_microseconds(pl.Series(["20140513"])).to_list() == [US // 86_400_000_000 * 86_400_000_000]


DAY_US = 86_400_000_000
NOV_22 = 1_700_611_200_000_000


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["20231122", "20231121"], [0, -DAY_US]),
        ([20231122, 20231121], [0, -DAY_US]),
        ([20231122.0, None], [0, None]),
        (["20231122030859"], [11_339_000_000]),
        ([20231122030859, 20231122030900], [11_339_000_000, 11_340_000_000]),
        ([202311220308], [11_280_000_000]),
        (["22-11-2023", "1-11-2023"], [0, -21 * DAY_US]),
        (["11/22/2023 3:08 PM"], [54_480_000_000]),
        (["11/22/2023 3:08:59 p.m."], [54_539_000_000]),
        (["2023-11-22 02", "2023-11-22 14"], [7_200_000_000, 50_400_000_000]),
        (["11/22/23 10:00"], [36_000_000_000]),
        (["22.11.23"], [0]),
        (["2023-11-22 10:00:00", "2023-11-22", "2023-11-22T10:00Z"], [36_000_000_000, 0, 36_000_000_000]),
        (["Wed, 22 Nov 2023 03:08:59 +0000"], [11_339_000_000]),
        (["Wed Nov 22 03:08:59 +0000 2023"], [11_339_000_000]),
        (["22/Nov/2023:03:08:59 +0000"], [11_339_000_000]),
        (["2023-11-22 03:08:59,5"], [11_339_500_000]),
        (["Nov 22, 2023 3:08 am"], [11_280_000_000]),
        (["2023年11月22日"], [0]),
        (["1700611200", "1700611201"], [0, 1_000_000]),
        (["1700611200", "1700611200", "2023-11-22"], [0, 0, 0]),
        (["2023-11-22 10:00 CET", "2023-11-22 10:00:00 EST"], [32_400_000_000, 54_000_000_000]),
        (["2023-11-22 10:00 CET", "2023-11-22 10:00", "2023-11-22 10:00Z"], [32_400_000_000, *[36_000_000_000] * 2]),
        (["2023-11-22 10:00:00 America/New_York"], [54_000_000_000]),
        (["2023-11-22T10:00:00+01:00[Europe/Berlin]"], [32_400_000_000]),
        (["2023-11-22 10:00:00 UTC+8", "2023-11-22 10:00:00 GMT-0130"], [7_200_000_000, 41_400_000_000]),
        (["Wed Nov 22 2023 10:00:00 GMT+0100 (Central European Standard Time)"], [32_400_000_000]),
        (["2023/11/22 上午10:00:00", "2023/11/22 下午10:00:00"], [36_000_000_000, 79_200_000_000]),
        (["2023년 11월 22일"], [0]),
        (["2023-W47-3"], [0]),
        (["22-NOV-23 10.00.00.000000 AM"], [36_000_000_000]),
        (["November 22nd, 2023", "November 21st, 2023"], [0, -DAY_US]),
        (["22. Nov. 2023", "22. Dezember 2023", "22. März 2024"], [0, 30 * DAY_US, 121 * DAY_US]),
        (["22 novembre 2023", "22 décembre 2023"], [0, 30 * DAY_US]),
        (["22 de noviembre de 2023"], [0]),
        (["/Date(1700611200000)/"], [0]),
        (["1700611200,5"], [500_000]),
    ],
)
def test_spellings_of_times(cells: list, expected: list) -> None:
    assert looks_like_times(pl.Series(cells))
    assert to_microseconds(pl.Series(cells)).to_list() == [None if at is None else NOV_22 + at for at in expected]


def test_years_of_two_digits_first_or_last() -> None:
    days = pl.Series([f"23/11/{day:02}" for day in range(1, 29)])
    assert to_microseconds(days)[21] == NOV_22
    assert read_times(days).open_order == ""


@pytest.mark.parametrize(("mark", "default"), [("/", False), ("-", True), (".", True)])
def test_days_and_months_that_may_be_either_are_said(mark: str, default: bool) -> None:
    days = pl.Series("at", [f"{day:02}{mark}11{mark}2023" for day in range(1, 13)] * 50)
    found = read_times(days)
    assert found.day_first is default
    read, other = ("day 1, month 11", "day 11, month 1") if default else ("day 11, month 1", "day 1, month 11")
    assert f"may be {other} or {read}, read as {read}" in found.open_order
    for day_first in (True, False):
        told = read_times(days, day_first)
        assert told.open_order == ""
        assert told.day_first is day_first
    # One day above twelve, anywhere in the column, decides for all of it.
    sure = read_times(pl.concat([days, pl.Series("at", [f"22{mark}11{mark}2023"])]), day_first=False)
    assert sure.day_first is True
    assert sure.open_order == ""
    assert sure.times[-1] == NOV_22


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([dt.timedelta(hours=1)]), pl.Series([dt.time(3, 8)]), pl.Series([True]), pl.Series([b"x"]),
        pl.Series([["2023-11-22"]]), pl.Series(["soon", "later"]), pl.Series([1, 2, 3]), pl.Series([None, None]),
        pl.Series(["3.5", "4.5"]), pl.Series([20239999, 20231399]),
    ],
)  # fmt: skip
def test_what_is_no_time(column: pl.Series) -> None:
    assert not looks_like_times(column)
    if not column.dtype.is_numeric():
        assert to_microseconds(column).null_count() == len(column)


def test_days_of_spreadsheets_are_times_where_the_column_is_named_so() -> None:
    for column in (pl.Series("time", [45252.5, 45251.0]), pl.Series("time", ["45252.5", "45251"])):
        assert not looks_like_times(column)
        assert looks_like_times(column, named=True)
        found = read_times(column)
        assert found.times.to_list() == [NOV_22 + DAY_US // 2, NOV_22 - DAY_US]
        assert "days of a spreadsheet, 2023-11-22 12:00" in found.notes[0]
    for other in ([45252, 30], [45252, 99_999], [3, 4]):  # seconds that somebody watched are not all of them such days
        assert not looks_like_times(pl.Series("time", other), named=True)


@pytest.mark.parametrize(("zone", "hours"), [(None, -6), ("Asia/Shanghai", 8)])
def test_an_abbreviation_of_several_zones_is_said(zone: str | None, hours: int) -> None:
    found = read_times(pl.Series("at", ["2023-11-22 10:00 CST", "2023-11-22 10:00Z"]), zone=zone)
    assert found.times.to_list() == [NOV_22 + (10 - hours) * 3_600_000_000, NOV_22 + 36_000_000_000]
    assert len(found.notes) == (zone is None)
    assert zone is not None or "CST may be UTC-6 or UTC+8" in found.notes[0]


@pytest.mark.parametrize(
    ("column", "shifted"),
    [
        (pl.Series(["2023-11-22 10:00:00"]), True),
        (pl.Series(["2023-11-22"]), True),
        (pl.Series([dt.datetime(2023, 11, 22)]), True),
        (pl.Series([dt.date(2023, 11, 22)]), True),
        (pl.Series([45252.5]), True),
        (pl.Series(["2023-11-22 10:00:00Z"]), False),
        (pl.Series(["2023-11-22 10:00:00 CET"]), False),
        (pl.Series([1_700_611_200]), False),
        (pl.Series([dt.datetime(2023, 11, 22, tzinfo=dt.UTC)]), False),
    ],
)
def test_a_zone_is_that_of_times_without_one(column: pl.Series, shifted: bool) -> None:
    plain, told = read_times(column).times, read_times(column, zone="Asia/Shanghai").times
    assert (plain - told).to_list() == [8 * 3_600_000_000 * shifted]


def test_an_hour_that_came_twice_or_never() -> None:
    clocks = pl.Series(["2023-10-29 02:30:00", "2023-03-26 02:30:00"])
    first, never = read_times(clocks, zone="Europe/Berlin").times.to_list()
    assert first == 1_698_539_400_000_000
    assert never is None


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2024年3月6日 10時30分", 10),
        ("2024年3月6日 10时30分00秒", 10),
        ("Wed Mar 06 10:30:00 CEST 2024", 8),
        ("Wed Mar 06 10:30:00 UTC 2024", 10),
        ("[06/Mar/2024:10:30:00 +0200]", 8),
        ("Wed Mar 06 10:30:00 +0200 2024", 8),
    ],
)
def test_moments_of_clocks_and_logs(text: str, hour: int) -> None:
    assert to_microseconds(pl.Series("at", [text, text]))[0] == (1_709_683_200 + hour * 3600 + 1800) * 1_000_000
