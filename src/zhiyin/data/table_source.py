"""One table, whatever it is kept in.

A `Table` shows a sample from all over it (to guess roles from), then loads just the columns that are wanted, each for
a use: as ids, numbers, times, text, or as whatever its cells are. Cells that cannot be read are never dropped: `load`
says which rows they are in and `locate` where those rows stand in the source.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.data.booleans import is_boolean
from zhiyin.data.dialect import Dialect, Findings
from zhiyin.data.ids import ids_of_floats
from zhiyin.data.role_inference import is_amount
from zhiyin.data.type_inference import infer_column, infer_ids, parse_numbers

SAMPLE = 10_000
_SLICES = 20  # parts that a sample is taken from
Use = Literal["id", "number", "time", "text", "any"]


@dataclasses.dataclass
class Loaded:
    """Columns of a table, and the rows (positions) whose cell could not be read, by reason."""

    frame: pl.DataFrame
    bad: dict[int, str]


class Table:
    """Any source of rows. Subclasses fill `name`, `sample` and `load`; `findings` grows while it is read."""

    name: str
    sample: pl.DataFrame
    findings: Findings

    @property
    def columns(self) -> list[str]:
        return self.sample.columns

    def load(self, columns: Mapping[str, Use]) -> Loaded:
        """Load columns by their use: ids as Int64 or text, numbers as floats, times and text as they are written, any
        as booleans, numbers or text. A cell of a number that is none makes its row bad."""
        raise NotImplementedError

    def _by_use(self, frame: pl.DataFrame, columns: Mapping[str, Use]) -> Loaded:
        """Columns of a frame, each by its use."""
        bad: dict[int, str] = {}
        made = []
        for name, use in columns.items():
            column = frame[name]
            if use == "id":
                column = self._ids(column)
            elif use == "number":
                column = self._numbers(column, bad)
            elif use == "any":
                column = self._described(column)
            elif use == "time":
                column = self._moments(column)
            made.append(column.alias(name))
        return Loaded(pl.DataFrame(made), bad)

    def _ids(self, column: pl.Series) -> pl.Series:
        raise NotImplementedError

    def _numbers(self, column: pl.Series, bad: dict[int, str]) -> pl.Series:
        raise NotImplementedError

    def _described(self, column: pl.Series) -> pl.Series:
        raise NotImplementedError

    def _moments(self, column: pl.Series) -> pl.Series:
        return column

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        """(line from 1, raw text) of rows."""
        return [(row + 1, "") for row in rows]

    def set_aside(self) -> list[tuple[int, str, str]]:
        """(line, reason, raw text) of rows that could not even be cut into columns."""
        return []


class FrameTable(Table):
    """A table whose columns have types: a Polars or pandas frame, a Parquet or Arrow file, the answer to a query.

    `untyped`: columns of text whose cells are as they were written, because the source had no type for them.
    """

    untyped: frozenset[str] = frozenset()

    def __init__(self, frame: Any, name: str = "frame", dialect: Dialect | None = None) -> None:
        self.dialect, self.findings, self.name = dialect or Dialect(), Findings(), name
        self.frame: pl.DataFrame = _with_text(_polars(frame, self.findings), self.findings)
        self.sample = typed_sample(_spread_rows(self.frame))

    def load(self, columns: Mapping[str, Use]) -> Loaded:
        return self._by_use(self._columns(list(columns)), columns)

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        found = self.frame[rows].iter_rows(named=True)
        return [(row + 1, json.dumps(cells, default=str)[:500]) for row, cells in zip(rows, found)]

    def _columns(self, names: list[str]) -> pl.DataFrame:
        return self.frame.select(names)

    def _ids(self, column: pl.Series) -> pl.Series:
        dtype = column.dtype
        if dtype.is_nested() or dtype == pl.Binary:
            what = "bytes that are no text" if dtype == pl.Binary else "lists or objects"
            raise DataError(
                f"ids must be text or numbers, and these are {what}",
                file=self.name,
                column=column.name,
                remedy="name a plain column, or take the id out of the object first",
            )
        if dtype == pl.UInt64 or dtype in (pl.Int128, pl.UInt128):
            whole = column.cast(pl.Int64, strict=False)
            return whole if whole.null_count() == column.null_count() else column.cast(pl.String)
        if dtype.is_integer():
            return column
        if dtype.is_float() or dtype.is_decimal():
            if dtype.is_float() and (column.abs() > 2**53).any():
                self.findings.note(f"{column.name}: ids are floats, and above 2^53 several of them may have become one")
            return ids_of_floats(column)
        if column.name in self.untyped:
            return infer_ids(column, self.dialect, self.findings)
        text = column.cast(pl.String).str.strip_chars()
        return text.set(text == "", None) if (text == "").any() else text

    def _numbers(self, column: pl.Series, bad: dict[int, str]) -> pl.Series:
        """Numbers; what is none is bad, infinities too."""
        dtype = column.dtype
        if dtype == pl.Duration:
            return column.dt.total_microseconds() / 1e6
        if dtype.is_numeric() or dtype == pl.Boolean:
            number = column.cast(pl.Float64, strict=False)
            reject_infinite(number, column, bad)
            return number
        if dtype.is_nested() or dtype.is_temporal() or dtype == pl.Binary:
            raise DataError("this column holds no numbers", file=self.name, column=column.name, remedy="name another")
        text = column.cast(pl.String)
        numbers = parse_numbers(text, self.dialect)
        merge(self.findings, numbers.findings)
        reject_bad(text, numbers.bad, bad)
        return numbers.values

    def _described(self, column: pl.Series) -> pl.Series:
        """A column that describes, with types that later stages know. Text becomes numbers or booleans where its cells
        are, and it was untyped or its name is that of an amount."""
        dtype = column.dtype
        if dtype == pl.Duration:
            self.findings.note(f"{column.name}: durations are read as seconds")
            return column.dt.total_microseconds() / 1e6
        if dtype in (pl.Time, pl.Int128, pl.UInt128):
            return column.cast(pl.String)
        if dtype == pl.Binary:
            self.findings.note(f"{column.name}: bytes are no text, and left out")
            return pl.repeat(None, len(column), dtype=pl.String, eager=True)
        if dtype != pl.String:
            return column
        filled = column.drop_nulls()
        flags = bool(len(filled)) and is_boolean(filled.head(1_000).str.strip_chars())
        if not (flags or column.name in self.untyped or is_amount(column.name)):
            return column
        found, findings = infer_column(column, self.dialect)
        if found.dtype == pl.String:
            return column
        merge(self.findings, findings)
        return found


class ParquetTable(FrameTable):
    """A Parquet file, of which only the columns that are wanted are read."""

    def __init__(self, path: Any, dialect: Dialect | None = None) -> None:
        self.path, self.name = path, str(path)
        self.dialect, self.findings = dialect or Dialect(), Findings()
        try:
            scan = self._scan()
            schema = scan.collect_schema()
            rows = int(scan.select(pl.len()).collect().item())
            self.sample = typed_sample(_with_text(_sample_of_scan(scan, schema, rows), self.findings))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"not a Parquet file: {error}", file=path, remedy="check how it was written") from None

    def _scan(self) -> pl.LazyFrame:
        """The file, with the columns that folders around it such as "day=2024-01-31" stand for."""
        return pl.scan_parquet(self.path, glob=False, hive_partitioning=bool(partition_keys(self.path)))

    def _columns(self, names: list[str]) -> pl.DataFrame:
        return _with_text(self._scan().select(names).collect(), self.findings)

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        return [(row + 1, "") for row in rows]


def partition_keys(path: Any) -> list[str]:
    """Columns that the names of the folders around a file stand for: "day" of ".../day=2024-01-31/part-0.parquet"."""
    parts = Path(path).parts[:-1]
    return [part.partition("=")[0] for part in parts if re.fullmatch(r"[A-Za-z_]\w*=.+", part)]


def typed_sample(sample: pl.DataFrame) -> pl.DataFrame:
    """A sample whose text has the types that its cells have, mostly."""
    return sample.with_columns(
        infer_column(column, sample=True)[0].alias(column.name)
        for column in sample.get_columns()
        if column.dtype == pl.String
    )


def merge(findings: Findings, more: Findings) -> None:
    """Add what another stage decided."""
    for sentence in more.notes:
        findings.note(sentence)
    for key, value in more.assumed.items():
        findings.record(key, value)
    for key in more.disputed:
        findings.dispute(key)


def reject_bad(text: pl.Series, wrong: pl.Series, bad: dict[int, str]) -> None:
    """Note rows whose text is no number."""
    rows = wrong.arg_true()
    for row, cell in zip(rows.to_list(), text.gather(rows).to_list()):
        bad.setdefault(row, f"{text.name} = {cell!r} is not a number")


def reject_infinite(number: pl.Series, written: pl.Series, bad: dict[int, str]) -> None:
    """Note rows whose number is infinite."""
    rows = number.is_infinite().fill_null(False).arg_true()
    for row, cell in zip(rows.to_list(), written.gather(rows).to_list()):
        bad.setdefault(row, f"{written.name} = {cell!r} is not a number")


def _spread_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows from all over a frame, and some where a column that is empty in them is not."""
    if len(frame) <= SAMPLE:
        return frame
    size = SAMPLE // _SLICES
    step = (len(frame) - size) / (_SLICES - 1)
    parts = [frame.slice(int(at * step), size) for at in range(_SLICES)]
    sample = pl.concat(parts)
    for name in sample.columns:
        if sample[name].null_count() == len(sample) and frame[name].null_count() < len(frame):
            sample = sample.vstack(frame.filter(pl.col(name).is_not_null()).head(size))
    return sample


