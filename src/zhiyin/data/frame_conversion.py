"""Frames of any library as Polars frames."""

from __future__ import annotations

import datetime as dt
import decimal
import warnings
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.data.read_assumptions import Findings

_KNOWN_TO_ARROW = {
    str, int, float, bool, bytes, list, dict, np.ndarray, decimal.Decimal, dt.date, dt.datetime, dt.time, dt.timedelta,
}  # fmt: skip


def to_polars(frame: Any, findings: Findings) -> pl.DataFrame:
    """A frame of any library as a Polars frame; columns of Python objects become text."""
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if hasattr(frame, "__arrow_c_stream__") and not hasattr(frame, "astype"):  # a table of PyArrow, DuckDB and others
        frame = pl.DataFrame(frame)
    if not isinstance(frame, pl.DataFrame):
        if not hasattr(frame, "columns") or not hasattr(frame, "astype"):
            raise DataError(
                f"cannot read a {type(frame).__name__}",
                remedy="give a path, a Polars or pandas frame, a list of them, or a mapping from kind to one",
            )
        frame = _from_pandas(frame, findings)
    objects = [name for name, dtype in frame.schema.items() if dtype == pl.Object]
    note_objects(objects, findings)
    return frame.with_columns(pl.Series(name, list(map(_text, frame[name]))) for name in objects)


def note_objects(columns: list[str], findings: Findings) -> None:
    """Note which columns are read as text because they hold objects."""
    if columns:
        findings.note(f"read as text: {', '.join(columns)}, which hold objects of Python")


def with_text_columns(frame: pl.DataFrame, findings: Findings) -> pl.DataFrame:
    """A frame whose columns of bytes are text where they are in UTF-8, as older writers of Parquet keep text."""
    for name in [name for name, dtype in frame.schema.items() if dtype == pl.Binary]:
        try:
            frame = frame.with_columns(pl.col(name).cast(pl.String))
            findings.note(f"{name}: bytes are read as text")
        except pl.exceptions.PolarsError:
            continue
    return frame


def _from_pandas(frame: Any, findings: Findings) -> pl.DataFrame:
    """A pandas frame, its named index included; columns of types that Polars has no counterpart for become text."""
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
        findings.note("the index of the frame is read as columns")
    columns: dict[str, pl.Series] = {}
    for at, label in enumerate(frame.columns):
        column = frame.iloc[:, at]
        name = " ".join(map(str, label)).strip() if isinstance(label, tuple) else str(label)
        if name in columns:
            fresh = f"{name}_{at + 1}"
            findings.note(f"there are two columns {name!r}; the second is read as {fresh!r}")
            name = fresh
        columns[name] = _pandas_column(column).alias(name)
    return pl.DataFrame(columns)


def _pandas_column(column: Any) -> pl.Series:
    if type(column.dtype).__name__ == "SparseDtype":
        column = column.sparse.to_dense()
    values = column.cat.categories if type(column.dtype).__name__ == "CategoricalDtype" else column
    if type(values.dtype).__name__ == "PeriodDtype":
        column = column.astype(values.dtype).dt.to_timestamp()
    elif type(values.dtype).__name__ == "IntervalDtype":
        column = column.astype(str).mask(column.isna())
    if column.dtype == object:
        kinds = set(column.dropna().map(type))
        if len(kinds) > 1 or not kinds <= _KNOWN_TO_ARROW:  # Arrow takes no column of several types
            column = column.map(_text, na_action="ignore")
    try:
        series = pl.Series(pl.from_pandas(column))
        return series.ext.storage() if isinstance(series.dtype, getattr(pl, "BaseExtension", ())) else series
    except Exception:  # periods, intervals, complex numbers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pl.Series([None if cell is None or cell != cell else str(cell) for cell in column], dtype=pl.String)


def _text(value: Any) -> str | None:
    """A Python object as text; 2.0 is "2", as an id that is a whole number elsewhere in its column."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)
