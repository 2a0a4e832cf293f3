"""Types of columns of a catalogue: descriptions, Polars types, kinds, and the type of a column."""

from __future__ import annotations

import re
from typing import Any

import polars as pl

from zhiyin.data.type_names import DESCRIPTIONS, VECTOR

# A text column of the catalogue holds several values where at least this share of its texts has a bar.
PIPED_SHARE = 0.01
_TITLES = re.compile(r"(.*[ _])?(title|name|product|description)|.*title.*", re.IGNORECASE)
_KINDS = {"int": "number", "date": "time", "piped": "texts", "vector": "numbers"}
UTC_DTYPE = pl.Datetime("us", "UTC")
DTYPES: dict[str, pl.DataType] = {
    "bool": pl.Boolean(), "int": pl.Int64(), "number": pl.Float64(), "text": pl.String(), "date": pl.Date(),
    "time": UTC_DTYPE, "texts": pl.List(pl.String()), "piped": pl.String(), "numbers": pl.List(pl.Float64()),
    "vector": pl.List(pl.Float64()),
}  # fmt: skip


def base_of(type: str) -> str:
    """A type without its width: "vector" of "vector(64)"."""
    return type.partition("(")[0]


def describe(type: str) -> str:
    """What a column of a type holds, in words."""
    match = VECTOR.fullmatch(type)
    return f"a list of {match[1]} numbers" if match and match[1] else DESCRIPTIONS[base_of(type)]


def dtype_of(type: str) -> pl.DataType:
    """The Polars type that columns of a type are held as; numbers without a fraction are held as Int64."""
    return DTYPES[base_of(type)]


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
