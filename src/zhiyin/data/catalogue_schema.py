"""The schema of the catalogue: the type of each column of items and of users.

Types are learned from the catalogue when a version is trained, declared in `[schema]` of zhiyin.toml or by
`PUT /v1/schema`, or, for a column that is first seen live, taken from its first value. Every write is converted to the
type of its column where nothing is lost by that, and refused otherwise; filters, rules, views and training build their
columns by type. Whether a column holds several values is a property of the column: values that come later change
nothing about it.

    schema = CatalogueSchema.of(items, users)
    schema.convert("items", {"price": 3, "tags": "new"})     # {"price": 3, "tags": ["new"]}
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from zhiyin.core.booleans import to_boolean
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.boolean_columns import to_booleans
from zhiyin.data.timestamps import to_microseconds
from zhiyin.data.type_names import DESCRIPTIONS, HIDDEN, TABLES, VECTOR, parse_type

# A text column of the catalogue holds several values where at least this share of its texts has a bar.
PIPED_SHARE = 0.01
_TITLES = re.compile(r"(.*[ _])?(title|name|product|description)|.*title.*", re.IGNORECASE)
_KINDS = {"int": "number", "date": "time", "piped": "texts", "vector": "numbers"}
_UTC = pl.Datetime("us", "UTC")
_DTYPES: dict[str, pl.DataType] = {
    "bool": pl.Boolean(), "int": pl.Int64(), "number": pl.Float64(), "text": pl.String(), "date": pl.Date(),
    "time": _UTC, "texts": pl.List(pl.String()), "piped": pl.String(), "numbers": pl.List(pl.Float64()),
    "vector": pl.List(pl.Float64()),
}  # fmt: skip
# Python types whose values need no conversion, besides None.
_PLAIN: dict[str, frozenset[type]] = {
    "bool": frozenset({bool}), "int": frozenset({int}), "number": frozenset({int, float}), "text": frozenset({str}),
    "piped": frozenset({str}),
}  # fmt: skip
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_LARGEST = 2**63


def base_of(type: str) -> str:
    """A type without its width: "vector" of "vector(64)"."""
    return type.partition("(")[0]


def describe(type: str) -> str:
    """What a column of a type holds, in words."""
    match = VECTOR.fullmatch(type)
    return f"a list of {match[1]} numbers" if match and match[1] else DESCRIPTIONS[base_of(type)]


def dtype_of(type: str) -> pl.DataType:
    """The Polars type that columns of a type are held as; numbers without a fraction are held as Int64."""
    return _DTYPES[base_of(type)]


def kind_of_type(type: str) -> str:
    """The kind of a type as expressions have it: bool, number, text, time, texts or numbers."""
    return _KINDS.get(base_of(type), base_of(type))


def type_of_column(column: pl.Series) -> str | None:
    """The type of a column of a catalogue; None for one without values, or of a type that expressions do not have."""
    dtype = column.dtype
    if isinstance(dtype, pl.Array):
        return f"vector({dtype.size})" if dtype.inner.is_numeric() else "texts"
    if isinstance(dtype, pl.List):
        inner: Any = dtype.inner
        return "numbers" if inner.is_numeric() else "texts" if inner in (pl.String, pl.Categorical, pl.Enum) else None
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "piped" if holds_several(column) else "text"
    if dtype == pl.Boolean:
        return "bool"
    if dtype == pl.Date:
        return "date"
    if isinstance(dtype, pl.Datetime):
        return "time"
    return "number" if dtype.is_numeric() else None


def holds_several(column: pl.Series) -> bool:
    """Whether a column of texts holds several values as "a|b": some of its texts have a bar, and it is no title."""
    if _TITLES.fullmatch(column.name):
        return False
    texts = column.cast(pl.String).drop_nulls()
    return len(texts) > 0 and int(texts.str.contains("|", literal=True).sum()) >= PIPED_SHARE * len(texts)


# -- values -----------------------------------------------------------------------------------------------------------


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
        return pl.Series(name, moments, dtype=pl.Int64).cast(_UTC), bad
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
    return pl.Series(name, values, dtype=_DTYPES[base]), bad


_class = type


# -- columns of frames ------------------------------------------------------------------------------------------------


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
    return to_microseconds(column).cast(_UTC) if dtype.is_temporal() and dtype != pl.Duration else _nulls(column)


def _to_date(column: pl.Series, dtype: Any) -> pl.Series:
    moments = _to_time(column, dtype)
    return moments.dt.date() if moments.dtype == _UTC else moments


def _nulls(column: pl.Series) -> pl.Series:
    return pl.Series(column.name, [None] * len(column), dtype=pl.Null)


_CASTS: dict[str, Callable[[pl.Series, Any], pl.Series]] = {
    "bool": _to_bool, "int": _to_int, "number": _to_number, "text": _to_text, "date": _to_date, "time": _to_time,
    "texts": _to_list, "piped": _to_piped, "numbers": _to_list, "vector": _to_list,
}  # fmt: skip


# -- the schema -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CatalogueSchema:
    """Types of the columns of items and of users, by name. It never changes; `with_types` makes another."""

    items: Mapping[str, str] = dataclasses.field(default_factory=dict)
    users: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, items: pl.DataFrame | None, users: pl.DataFrame | None = None) -> CatalogueSchema:
        """Learned from the frames of a catalogue. Columns without values, and `id`, have no type."""
        return cls(*({column.name: type for column in (() if frame is None else frame)
                      if column.name != "id" and (type := type_of_column(column)) is not None}
                     for frame in (items, users)))  # fmt: skip

    @classmethod
    def from_state(cls, state: Any) -> CatalogueSchema:
        """The schema from what `state` returned, or from a table such as `[schema]`. Raises ConfigError for others."""
        if not isinstance(state, Mapping):
            raise ConfigError("this is no schema", remedy='write { items = { price = "number" } }')
        tables: dict[str, dict[str, str]] = {}
        for table, types in state.items():
            if table not in TABLES or not isinstance(types, Mapping):
                raise ConfigError(f"schema has no table {str(table)[:80]!r}", remedy="items and users")
            tables[table] = {str(name): parse_type(type, str(name)) for name, type in types.items()}
        return cls(**tables)

    def state(self) -> dict[str, dict[str, str]]:
        """All of it as JSON values."""
        return {"items": dict(self.items), "users": dict(self.users)}

    def of_table(self, table: str) -> Mapping[str, str]:
        return self.items if table == "items" else self.users

    def type_of(self, table: str, column: str) -> str | None:
        """The type of a column; None where it is not known yet."""
        if table == "items" and column == HIDDEN:
            return "bool"
        return self.of_table(table).get(column)

    def with_types(self, other: CatalogueSchema, *, keep: bool = False) -> CatalogueSchema:
        """This schema with the types of another. keep: columns that have a type already keep it."""
        if keep:
            return other.with_types(self)
        return CatalogueSchema({**self.items, **other.items}, {**self.users, **other.users})

    def kinds(self, table: str) -> dict[str, str]:
        """Kinds of the columns, as expressions have them."""
        return {name: kind_of_type(type) for name, type in self.of_table(table).items() if name != HIDDEN}

    def new_types(self, table: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Types of columns that have none yet, by their first values. Raises DataError that names the column."""
        new_types: dict[str, str] = {}
        for row in rows:
            for name, value in row.items():
                if name in new_types or self.type_of(table, name) is not None:
                    continue
                try:
                    type = first_type(value)
                except ValueError:
                    raise _misfit_error(name, value, "a list of texts, or a list of numbers") from None
                if type is not None:
                    new_types[name] = type
        return new_types

    def first_types(self, table: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """`new_types` of rows that were stored without types; values without a type are skipped."""
        new_types: dict[str, str] = {}
        for row in rows:
            for name, value in row.items():
                if name in new_types or value is None or name == HIDDEN or self.type_of(table, name) is not None:
                    continue
                with contextlib.suppress(ValueError):
                    type = first_type(value)
                    if type is not None:
                        new_types[name] = type
        return new_types

    def convert(self, table: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of one item or user as their types have them.

        A column without a type becomes null: an empty list has no type. Raises DataError that names
        the column, the value and the type where a value does not fit.
        """
        converted: dict[str, Any] = {}
        for name, value in row.items():
            type = self.type_of(table, name)
            try:
                converted[name] = None if type is None else convert(value, type)
            except (ValueError, OverflowError):
                description, command = describe(type or "text"), ""
                if name != HIDDEN:
                    command = f', or change the type: PUT /v1/schema {{"{table}": {{"{name}": "..."}}}}'
                raise _misfit_error(name, value, description, command) from None
        return converted

    def fitting(self, table: str, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """As `convert`, without what does not fit; also the names of these columns."""
        converted: dict[str, Any] = {}
        misfits: list[str] = []
        for name, value in row.items():
            type = self.type_of(table, name)
            if type is None:
                continue
            try:
                converted[name] = convert(value, type)
            except (ValueError, OverflowError):
                misfits.append(name)
        return converted, misfits

    def shaped(self, table: str, frame: pl.DataFrame) -> pl.DataFrame:
        """A frame with its columns in their types; what does not fit becomes null, what has no type stays."""
        types = self.of_table(table)
        return frame.with_columns(
            cast_column(frame[name], types[name]) for name in frame.columns if name != "id" and name in types
        )

    def frame(
        self, table: str, rows: Sequence[Mapping[str, Any]], names: Iterable[str] | None = None
    ) -> tuple[pl.DataFrame, dict[str, list[int]]]:
        """A frame of rows of JSON values, its columns built by their types; columns without a type are left out.

        names: its columns; None: those that rows name. Also the rows of each column whose values do not fit: they are
        null.
        """
        names_to_build = dict.fromkeys(name for row in rows for name in row) if names is None else dict.fromkeys(names)
        columns, misfits = [], {}
        for name in names_to_build:
            type = None if name in ("id", HIDDEN) else self.of_table(table).get(name)
            if type is None:
                continue
            series, misfit_rows = series_of(name, [row.get(name) for row in rows], type)
            columns.append(series)
            if misfit_rows:
                misfits[name] = misfit_rows
        return pl.DataFrame(columns) if columns else pl.DataFrame(), misfits


def _misfit_error(name: str, value: Any, description: str, remedy_suffix: str = "") -> DataError:
    value_text = str(value) if len(str(value)) <= 40 else str(value)[:37] + "..."
    return DataError(
        f"column {name!r} holds {description}, not {value_text!r}",
        column=name,
        remedy=f"send {description}, or null{remedy_suffix}",
    )
