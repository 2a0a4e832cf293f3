"""Columns and constants as the arrays that expressions are evaluated on.

Numbers and times are arrays as they are. Texts are dictionary-encoded: each row holds the position of its text in the
sorted list of the column's distinct texts, so that an operation on texts runs once per distinct text and not once per
row. A value of one row stands for all rows: a column of the request (user.age, NOW()) costs nothing per item.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError
from zhiyin.data.timestamps import to_microseconds
from zhiyin.pipeline.expression_nodes import Node, parse_time


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """Values of n rows, or one value for all rows.

    Parameters
    ----------
    data: bool, float64 or int64 (numbers), int64 microseconds (times), float64 microseconds (spans), int32 places in
        `dictionary` (texts); of lists the entries of all rows.
    valid: bool[n], False where NULL; None where nothing is. Booleans that are NULL have False in `data`.
    dictionary: of texts, the distinct ones, sorted.
    offsets: of lists, int64[n + 1]: row r has data[offsets[r]:offsets[r + 1]].
    """

    data: np.ndarray
    valid: np.ndarray | None = None
    dictionary: pl.Series | None = None
    offsets: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.valid is not None and len(self.valid) != len(self):
            object.__setattr__(self, "valid", np.broadcast_to(self.valid, len(self)))

    def __len__(self) -> int:
        return len(self.data) if self.offsets is None else len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        parts = (self.data, self.valid, self.offsets)
        return sum(part.nbytes for part in parts if part is not None)

    def take(self, rows: np.ndarray) -> Value:
        """The values of some rows; one value for all rows stays as it is."""
        if len(self) == 1:
            return self
        valid = None if self.valid is None else self.valid[rows]
        if self.offsets is None:
            return Value(self.data[rows], valid, self.dictionary)
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Value(self.data[at], valid, self.dictionary, offsets)

    def repeat(self, m: int) -> Value:
        """A value of one row as one of m rows."""
        if self.offsets is not None:
            return Value(np.tile(self.data, m), None, self.dictionary, np.arange(m + 1) * len(self.data))
        valid = None if self.valid is None else np.broadcast_to(self.valid, m)
        return Value(np.broadcast_to(self.data, m), valid, self.dictionary)


def null_value(kind: str) -> Value:
    """NULL of a kind, for all rows."""
    none = np.zeros(1, dtype=bool)
    if kind in ("text", "texts"):
        offsets = np.zeros(2, np.int64) if kind == "texts" else None
        return Value(np.zeros(0 if kind == "texts" else 1, np.int32), none, pl.Series([""]), offsets)
    if kind == "numbers":
        return Value(np.zeros(0), none, None, np.zeros(2, np.int64))
    return Value(np.zeros(1, {"bool": np.bool_, "time": np.int64, "null": np.bool_}.get(kind, np.float64)), none)


def column_value(column: pl.Series, kind: str) -> Value:
    """A column of a frame. Where the kind is texts and the column is text, "a|b" is split."""
    dtype = column.dtype
    if dtype == pl.Null:
        return null_value(kind)
    if kind in ("texts", "numbers"):
        if not isinstance(dtype, pl.List | pl.Array):
            column = column.cast(pl.String).str.split("|")
        column = column.cast(pl.List(pl.String if kind == "texts" else pl.Float64))
        valid = column.is_not_null().to_numpy() if column.null_count() else None
        lists = column.list.drop_nulls()
        offsets = np.concatenate([[0], np.cumsum(lists.list.len().fill_null(0).to_numpy().astype(np.int64))])
        entries = lists.filter(lists.list.len() > 0).explode()
        if kind == "numbers":
            return Value(entries.to_numpy().astype(np.float64), valid, None, offsets)
        entries = entries.str.strip_chars()
        dictionary, codes = dictionary_encoded(entries)
        return Value(codes, valid, dictionary, offsets)
    if kind == "time":
        times = to_microseconds(column)
        return Value(times.fill_null(0).to_numpy(), _not_null(times))
    if kind == "text":
        dictionary, codes = dictionary_encoded(column)
        return Value(codes, _not_null(column), dictionary)
    if kind == "bool":
        return Value(column.fill_null(False).to_numpy().astype(np.bool_), _not_null(column))
    if dtype.is_integer() and dtype not in (pl.UInt64, pl.Int128):
        return Value(column.fill_null(0).cast(pl.Int64).to_numpy(), _not_null(column))
    numbers = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    return finite_numbers(numbers, None)


def _not_null(column: pl.Series) -> np.ndarray | None:
    return column.is_not_null().to_numpy() if column.null_count() else None


def dictionary_encoded(column: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """The sorted distinct texts of a column, and int32[n], the position of each row's text; 0 for NULL."""
    text = column.cast(pl.String)
    dictionary = text.drop_nulls().unique().sort()
    if not len(dictionary):
        return pl.Series([""]), np.zeros(len(text), np.int32)
    codes = text.cast(pl.Enum(dictionary)).to_physical() if len(dictionary) < 2**31 else dictionary.search_sorted(text)
    return dictionary, codes.fill_null(0).to_numpy().astype(np.int32)


def request_value(value: Any, kind: str, name: str) -> Value:
    """The value of a column of the user or the context, from a request. Raises ConfigError for another kind."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return null_value(kind)
    try:
        if kind == "text" and isinstance(value, str):
            return Value(np.zeros(1, np.int32), None, pl.Series([value]))
        if kind == "bool" and isinstance(value, bool | np.bool_):
            return Value(np.array([bool(value)]))
        if kind == "number" and isinstance(value, int | float | np.number) and not isinstance(value, bool):
            whole = isinstance(value, int | np.integer) and abs(int(value)) < 2**62
            return Value(np.array([value], dtype=np.int64 if whole else np.float64))
        if kind == "time":
            if isinstance(value, str):
                value = parse_time(value)
            elif isinstance(value, datetime.date):
                value = to_microseconds(pl.Series([value]))[0]
            if isinstance(value, int | np.integer) and not isinstance(value, bool):
                return Value(np.array([int(value)], dtype=np.int64))
        if kind in ("texts", "numbers") and isinstance(value, Iterable):
            if isinstance(value, str):
                value = value.split("|")
            inner = pl.String if kind == "texts" else pl.Float64
            return column_value(pl.Series([list(value)], dtype=pl.List(inner)), kind)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        pass
    raise ConfigError(
        f"{name} = {value!r} is not of the kind that was declared ({kind})", remedy="send a value of that kind, or none"
    )


def literal_value(node: Node) -> Value:
    """The value of a literal, of one row."""
    if node.value is None:
        return null_value(node.kind)
    if node.kind == "text":
        return Value(np.zeros(1, np.int32), None, pl.Series([node.value]))
    if node.kind == "time":
        return Value(np.array([node.value], dtype=np.int64))
    return Value(np.array([node.value]))


def finite_numbers(numbers: np.ndarray, valid: np.ndarray | None) -> Value:
    """Numbers, with NULL for what is not finite."""
    good = np.isfinite(numbers)
    if good.all():
        return Value(numbers, valid)
    return Value(np.where(good, numbers, 0.0), good if valid is None else good & valid)


def truth_values(value: Value, n: int) -> np.ndarray:
    """bool[n]: where a condition holds; NULL does not."""
    return np.broadcast_to(value.data, n) if len(value) != n else value.data


def number_values(value: Value, n: int) -> np.ndarray:
    """float64[n], NaN where NULL."""
    data = value.data.astype(np.float64)
    if value.valid is not None:
        data = np.where(value.valid, data, np.nan)
    return np.broadcast_to(data, n)
