"""Raw ids and their stable integer codes.

A code is the position of an id in the sorted list of known ids: it does not depend on the order of the rows, so it
leaks nothing about popularity or time. Ids of a request are looked up in a hash table (`data.id_table`), made when the
first is; long columns are joined.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.data.id_table import IdTable, id_text

# A direct table beats a join when the ids are whole numbers that lie close together.
_TABLE_LIMIT = 64_000_000
# Columns of more ids than this are joined, not looked up one by one.
_MAX_LOOKUPS = 50_000
# Up to this many codes are decoded by indexing.
_MAX_INDEXED = 1_000
# Types of columns whose values may be looked up as Python values.
_PLAIN_TYPES = (pl.String, pl.Null, pl.Boolean, pl.Categorical, pl.Enum)
# Held while a table is made, so that threads that need it at once make one.
_TABLE_LOCK = threading.Lock()


def id_list(raw: Any) -> list[Any] | pl.Series:
    """Several ids of whatever they are given as.

    An array of whole numbers becomes a Series, which stays one; anything else that holds ids becomes a list of Python
    values, and one id (a text, a number, a 0-d array) a list of itself.

    Raises DataError for an array or nested list of more than one dimension.

    >>> id_list("ab"), id_list(np.int64(7)), id_list((3, "c"))
    (['ab'], [7], [3, 'c'])
    """
    if isinstance(raw, pl.Series):
        return raw
    if isinstance(raw, np.ndarray | np.generic):
        if raw.ndim > 1:
            raise DataError(f"ids of {raw.ndim} dimensions", remedy="give an array of one dimension")
        if raw.ndim == 1 and raw.dtype.kind in "iu":
            return pl.Series(raw)
        values = raw.tolist()
        return values if isinstance(values, list) else [values]
    if isinstance(raw, str | bytes) or not isinstance(raw, Iterable):
        return [raw]
    return [value.item() if isinstance(value, np.generic) else value for value in raw]


def id_series(raw: Any) -> pl.Series:
    """The ids of `id_list` as a Series of one type, whatever their order: texts where they are of several types."""
    values = id_list(raw)
    if isinstance(values, pl.Series):
        return values
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pl.Series(values, dtype=pl.Int64 if kinds else pl.Null)
    if len(kinds) == 1 and kinds <= {str, float, bool}:
        return pl.Series(values)
    return pl.Series([id_text(value) for value in values], dtype=pl.String)


def match_spelling(ids: pl.Series, reference: pl.Series) -> pl.Series:
    """Ids in the spelling of others that mean the same: "7.0" as "7", and "7" as "7.0", where only the other is known.

    Tables that programs wrote spell whole numbers with a point where a value was missing in them.
    """
    if ids.dtype.is_integer() and reference.dtype.is_integer():
        return ids
    text, other = ids.cast(pl.String), reference.cast(pl.String).drop_nulls()
    pointed = other.str.contains(POINTED).any() or text.str.contains(POINTED).any()
    if not pointed:
        return ids
    spelled = pl.DataFrame({"known": other.unique()}).with_columns(plain=pl.col("known").str.replace(_POINT, "$1"))
    spelled = spelled.unique("plain", keep="none")  # of two spellings in one table neither is the other
    joined = pl.DataFrame({"id": text, "plain": text.str.replace(_POINT, "$1")}).join(
        spelled, on="plain", how="left", maintain_order="left"
    )
    is_unknown = ~joined["id"].is_in(other.implode())
    return joined.select(
        pl.when(is_unknown & pl.col("known").is_not_null()).then("known").otherwise("id").alias(ids.name)
    ).to_series()


def ids_of_floats(column: pl.Series) -> pl.Series:
    """Ids that came as floats or decimals: whole numbers where all are, else texts, in which 2.0 is "2"."""
    number = column.fill_nan(None) if column.dtype.is_float() else column
    whole = number.cast(pl.Int64, strict=False)
    if column.dtype.is_float():
        same = (whole.cast(pl.Float64) == number.cast(pl.Float64)).fill_null(False) & (whole.abs() <= 2**53)
    else:
        same = (whole.cast(column.dtype) == number).fill_null(False)
    if bool((same | number.is_null()).all()):
        return whole
    plain = number.cast(pl.String)
    return pl.select(pl.when(same).then(whole.cast(pl.String)).otherwise(plain).alias(column.name)).to_series()


def number_of(text: str) -> int | None:
    """The whole number that a text is the decimal form of; None for any other text, such as "007", "+7" and "７".

    >>> number_of("-12"), number_of("012"), number_of("-0")
    (-12, None, None)
    """
    digits = text.removeprefix("-")
    plain = digits.isascii() and digits.isdigit() and len(digits) <= 40
    if not plain or (digits[0] == "0" and text != "0"):
        return None
    return int(text)


def whole_numbers(texts: pl.Series, dtype: pl.DataType | type[pl.DataType] = pl.Int64) -> pl.Series:
    """As `number_of`, of many texts; null where a text is no such number, or where `dtype` does not hold it."""
    texts = texts.cast(pl.String)
    decimal = pl.when(texts.str.contains(_DECIMAL)).then(texts)
    return pl.select(decimal.cast(dtype, strict=False).alias(texts.name)).to_series()


_DECIMAL = r"^(?:0|-?[1-9][0-9]{0,19})$"
_POINT = r"^(-?\d+)\.0+$"
POINTED = r"^-?\d+\.0+$"


class Ids:
    """Sorted unique ids of one kind (users or items).

    >>> ids = Ids.of(pl.Series(["b", "a", "b"]))
    >>> ids.encode(["a", "b", "?"]).tolist()
    [0, 1, -1]
    """

    def __init__(self, values: pl.Series) -> None:
        self.values = values
        self._numbers = values.to_numpy() if values.dtype == pl.Int64 and not values.null_count() else None
        self._made_table: tuple[IdTable | None] | None = None
        self._n = len(values)

    @classmethod
    def of(cls, *series: pl.Series) -> Ids:
        """The ids that occur in any of the series (nulls left out)."""
        unique = [s.drop_nulls().unique() for s in series if len(s)]
        if not unique:
            return cls(pl.Series([], dtype=series[0].dtype if series else pl.Int64))
        dtype = _common(unique)
        merged = (
            unique[0].cast(dtype)
            if len(unique) == 1
            else pl.concat([s.cast(dtype).alias("id") for s in unique]).unique()
        )
        return cls(merged.sort().rename("id"))

    def __len__(self) -> int:
        return self._n

    @property
    def dtype(self) -> pl.DataType:
        return self.values.dtype

    def encode(self, raw: Any) -> np.ndarray:
        """Codes of raw ids (one or several, see `id_list`) as int32[n], -1 where unknown.

        "42" and 42.0 match the number 42, and 42 the text; "042", "+42" and full-width digits are other ids. Texts are
        compared code point by code point: no Unicode normalisation is applied. The code of an id does not depend on the
        other ids.
        """
        values = raw if type(raw) is list else id_list(raw)
        if not self._n or not len(values):
            return np.full(len(values), -1, dtype=np.int32)
        table = self.table
        if table is None:
            return self._encode_series(id_series(values))
        if isinstance(values, list):
            return table.codes(values)
        dtype = values.dtype
        if len(values) > _MAX_LOOKUPS:
            return self._encode_series(values)
        if table.has_numbers and dtype.is_integer() and dtype != pl.UInt64 and not values.null_count():
            return table.codes_of_numbers(values.cast(pl.Int64).to_numpy(writable=True))
        if (dtype.is_numeric() and not dtype.is_decimal()) or dtype in _PLAIN_TYPES:
            return table.codes(values.to_list())
        return self._encode_series(values)

    @property
    def table(self) -> IdTable | None:
        """The hash table, made at the first call; None where ids are of a type that it does not hold."""
        if self._made_table is None:
            with _TABLE_LOCK:
                if self._made_table is None:
                    self._made_table = (IdTable.of(self.values),)
        return self._made_table[0]

    def _encode_series(self, series: pl.Series) -> np.ndarray:
        """`encode` of a column, by a join or a binary search."""
        if not len(self) or not len(series) or series.dtype == pl.Null:
            return np.full(len(series), -1, dtype=np.int32)
        if series.dtype == pl.Boolean:  # True is not the number 1
            series = series.cast(pl.String)
        if series.dtype.is_float():  # 42.0 is 42; 42.5 is no id
            whole = series.cast(pl.Int64, strict=False)
            series = whole.set((whole != series).fill_null(True), None)
        if series.dtype in (pl.String, pl.Categorical, pl.Enum) and self.dtype.is_integer():
            series = whole_numbers(series, self.dtype)
        if len(series) > _MAX_LOOKUPS:
            return self._encode_many(series)
        series = series.cast(self.dtype, strict=False)
        is_valid = series.is_not_null().to_numpy()
        position = np.zeros(len(series), dtype=np.int64)
        if is_valid.any():
            position[is_valid] = self.values.search_sorted(series.filter(pl.Series(is_valid))).to_numpy()
        position = np.minimum(position, len(self) - 1)
        same = (self.values.gather(position) == series).fill_null(False).to_numpy()
        return np.where(same, position, -1).astype(np.int32)

    def _encode_many(self, series: pl.Series) -> np.ndarray:
        if self.dtype == pl.Int64 and series.dtype.is_signed_integer():
            low, high = int(self.values[0]), int(self.values[-1])
            if high - low < _TABLE_LIMIT:
                table = np.full(high - low + 2, -1, dtype=np.int32)
                table[self.values.to_numpy() - low] = np.arange(len(self), dtype=np.int32)
                if series.null_count():
                    series = series.cast(pl.Int64).fill_null(high + 1)
                numbers = series.to_numpy()
                inside = (numbers >= low) & (numbers <= high)
                if inside.all() and abs(low) < 2**30:
                    return table[numbers - low] if low else table[numbers]
                return table[np.where(inside, numbers.astype(np.int64) - low, -1)]
        series = series.cast(self.dtype, strict=False)
        codes = pl.DataFrame({"id": self.values, "code": np.arange(len(self), dtype=np.int32)})
        joined = pl.DataFrame({"id": series}).join(codes, on="id", how="left", maintain_order="left")
        return joined["code"].fill_null(-1).to_numpy()

    def decode(self, codes: np.ndarray) -> pl.Series:
        """Raw ids of codes; every code must lie in [0, len)."""
        codes = np.asarray(codes, dtype=np.int64)
        if len(codes) <= _MAX_INDEXED:  # indexing takes a third of the time of `gather` for few codes
            return self.values[codes]
        return self.values.gather(codes)

    def raw(self, codes: np.ndarray) -> list[Any]:
        """As `decode`, a list: for the few of one request."""
        if self._numbers is not None:
            return self._numbers[codes].tolist()
        table = self.table if self.values.dtype == pl.String else None
        texts = None if table is None else table.texts(codes)
        return self.decode(codes).to_list() if texts is None else texts


def _common(series: list[pl.Series]) -> pl.DataType | type[pl.DataType]:
    """One dtype for all ids: numbers if all are whole numbers, else text."""
    if any(s.dtype == pl.UInt64 for s in series) and all(s.dtype.is_unsigned_integer() for s in series):
        return pl.UInt64
    return pl.Int64 if all(s.dtype.is_integer() for s in series) else pl.String
