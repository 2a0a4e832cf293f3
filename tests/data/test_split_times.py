"""Times that stand in two columns, and dates of both orders in one."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from zhiyin.data.reading import read
from zhiyin.data.time_of_day import read_clock

MORNING = [dt.datetime(2024, 3, 1, 7, 5), dt.datetime(2024, 3, 1, 19, 30, 15)]


def moments(source, **more) -> list[dt.datetime]:
    return read(source, **more).events["time"].cast(pl.Datetime("us")).to_list()


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("user,item,date,time", ["2024-03-01,07:05:00", "2024-03-01,19:30:15"]),
        ("user,item,time,date", ["07:05:00,2024-03-01", "19:30:15,2024-03-01"]),
        ("user,item,InvoiceDate,InvoiceTime", ["20240301,7:05 AM", "20240301,7:30:15 PM"]),
        ("user,item,datum,uhrzeit", ["01.03.2024,07:05", "01.03.2024,19:30:15"]),
        ("用户,商品,日期,时间", ["2024年3月1日,07:05", "2024年3月1日,下午7:30:15"]),
        ("user,item,日期,時間", ["2024-03-01,7时05分", "2024-03-01,19时30分15秒"]),
        ("user,item,order_date,order_hour", ["2024/3/1,07:05", "2024/3/1,19:30:15"]),
    ],
)
def test_a_day_and_a_time_of_day_are_one_moment(header: str, cells: list[str], tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("\n".join([header, *(f"u{n},i{n},{cell}" for n, cell in enumerate(cells))]) + "\n")
    data = read(path)
    assert moments(path) == MORNING
    days, clock = header.split(",")[2:]
    days, clock = (clock, days) if days == "time" else (days, clock)
    assert any(f"time = {days} and {clock}, joined" in note for note in data.notes)


def test_a_frame_of_a_date_and_a_time_is_joined_by_the_clock_of_the_zone() -> None:
    frame = pl.DataFrame(
        {
            "user": ["a", "b"], "item": ["x", "y"], "date": [dt.date(2024, 7, 1)] * 2,
            "time": [dt.time(0, 30), None],
        }
    )  # fmt: skip
    assert moments(frame, assume={"zone": "Europe/Berlin"}) == [
        dt.datetime(2024, 6, 30, 22, 30), dt.datetime(2024, 6, 30, 22),
    ]  # fmt: skip


def test_what_is_no_time_of_day_is_set_aside_and_a_duration_is_not_joined(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,date,time\na,x,2024-03-01,07:00\nb,y,2024-03-01,25:00\nc,y,2024-03-01,08:00\n")
    assert read(path).quarantine["reason"].to_list() == ["time = '25:00' is not a time of day"]
    path.write_text("user,item,date,watch_time\na,x,2024-03-01,00:12\nb,y,2024-03-01,00:15\n")
    assert moments(path) == [dt.datetime(2024, 3, 1)] * 2


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("12:00 AM", 0), ("12:30 p.m.", 750), ("13:00 PM", None), ("7", None), ("오전 9:05", 545), ("오후 9:05", 1265)],
)
def test_clocks(text: str, minutes: int | None) -> None:
    assert read_clock(pl.Series("t", [text]))[0] == (None if minutes is None else minutes * 60_000_000)


def test_dates_of_both_orders_are_named_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    dates = ["1/1/2024", "2/3/2024", "25/3/2024", "26/3/2024", "3/27/2024"]
    path.write_text("user,item,time\n" + "".join(f"u{n},i{n},{date}\n" for n, date in enumerate(dates)))
    data = read(path)
    note = next(note for note in data.notes if "both orders of day and month occur" in note)
    assert "'25/3/2024' in line 4 and '3/27/2024' in line 6" in note
    assert "the day first" in note
    assert [*data.quarantine["line"]] == [6]
    assert [*read(path, assume={"day_first": False}).quarantine["line"]] == [4, 5]


def test_the_example_of_an_open_order_has_two_readings(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\nu,i,1/1/2024\nu,j,2/3/2024\n")
    assert any("'2/3/2024' may be day 2, month 3 or day 3, month 2" in note for note in read(path).notes)
    path.write_text("user,item,time\nu,i,1/1/2024\nu,j,2/2/2024\n")
    assert not any("may be" in note for note in read(path).notes)
