"""Types of columns of text: what all of their cells say, in the spellings people use."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.data.ids import ids_of_floats, match_spelling
from zhiyin.data.read_assumptions import Dialect, Findings, parse_assumption
from zhiyin.data.type_inference import infer_column, infer_ids, parse_numbers


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "10", None], [1, 10, None]),
        (["1.0", "30.0", ""], [1, 30, None]),
        (["1", "2.00"], [1, 2]),
        (["1", "10", "7.5"], ["1", "10", "7.5"]),
        (["1", "inf"], ["1", "inf"]),
        (["1", "abc"], ["1", "abc"]),
        (["005", "5"], ["005", "5"]),
        (["+5", "5"], ["+5", "5"]),
        (["-0", "1"], ["-0", "1"]),
        (["1e3", "5"], ["1e3", "5"]),
        (["1E5", "2E7"], ["1E5", "2E7"]),
        (["18446744073709551615", "1"], ["18446744073709551615", "1"]),
        (["9223372036854775808"], ["9223372036854775808"]),
        (["9007199254740993", "1"], [9007199254740993, 1]),
        (["9007199254740993.0", "1"], [9007199254740993, 1]),
        (["-9223372036854775808"], [-9223372036854775808]),
        (["NA", "None", "null", "nan", "i1"], ["NA", "None", "null", "nan", "i1"]),
        (["NA", "1", "2"], [None, 1, 2]),
        (["\\N", "a"], [None, "a"]),
        ([" 5 ", "5"], [5, 5]),
        (["0x1F", "1_000"], ["0x1F", "1_000"]),
    ],
)
def test_ids_stay_as_they_are_written(cells: list[Any], expected: list[Any]) -> None:
    assert infer_ids(pl.Series("id", cells, dtype=pl.String)).to_list() == expected


def test_words_that_are_missing_ids_can_be_said() -> None:
    cells = pl.Series("id", ["NA", "guest", "i1"])
    assert infer_ids(cells, Dialect(missing=("guest",))).to_list() == ["NA", None, "i1"]
    assert infer_ids(pl.Series("id", ["1", "2"]), Dialect(text=("id",))).to_list() == ["1", "2"]


def test_ids_that_came_as_floats() -> None:
    assert ids_of_floats(pl.Series([1.0, None, float("nan")])).to_list() == [1, None, None]
    assert ids_of_floats(pl.Series([1.0, 7.5])).to_list() == ["1", "7.5"]
    assert ids_of_floats(pl.Series(["1.00", "2.00"]).cast(pl.Decimal(10, 2))).to_list() == [1, 2]


@pytest.mark.parametrize(
    ("own", "known", "expected"),
    [
        (["1.0", "7.5"], ["1", "7.5"], ["1", "7.5"]),
        (["1", "2"], ["1.0", "2.0"], ["1.0", "2.0"]),
        (["1.0", "1"], ["1.0", "1"], ["1.0", "1"]),
        (["x.0", "-3.0"], ["x", "-3"], ["x.0", "-3"]),
        (["10"], ["1.0"], ["10"]),
    ],
)
def test_ids_of_two_tables_in_one_spelling(own: list[str], known: list[str], expected: list[str]) -> None:
    assert match_spelling(pl.Series("id", own), pl.Series("id", known)).to_list() == expected


@pytest.mark.parametrize(
    ("cells", "values", "note"),
    [
        (["1,0", "-1,0", "3,5"], [1, -1, 3.5], "the comma is the decimal mark"),
        (["4 stars", "1 star", "5"], [4, 1, 5], "without 'star'"),
        (["★4", "5"], [None, 5], None),
        (["$3.99", "4"], [3.99, 4], "without '$'"),
        (["3,99 €", "4,00 €"], [3.99, 4], "decimal mark"),
        (["12元", "3 元"], [12, 3], "without '元'"),
        (["1.234,50", "2,00"], [1234.5, 2], "decimal mark"),
        (["1.234", "2,50"], [1234, 2.5], "decimal mark"),
        (["1,234.50", "2,000"], [1234.5, 2000], None),
        (["1,234,567", "3"], [1234567, 3], None),
        (["1 234,5", "2\u00a0000,0"], [1234.5, 2000], "decimal mark"),
        (["(3.50)", "−4", "- 5"], [-3.5, -4, -5], None),
        (["50%", "40 %"], [50, 40], "without '%'"),
        (["3", "3,50", "3.99"], [3, 3.5, 3.99], "both marks"),
        (["1", "—", "n/a", "NULL", "-"], [1, None, None, None, None], "read as missing"),
        (["nan", "5"], [None, 5], "read as missing"),
        (["1.2k", "3K", "4"], [1200, 3000, 4], "1,000 times"),
        (["1k", "2.5M", "1b"], [1e3, 2.5e6, 1e9], "1,000 times"),
        (["$1.2k", "$300"], [1200, 300], "without '$'"),
        (["1.5万", "3亿", "20"], [15_000, 3e8, 20], "10,000 times"),
        (["3万元", "12元"], [30_000, 12], "without '元'"),
        (["4/5", "3 / 5"], [4, 3], "without '/5'"),
        (["4 out of 5", "3 out of 5"], [4, 3], None),
        (["★★★☆☆", "★★★★★", "4"], [3, 5, 4], "number of its stars"),
        (["True", "false"], [1, 0], "read as 1 and 0"),
        (["no", "yes", "-"], [0, 1, None], "'yes' and 'no' are read as 1 and 0"),
        (["1,23,456.50", "2,000"], [123_456.5, 2000], None),
        (["￥３．５０", "￥４"], [3.5, 4], "without '¥'"),
        (["٣", "5"], [3, 5], None),
        (["USD 3.99", "4"], [3.99, 4], "without 'usd'"),
        (["R$ 3,99", "R$ 4,00"], [3.99, 4], "decimal mark"),
        (["($ 3.50)", "($4)", "5.00-"], [-3.5, -4, -5], "below 0, as in accounts"),
        (["1.234.567", "2.000"], [1_234_567, 2000], None),
    ],
)
def test_numbers_as_people_write_them(cells: list[str], values: list[float | None], note: str | None) -> None:
    found = parse_numbers(pl.Series("price", cells))
    assert found.values.to_list() == pytest.approx(values, nan_ok=True)
    assert note is None or any(note in sentence for sentence in found.findings.notes)


@pytest.mark.parametrize(
    "cells",
    [
        ["five"],
        ["inf"],
        ["1e400"],
        ["1.2m"],
        ["5 kg", "300 g"],
        ["$5", "€6"],
        ["4é"],
        ["3/8"],
        ["1/2", "1/4"],
        ["(3", "4)"],
        ["1.2k/5"],
        ["★☆★"],
        ["3/5", "3/10"],
        ["true", "maybe"],
    ],
)
def test_what_is_no_number_is_bad(cells: list[str]) -> None:
    found = parse_numbers(pl.Series("x", cells))
    assert found.bad.all()
    assert found.values.null_count() == len(cells)


def test_a_comma_that_may_be_either_is_said_with_both_readings() -> None:
    cells = pl.Series("price", ["1,234", "2,000"])
    found = parse_numbers(cells)
    assert found.values.to_list() == [1234, 2000]
    assert found.findings.assumed == {"decimal": "."}
    assert "may be 1.234 or 1234" in found.findings.notes[0]
    assert "--assume" in found.findings.notes[0]
    assert parse_numbers(cells, semicolons=True).values.to_list() == [1.234, 2]
    told = parse_numbers(cells, Dialect(decimal=","))
    assert told.values.to_list() == [1.234, 2]
    assert told.findings.notes == []
    assert parse_numbers(pl.Series("p", ["1.234", "3.5"]), Dialect(decimal=",")).values.to_list() == [1234, 3.5]


@pytest.mark.parametrize(("semicolons", "value", "mark"), [(False, 1.234, "."), (True, 1234, ",")])
def test_a_point_that_may_be_either_is_said_with_both_readings(semicolons: bool, value: float, mark: str) -> None:
    found = parse_numbers(pl.Series("price", ["1.234", "12", None]), semicolons=semicolons)
    assert found.values.to_list() == [value, 12, None]
    assert found.findings.assumed == {"decimal": mark}
    assert "may be 1.234 or 1234" in found.findings.notes[0]
    for cells in (["1.234", "2.5"], ["1.234", "0.500"], ["12"]):  # these decide
        sure = parse_numbers(pl.Series("price", cells), semicolons=semicolons)
        assert sure.values[0] == float(cells[0])
        assert sure.findings.notes == []


@pytest.mark.parametrize("cells", [["1-6", "2-7"], ["1½", "2"], ["~5", "6"], ["1e2", "5e1"], ["12:30", "01:15"]])
def test_an_amount_that_stays_text_is_said(cells: list[str]) -> None:
    column, findings = infer_column(pl.Series("price", cells))
    assert column.dtype == pl.String
    assert any("price: kept as text" in sentence for sentence in findings.notes)
    few = [note for note in infer_column(pl.Series("code", cells))[1].notes if "are not read as numbers" in note]
    assert not few  # a code is no amount


def test_a_decision_that_does_not_hold_for_all_columns_is_not_recorded() -> None:
    findings = Findings()
    findings.assume("decimal", ",", "one column")
    assert findings.assumed == {"decimal": ","}
    findings.assume("decimal", ",", "another one")
    assert findings.assumed == {"decimal": ","}
    findings.assume("decimal", ".", "a third one")
    findings.assume("decimal", ",", "a fourth one")
    assert findings.assumed == {}
    assert len(findings.notes) == 4


def test_ids_with_a_point_that_are_whole_numbers_are_said() -> None:
    findings = Findings()
    assert infer_ids(pl.Series("user", ["7", "7.0", "8"]), findings=findings).to_list() == [7, 7, 8]
    assert "'7.0' and the like are read as 7" in findings.notes[0]
    assert infer_ids(pl.Series("user", ["7", "8"]), findings=findings).to_list() == [7, 8]
    assert len(findings.notes) == 1


@pytest.mark.parametrize(
    ("cells", "dtype", "values"),
    [
        (["True", "False", None], pl.Boolean, [True, False, None]),
        (["TRUE", "false", "NA"], pl.Boolean, [True, False, None]),
        (["yes", "no", "NO"], pl.Boolean, [True, False, False]),
        (["Y", "n", None, "n/a"], pl.Boolean, [True, False, None, None]),
        (["t", "f"], pl.Boolean, [True, False]),
        (["on", "off"], pl.Boolean, [True, False]),
        (["是", "否"], pl.Boolean, [True, False]),
        (["true", "no", "0"], pl.Boolean, [True, False, False]),
        (["yes", "yes"], pl.String, ["yes", "yes"]),
        (["F", "F"], pl.String, ["F", "F"]),
        (["F", "M"], pl.String, ["F", "M"]),
        (["no", "se", "dk"], pl.String, ["no", "se", "dk"]),
        (["1", "0"], pl.Int64, [1, 0]),
        (["1.2k", "3"], pl.Float64, [1200, 3]),
        (["USD 3", "USD 4"], pl.Int64, [3, 4]),
        (["1", "2"], pl.Int64, [1, 2]),
        (["1", "2.5"], pl.Float64, [1, 2.5]),
        (["007", "1"], pl.String, ["007", "1"]),
        (["1E5", "2E3"], pl.String, ["1E5", "2E3"]),
        (["18446744073709551615", "1"], pl.String, ["18446744073709551615", "1"]),
        (["9007199254740993", "1"], pl.Int64, [9007199254740993, 1]),
        (["NA", "US", "DE"], pl.String, ["NA", "US", "DE"]),
        (["NA", "Alien"], pl.String, [None, "Alien"]),
        (["NULL", "Alien"], pl.String, [None, "Alien"]),
        (["080442957X", "1"], pl.String, ["080442957X", "1"]),
        ([*["3.5"] * 29, "—"], pl.Float64, [*[3.5] * 29, None]),
        ([*["3"] * 29, "call us"], pl.Int64, [*[3] * 29, None]),
        ([*["3"] * 9, "XL"], pl.String, [*["3"] * 9, "XL"]),
        ([*["85123"] * 99, "85123A"], pl.String, [*["85123"] * 99, "85123A"]),
        (["1984", "Alien", "Up"], pl.String, ["1984", "Alien", "Up"]),
    ],
)
def test_columns_that_describe(cells: list[str | None], dtype: Any, values: list[Any]) -> None:
    column, findings = infer_column(pl.Series("x", cells))
    assert column.dtype == dtype
    assert column.to_list() == values
    changed = [cell for cell, value in zip(cells, values) if cell is not None and value is None]
    assert all(any(repr(cell) in sentence for sentence in findings.notes) for cell in changed)


def test_a_column_can_be_kept_as_text() -> None:
    cells = pl.Series("zip", ["10115", "NA"])
    assert infer_column(cells, Dialect(text=("zip",)))[0].to_list() == ["10115", "NA"]
    assert infer_column(cells, Dialect(missing=()))[0].to_list() == ["10115", "NA"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("day_first=true", ("day_first", True)),
        ("day_first = no", ("day_first", False)),
        ("header=3", ("header", 3)),
        ("separator=\\t", ("separator", "\t")),
        ("missing=NA, -", ("missing", ["NA", "-"])),
        ("decimal=,", ("decimal", ",")),
    ],
)
def test_assumptions_of_the_command_line(text: str, expected: tuple[str, Any]) -> None:
    assert parse_assumption(text) == expected
    Dialect.of(dict([expected]))


@pytest.mark.parametrize(
    "given", [{"dayfirst": True}, {"day_first": "maybe"}, {"decimal": ";"}, {"header": -1}, {"missing": "NA"}]
)
def test_what_cannot_be_assumed_is_said(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Dialect.of(given)
    assert caught.value.remedy
    with pytest.raises(ConfigError, match="no assumption"):
        parse_assumption("day_first")


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        (["c0 ", "c1"], "item: blanks around 1 ids are cut off, such as 'c0 '"),
        (["p0\u00a0", "5"], "item: blanks around 1 ids are cut off, such as 'p0\\xa0'"),
        (["8.90E+12", "x"], "item: 1 ids such as '8.90E+12' were rounded by a spreadsheet"),
        (["1E5", "2e+7", "", None], None),
    ],
)
def test_ids_that_are_not_as_they_were_are_said(cells: list, note: str | None) -> None:
    findings = Findings()
    infer_ids(pl.Series("item", cells), findings=findings)
    assert any(one.startswith(note) for one in findings.notes) if note else not findings.notes
