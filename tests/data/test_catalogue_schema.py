"""Types of columns: what fits is converted without loss, what does not is refused or null, and nothing else happens."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.booleans import BOOLEANS
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.boolean_columns import is_boolean
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.catalogue_types import dtype_of
from zhiyin.data.catalogue_values import cast_column, convert, first_type, is_hidden, series_of
from zhiyin.data.reading import read
from zhiyin.data.type_names import DESCRIPTIONS

TYPES = st.sampled_from([*DESCRIPTIONS, "vector(2)"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["true", "2024-02-29", "a|b"])
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2))


@pytest.mark.parametrize(
    ("value", "type", "wanted"),
    [
        ("true", "bool", True), ("FALSE", "bool", False), (1, "bool", True), (0.0, "bool", False),
        (3, "number", 3), (2.5, "number", 2.5), (3.0, "int", 3), ("x", "text", "x"), (5, "text", "5"),
        (["x"], "text", "x"), ("new", "texts", ["new"]), (["a", 1, None], "texts", ["a", "1"]), (7, "numbers", [7]),
        (["a", "b"], "piped", "a|b"), ("a|b", "piped", "a|b"), ([1, 2], "vector(2)", [1, 2]),
        ("2024-02-29", "date", "2024-02-29"), ("2024-02-29T10:00:00Z", "time", "2024-02-29T10:00:00Z"),
        (None, "vector(2)", None),
    ],
)  # fmt: skip
def test_what_fits_is_converted(value: Any, type: str, wanted: Any) -> None:
    assert convert(value, type) == wanted


@pytest.mark.parametrize(
    ("value", "type"),
    [
        ("x", "number"), ("1", "number"), (True, "number"), ([1, 2], "number"), (2.5, "int"), ("maybe", "bool"),
        (2, "bool"), ([True], "bool"), (["a", "b"], "text"), (True, "text"), ([True], "texts"), ([["a"]], "texts"),
        (["a|b", "c"], "piped"), (["a"], "numbers"), ([1], "vector(2)"), (1.0, "vector"), ("2024-02-30", "date"),
        ("2024-02-29T10:00:00", "date"), (20240229, "time"), ("soon", "time"), ({"a": 1}, "text"),
        (float("nan"), "int"), (float("inf"), "int"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(value: Any, type: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        convert(value, type)


@given(JSON, TYPES)
def test_a_converted_value_stays_as_it_is(value: Any, type: str) -> None:
    try:
        once = convert(value, type)
    except (ValueError, OverflowError):
        return
    assert repr(convert(once, type)) == repr(once)


@given(st.lists(JSON, max_size=6), TYPES)
def test_a_column_of_any_values_can_be_made(values: list[Any], type: str) -> None:
    series, bad = series_of("c", values, type)
    assert len(series) == len(values)
    assert series.dtype == dtype_of(type) or (type == "number" and series.dtype == pl.Int64)
    for row, value in enumerate(values):
        if row in bad:
            assert series[row] is None
        elif value is not None:
            assert series[row] is not None
            assert type not in ("text", "bool", "int") or series[row] == convert(value, type)


@given(st.lists(JSON, max_size=4))
def test_one_bad_value_keeps_no_other_out(values: list[Any]) -> None:
    series, _ = series_of("price", [3, *values, 2.5], "number")
    assert (series[0], series[-1]) == (3, 2.5)


FRAMES = [
    pl.Series("c", [1, None]), pl.Series("c", ["1", None, "a|b"]), pl.Series("c", [[1.5], [2.0, 3.0]]),
    pl.Series("c", [["a"], []]), pl.Series("c", [True, None]), pl.Series("c", [None, None]),
    pl.Series("c", ["2020-01-01"]).str.to_date(), pl.Series("c", ["2020-01-01"]).str.to_datetime(),
    pl.Series("c", ["a"], dtype=pl.Categorical), pl.Series("c", [[1, 2]], dtype=pl.Array(pl.Int8, 2)),
    pl.Series("c", [{"a": 1}]), pl.Series("c", [1], dtype=pl.Duration("us")), pl.Series("c", [], dtype=pl.String),
    pl.Series("c", [[{"a": 1}]]), pl.Series("c", [b"x"]),
]  # fmt: skip


@pytest.mark.parametrize("type", list(DESCRIPTIONS))
@pytest.mark.parametrize("column", FRAMES, ids=lambda column: str(column.dtype))
def test_every_column_can_be_cast_to_every_type(column: pl.Series, type: str) -> None:
    made = cast_column(column, type)
    assert made.dtype == dtype_of(type) or (type == "number" and made.dtype == pl.Int64)
    assert (made.name, len(made)) == (column.name, len(column))


def test_several_values_are_a_property_of_the_column() -> None:
    texts = ["drama|comedy"] * 3 + ["drama"] * 97
    items = pl.DataFrame({"id": range(100), "genres": texts, "title": texts, "note": ["a | b"] * 0 + ["plain"] * 100})
    schema = CatalogueSchema.of(items)
    assert dict(schema.items) == {"genres": "piped", "title": "text", "note": "text"}
    frame, bad = schema.frame("items", [{"note": "Alien | Aliens", "genres": ["a", "b"]}])
    assert not bad
    assert frame.row(0, named=True) == {"note": "Alien | Aliens", "genres": "a|b"}
    assert schema.kinds("items")["note"] == "text"


def test_types_by_first_values() -> None:
    schema = CatalogueSchema({"price": "number"})
    rows = [{"price": 1, "x": None, "y": []}, {"x": 1, "y": ["a"]}, {"x": "text"}]
    assert schema.new_types("items", rows) == {"x": "number", "y": "texts"}
    assert schema.convert("items", {"price": 2, "unknown": []}) == {"price": 2, "unknown": None}
    with pytest.raises(DataError, match=r"column 'z' holds a list of texts, or a list of numbers, not \"\['a', 1\]"):
        schema.new_types("items", [{"z": ["a", 1]}])
    with pytest.raises(DataError, match=r"column 'price' holds a number, not '\[1, 2\]'"):
        schema.convert("items", {"price": [1, 2]})
    assert first_type([None, 2]) == "numbers"


def test_marks_of_hidden_items() -> None:
    assert all(is_hidden({"hidden": value}) for value in (True, "true", 1, "x", [True]))
    assert not any(is_hidden(row) for row in ({}, {"hidden": None}, {"hidden": False}, {"hidden": "false"}))
    with pytest.raises(DataError, match="column 'hidden' holds true or false, not 'x'"):
        CatalogueSchema().convert("items", {"hidden": "x"})


def test_states() -> None:
    schema = CatalogueSchema({"a": "vector(3)"}, {"b": "time"})
    assert CatalogueSchema.from_state(schema.state()) == schema
    for wrong in ({"items": {"a": "float"}}, {"things": {}}, [], {"items": {"a": "vector(0)"}}, {"users": 3}):
        with pytest.raises(ConfigError):
            CatalogueSchema.from_state(wrong)


@pytest.mark.parametrize("word", sorted(BOOLEANS))
def test_a_word_that_a_file_reads_as_a_boolean_is_one_in_a_request(word: str, tmp_path) -> None:
    expected = BOOLEANS[word]
    assert convert(f" {word.upper()} ", "bool") is expected
    assert cast_column(pl.Series("stock", [word, "perhaps"]), "bool").to_list() == [expected, None]
    opposites = [one for one, value in BOOLEANS.items() if value is not expected]
    other = next(one for one in opposites if is_boolean(pl.Series([one, word, "true", "false"])))
    (tmp_path / "items.csv").write_text(f"item,stock\ni,{word}\nj,{other}\nk,true\nl,false\n")
    events = pl.DataFrame({"user": ["u"] * 4, "item": list("ijkl")})
    assert read(events, items=tmp_path / "items.csv").items["stock"].to_list()[:2] == [expected, not expected]