def _sample_of_scan(scan: pl.LazyFrame, schema: pl.Schema, rows: int) -> pl.DataFrame:
    """As `_spread_rows`, of a file."""
    if rows <= SAMPLE:
        return scan.collect()
    size = SAMPLE // _SLICES
    step = (rows - size) / (_SLICES - 1)
    sample = pl.concat(pl.collect_all([scan.slice(int(at * step), size) for at in range(_SLICES)]))
    for name in schema:
        if sample[name].null_count() == len(sample):
            sample = sample.vstack(scan.filter(pl.col(name).is_not_null()).head(size).collect())
    return sample


def _polars(frame: Any, findings: Findings) -> pl.DataFrame:
    """A frame of any make as a Polars frame without Python objects in it."""
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
    if objects:
        findings.note(f"read as text: {', '.join(objects)}, which hold objects of Python")
    return frame.with_columns(pl.Series(name, list(map(_text, frame[name]))) for name in objects)


def _with_text(frame: pl.DataFrame, findings: Findings) -> pl.DataFrame:
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
        made = pl.Series(pl.from_pandas(column))
        return made.ext.storage() if isinstance(made.dtype, getattr(pl, "BaseExtension", ())) else made
    except Exception:  # periods, intervals, complex numbers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pl.Series([None if cell is None or cell != cell else str(cell) for cell in column], dtype=pl.String)


_KNOWN_TO_ARROW = {
    str, int, float, bool, bytes, list, dict, np.ndarray, decimal.Decimal, dt.date, dt.datetime, dt.time, dt.timedelta,
}  # fmt: skip


def _text(value: Any) -> str | None:
    """A Python object as text; 2.0 is "2", as an id that is a whole number elsewhere in its column."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)
