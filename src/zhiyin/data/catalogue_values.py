"""Conversion of values and columns of a catalogue to their types."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from zhiyin.core.booleans import to_boolean
from zhiyin.data.boolean_columns import to_booleans
from zhiyin.data.catalogue_types import DTYPES, UTC_DTYPE, base_of, dtype_of
from zhiyin.data.timestamps import to_microseconds
from zhiyin.data.type_names import HIDDEN, VECTOR

# Python types whose values need no conversion, besides None.
_PLAIN: dict[str, frozenset[type]] = {
    "bool": frozenset({bool}), "int": frozenset({int}), "number": frozenset({int, float}), "text": frozenset({str}),
    "piped": frozenset({str}),
}  # fmt: skip
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_LARGEST = 2**63


def convert(value: Any, type: str) -> Any:
    """A JSON value as one of a type, None as None. Raises ValueError where that would lose something."""
    return None if value is None else _CONVERSIONS[base_of(type)](value, type)


def first_type(value: Any) -> str | None:
    """The type of a column with this first value; None where the value has no type. Raises ValueError for a list of
    values of several types."""
    if isinstance(value, list):
        kinds = {first_type(part) for part in value if part is not None}
        if not kinds:
            return None
        if len(kinds) > 1 or not kinds <= {"text", "number"}:
            raise ValueError
        return kinds.pop() + "s"  # type: ignore[operator]
    if value is None:
        return None
    return "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def is_hidden(columns: Mapping[str, Any]) -> bool:
    """Whether the columns of an item hide it. A value of `hidden` that is no boolean hides it, too."""
    try:
        return bool(convert(columns.get(HIDDEN), "bool"))
    except ValueError:
        return True


def _number(value: Any, type: str = "number") -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    float(value)  # a whole number beyond all floats is refused
    return value


def _whole(value: Any, type: str) -> int:
    number = _number(value)
    if number != number or int(number) != number or abs(number) >= _LARGEST:
        raise ValueError
    return int(number)


def _bool(value: Any, type: str) -> bool:
    if isinstance(value, str):
        return to_boolean(value)
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise ValueError
    return bool(value)


def _text(value: Any, type: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return _plain_text(value)


def _plain_text(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value if isinstance(value, str) else str(_number(value))


def _texts(value: Any, type: str) -> list[str]:
    parts = value if isinstance(value, list) else [value]
    return [_plain_text(part) for part in parts if part is not None]


def _piped(value: Any, type: str) -> str:
    if not isinstance(value, list):
        return _text(value, type)
    parts = _texts(value, type)
    if any("|" in part for part in parts) and len(parts) > 1:
        raise ValueError
    return "|".join(parts)


def _numbers(value: Any, type: str) -> list[float]:
    return [_number(part) for part in (value if isinstance(value, list) else [value]) if part is not None]


def _vector(value: Any, type: str) -> list[float]:
    if not isinstance(value, list):
        raise ValueError
    numbers, width = [_number(part) for part in value], VECTOR.fullmatch(type)
    if width is not None and width[1] and len(numbers) != int(width[1]):
        raise ValueError
    return numbers


def _time(value: Any, type: str) -> str:
    if not isinstance(value, str):
        raise ValueError
    _microseconds(value)
    return value


def _date(value: Any, type: str) -> str:
    if not isinstance(value, str) or datetime.datetime.fromisoformat(value.strip()).time() != datetime.time():
        raise ValueError
    return value


def _microseconds(text: str) -> int:
    moment = datetime.datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)


_CONVERSIONS: dict[str, Callable[[Any, str], Any]] = {
    "bool": _bool, "int": _whole, "number": _number, "text": _text, "date": _date, "time": _time, "texts": _texts,
    "piped": _piped, "numbers": _numbers, "vector": _vector,
}  # fmt: skip


def series_of(name: str, values: Sequence[Any], type: str) -> tuple[pl.Series, list[int]]:
    """A column of JSON values of a type, and the rows whose values do not fit: they are null."""
    base, bad = base_of(type), []
    if base not in _PLAIN or not {*map(_class, values)} - {_class(None)} <= _PLAIN[base]:
        cells: list[Any] = []
        for row, value in enumerate(values):
            try:
                cells.append(convert(value, type))
            except (ValueError, OverflowError):
                cells.append(None)
                bad.append(row)
        values = cells
    if base == "int":
        far = [row for row, value in enumerate(values) if value is not None and abs(value) >= _LARGEST]
        if far:
            bad = sorted({*bad, *far})
            values = [None if row in set(far) else value for row, value in enumerate(values)]
    if base == "time":
        moments = [None if value is None else _microseconds(value) for value in values]
        return pl.Series(name, moments, dtype=pl.Int64).cast(UTC_DTYPE), bad
    if base == "date":
        days = [None if value is None else datetime.datetime.fromisoformat(value.strip()).date() for value in values]
        return pl.Series(name, days, dtype=pl.Date), bad
    if base == "number":
        whole = float not in set(map(_class, values)) and all(v is None or abs(v) < _LARGEST for v in values)
        if whole:
            return pl.Series(name, values, dtype=pl.Int64), bad
        values = [None if value is None else float(value) for value in values]
    if base in ("numbers", "vector"):
        values = [None if value is None else [float(part) for part in value] for value in values]
    return pl.Series(name, values, dtype=DTYPES[base]), bad


_class = type


def cast_column(column: pl.Series, type: str) -> pl.Series:
    """A column of a frame as one of a type; what does not fit becomes null."""
    base, target, dtype = base_of(type), dtype_of(type), column.dtype
    if dtype == target or (base in ("int", "number") and dtype in (pl.Int64, pl.UInt64, pl.Int128)):
        return column
    if base == "number" and dtype.is_integer():
        return column.cast(pl.Int64)
    if dtype == pl.Null:
        return column.cast(target)
    if isinstance(dtype, pl.Array):
        column = column.arr.to_list()
        dtype = column.dtype
    if dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
        dtype = column.dtype
    try:
        if dtype in (pl.Duration, pl.Time, pl.Struct, pl.Binary, pl.Object):
            raise pl.exceptions.InvalidOperationError(f"no type is {dtype}")
        result = _CASTS[base](column, dtype).cast(target, strict=False).alias(column.name)
        return result if result.dtype == target else _nulls(column).cast(target)
    except pl.exceptions.PolarsError:
        return _nulls(column).cast(target)


def _to_list(column: pl.Series, dtype: Any) -> pl.Series:
    if isinstance(dtype, pl.List):
        return column
    parts = column.cast(pl.String).str.split("|")
    return parts.list.eval(pl.element().str.strip_chars())


def _to_text(column: pl.Series, dtype: Any) -> pl.Series:
    if isinstance(dtype, pl.List):
        single = pl.when(pl.col(column.name).list.len() == 1).then(pl.col(column.name).list.first())
        return column.to_frame().select(single).to_series().cast(pl.String)
    return column.cast(pl.String)


def _to_piped(column: pl.Series, dtype: Any) -> pl.Series:
    return column.cast(pl.List(pl.String)).list.join("|") if isinstance(dtype, pl.List) else column.cast(pl.String)


def _to_number(column: pl.Series, dtype: Any) -> pl.Series:
    if isinstance(dtype, pl.List) or dtype.is_temporal():
        return _nulls(column)
    return column.str.strip_chars().cast(pl.Float64, strict=False) if dtype == pl.String else column


def _to_int(column: pl.Series, dtype: Any) -> pl.Series:
    if dtype == pl.String:
        whole = column.str.strip_chars().cast(pl.Int64, strict=False)
        if whole.null_count() == column.null_count():
            return whole
    numbers = _to_number(column, dtype)
    if numbers.dtype.is_float() or numbers.dtype.is_decimal():
        numbers = numbers.cast(pl.Float64)
        return numbers.set((numbers != numbers.round()).fill_null(False), None)
    return numbers


def _to_bool(column: pl.Series, dtype: Any) -> pl.Series:
    if dtype == pl.String:
        return to_booleans(column)
    if not dtype.is_numeric():
        return _nulls(column)
    return column.cast(pl.Float64).replace_strict({1.0: True, 0.0: False}, default=None, return_dtype=pl.Boolean)


def _to_time(column: pl.Series, dtype: Any) -> pl.Series:
    if dtype == pl.String:
        return series_of(column.name, column.to_list(), "time")[0]
    return to_microseconds(column).cast(UTC_DTYPE) if dtype.is_temporal() and dtype != pl.Duration else _nulls(column)


def _to_date(column: pl.Series, dtype: Any) -> pl.Series:
    moments = _to_time(column, dtype)
    return moments.dt.date() if moments.dtype == UTC_DTYPE else moments


def _nulls(column: pl.Series) -> pl.Series:
    return pl.Series(column.name, [None] * len(column), dtype=pl.Null)


_CASTS: dict[str, Callable[[pl.Series, Any], pl.Series]] = {
    "bool": _to_bool, "int": _to_int, "number": _to_number, "text": _to_text, "date": _to_date, "time": _to_time,
    "texts": _to_list, "piped": _to_piped, "numbers": _to_list, "vector": _to_list,
}  # fmt: skip
