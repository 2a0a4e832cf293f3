"""Tables: how files are cut, named and typed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from zhiyin.core.errors import DataError
from zhiyin.data.source_opening import FrameTable, JsonTable, ParquetTable, TextTable, open_table


def text(path: Path, content: str | bytes) -> TextTable:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return TextTable(path)


@pytest.mark.parametrize(
    ("content", "separator", "header"),
    [
        ("a,b\n1,2\n", ",", True),
        ("1,2\n", ",", False),
        ("1::Toy, a Story (1995)::Fun\n2::Jumanji::Fun|Games\n", "::", False),
        ("user;item\nx;y, and z\n", ";", True),
        ("1 2\n1 3\n", " ", False),
        ('id,title\n1,"a;b;c"\n2,"d;e;f"\n', ",", True),
        ("alice,x\nalice,y\nbob,x\n", ",", False),
        ("user,item\nalice,x\nalice,y\n", ",", True),
        ("who,what\nalice,x\nalice,y\n", ",", True),
        ("user_id:token\titem_id:token\n1\t2\n", "\t", True),
    ],
)
def test_separator_and_header(tmp_path: Path, content: str, separator: str, header: bool) -> None:
    table = text(tmp_path / "t.txt", content)
    assert (table.format.separator, bool(table.format.header_line)) == (separator, header)
    width = len(content.split("\n")[0].split(separator))
    if not header:
        assert table.columns == [f"column_{n}" for n in range(1, width + 1)]
        assert any("no header" in note for note in table.findings.notes)


def test_names_are_cleaned_and_each_is_used_once(tmp_path: Path) -> None:
    table = text(tmp_path / "t.csv", '\ufeff"a",a,,"b\nc",year:token\n1,2,3,4,5\n')
    assert table.columns == ["a", "a_2", "column_3", "b\nc", "year"]
    assert table.load(dict.fromkeys(table.columns, "any")).frame.rows() == [(1, 2, 3, 4, 5)]


def test_types_of_the_sample(tmp_path: Path) -> None:
    table = text(tmp_path / "t.csv", "i,f,s,z,n,m\n1,1.5,x,007,,NA\n2,2,3,012,,4\n")
    assert table.sample.dtypes == [pl.Int64, pl.Float64, pl.String, pl.String, pl.String, pl.Int64]


def test_tabs_do_not_quote(tmp_path: Path) -> None:
    table = text(tmp_path / "t.tsv", 'id\tname\n1\t"Weird Al" Yankovic\n2\t"open\n3\tthree\n')
    assert table.load({"name": "any"}).frame["name"].to_list() == ['"Weird Al" Yankovic', '"open', "three"]
    assert table.set_aside() == []


def test_quotes_far_behind_the_head_are_found(tmp_path: Path) -> None:
    rows = "".join(f"{n},plain text {n}\n" for n in range(300_000))
    table = text(tmp_path / "t.csv", f'id,name\n{rows}7,"a, b\nc"\n8,x"y\n9,"torn\n')
    frame = table.load({"id": "id", "name": "text"}).frame
    assert len(frame) == 300_002
    assert frame.rows()[-2:] == [(7, "a, b\nc"), (8, 'x"y')]
    assert table.set_aside() == [(300_005, "a quote is never closed, or closed inside its field", '9,"torn')]
    assert table.locate([300_001]) == [(300_004, '8,x"y')]


def test_a_first_line_that_is_too_long_does_not_set_the_width(tmp_path: Path) -> None:
    table = text(tmp_path / "t.csv", "1,2,3\n1,2\n3,4\n5,6\n")
    assert table.columns == ["column_1", "column_2"]
    assert table.load({"column_1": "any"}).frame["column_1"].to_list() == [1, 3, 5]
    assert table.set_aside() == [(1, "3 fields, but 2 columns", "1,2,3")]


def test_one_column(tmp_path: Path) -> None:
    table = text(tmp_path / "t.csv", "item\na\n\nb\n")
    assert table.load({"item": "any"}).frame["item"].to_list() == ["a", "b"]


def test_a_torn_header(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="quote in the header"):
        text(tmp_path / "t.csv", '"user"s,item\n1,2\n')


def test_numbers_that_came_as_text() -> None:
    loaded = FrameTable(pl.DataFrame({"r": ["4.5", " 3 ", "", None, "x"]})).load({"r": "number"})
    assert loaded.frame["r"].to_list() == [4.5, 3.0, None, None, None]
    assert loaded.bad == {4: "r = 'x' is not a number"}


def test_open_table_by_ending(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1], "b": [2]})
    frame.write_parquet(tmp_path / "a.pq")
    frame.write_ndjson(tmp_path / "a.ndjson")
    frame.write_csv(tmp_path / "a.whatever")
    assert isinstance(open_table(tmp_path / "a.pq"), ParquetTable)
    assert isinstance(open_table(str(tmp_path / "a.ndjson")), JsonTable)
    assert isinstance(open_table(tmp_path / "a.whatever"), TextTable)
    assert isinstance(open_table(frame), FrameTable)


def test_names_with_stars_are_names(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1], "b": [2]}).write_csv(tmp_path / "log[1]*.csv")
    assert open_table(tmp_path / "log[1]*.csv").load({"a": "any"}).frame["a"].to_list() == [1]


def test_true_and_false_are_no_texts(tmp_path: Path) -> None:
    """As pandas, Polars and spreadsheets write them, so that a filter such as `NOT adult` reads them."""
    rows = "".join(f"i{n},{word},{word},{mixed}\n" for n, (word, mixed) in enumerate(
        [("true", "True"), ("FALSE", "maybe"), ("", "False"), ("False", "")] * 10
    ))  # fmt: skip
    table = text(tmp_path / "items.csv", f"id,adult,again,mixed\n{rows}")
    assert table.sample.schema["adult"] == pl.Boolean
    loaded = table.load(dict.fromkeys(["adult", "again", "mixed"], "any"))
    assert loaded.frame["adult"].to_list() == [True, False, None, False] * 10
    assert loaded.frame["mixed"].to_list() == ["True", "maybe", "False", None] * 10
    # What comes after the sample and is neither makes the column a text again.
    late = text(tmp_path / "late.csv", "id,adult\n" + "a,true\n" * 20_000 + "b,maybe\n")
    assert late.load({"adult": "any"}).frame["adult"].to_list() == ["true"] * 20_000 + ["maybe"]
