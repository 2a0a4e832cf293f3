"""Tables whose columns have types: Polars, pandas and Arrow frames, Parquet and Arrow files, answers of queries."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.data.boolean_columns import is_boolean
from zhiyin.data.column_names import is_amount
from zhiyin.data.frame_conversion import to_polars, with_text_columns
from zhiyin.data.ids import ids_of_floats
from zhiyin.data.read_assumptions import Dialect, Findings
from zhiyin.data.table import (
    SAMPLE_ROWS,
    ColumnPlan,
    Loaded,
    Table,
    TableFormat,
    merge,
    reject_bad,
    reject_infinite,
    typed_sample,
)  # fmt: skip
from zhiyin.data.type_inference import infer_column, infer_ids, parse_numbers

_SAMPLE_SLICES = 20  # parts that a sample is taken from
_MAX_EXACT_FLOAT = 2**53  # whole numbers above share a float


class FrameTable(Table):
    """A table whose columns have types: a Polars or pandas frame, a Parquet or Arrow file, the answer to a query.

    `untyped`: columns of text whose cells are as they were written, because the source had no type for them.
    """

    untyped: frozenset[str] = frozenset()

    def __init__(
        self, frame: Any, name: str = "frame", dialect: Dialect | None = None, format: TableFormat | None = None
    ) -> None:
        self.dialect, self.findings, self.name = dialect or Dialect(), Findings(), name
        self.format = format or self.format
        self.frame: pl.DataFrame = with_text_columns(to_polars(frame, self.findings), self.findings)
        self.sample = typed_sample(_spread_rows(self.frame))

    def execute(self, columns: Sequence[ColumnPlan]) -> Loaded:
        return self._by_use(self._columns([column.name for column in columns]), columns)

    def close(self) -> None:
        self.frame = pl.DataFrame()

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        records = self.frame[rows].iter_rows(named=True)
        return [(row + 1, json.dumps(cells, default=str)[:500]) for row, cells in zip(rows, records)]

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
            if dtype.is_float() and (column.abs() > _MAX_EXACT_FLOAT).any():
                self.findings.note(f"{column.name}: ids are floats, and above 2^53 several of them may have become one")
            return ids_of_floats(column)
        if column.name in self.untyped:
            return infer_ids(column, self.dialect, self.findings)
        text = column.cast(pl.String).str.strip_chars()
        return text.set(text == "", None) if (text == "").any() else text

    def _numbers(self, column: pl.Series, bad: dict[int, str]) -> pl.Series:
        """Numbers; other cells and infinities are bad."""
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
        typed, findings = infer_column(column, self.dialect)
        if typed.dtype == pl.String:
            return column
        merge(self.findings, findings)
        return typed


class ParquetTable(FrameTable):
    """A Parquet file, of which only the columns that are wanted are read."""

    format = TableFormat("Parquet")

    def __init__(self, path: Any, dialect: Dialect | None = None) -> None:
        self.path, self.name = path, str(path)
        self.dialect, self.findings = dialect or Dialect(), Findings()
        try:
            scan = self._scan()
            self.schema = scan.collect_schema()
            self.n_rows = int(scan.select(pl.len()).collect().item())
            sample = sample_of_scan(scan, self.schema, self.n_rows)
            self.sample = typed_sample(with_text_columns(sample, self.findings))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"not a Parquet file: {error}", file=path, remedy="check how it was written") from None

    def close(self) -> None:
        """Nothing is held."""

    def _scan(self) -> pl.LazyFrame:
        """The file, with the partition columns of its folders, such as "day=2024-01-31"."""
        return pl.scan_parquet(self.path, glob=False, hive_partitioning=bool(partition_keys(self.path)))

    def _columns(self, names: list[str]) -> pl.DataFrame:
        return with_text_columns(self._scan().select(names).collect(), self.findings)

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        return [(row + 1, "") for row in rows]


class ParquetRows(ParquetTable):
    """Some rows of a Parquet file, to be read by a plan that was made for the whole of it.

    Parameters
    ----------
    start, n_rows: position of the first row, and number of rows.
    """

    def __init__(self, path: Any, dialect: Dialect, start: int, n_rows: int) -> None:
        self.path, self.name, self.dialect, self.findings = path, str(path), dialect, Findings()
        self.start, self.n_rows = start, n_rows

    def _scan(self) -> pl.LazyFrame:
        return super()._scan().slice(self.start, self.n_rows)

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        return [(self.start + row + 1, "") for row in rows]


def partition_keys(path: Any) -> list[str]:
    """Partition columns in the names of the folders of a file: "day" of ".../day=2024-01-31/part-0.parquet"."""
    parts = Path(path).parts[:-1]
    return [part.partition("=")[0] for part in parts if re.fullmatch(r"[A-Za-z_]\w*=.+", part)]


def _spread_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows from all over a frame, and some where a column that is empty in them is not."""
    if len(frame) <= SAMPLE_ROWS:
        return frame
    size = SAMPLE_ROWS // _SAMPLE_SLICES
    step = (len(frame) - size) / (_SAMPLE_SLICES - 1)
    parts = [frame.slice(int(at * step), size) for at in range(_SAMPLE_SLICES)]
    sample = pl.concat(parts)
    for name in sample.columns:
        if sample[name].null_count() == len(sample) and frame[name].null_count() < len(frame):
            sample = sample.vstack(frame.filter(pl.col(name).is_not_null()).head(size))
    return sample


def sample_of_scan(scan: pl.LazyFrame, schema: pl.Schema, rows: int) -> pl.DataFrame:
    """As `_spread_rows`, of a file."""
    if rows <= SAMPLE_ROWS:
        return scan.collect()
    size = SAMPLE_ROWS // _SAMPLE_SLICES
    step = (rows - size) / (_SAMPLE_SLICES - 1)
    sample = pl.concat(pl.collect_all([scan.slice(int(at * step), size) for at in range(_SAMPLE_SLICES)]))
    for name in schema:
        if sample[name].null_count() == len(sample):
            sample = sample.vstack(scan.filter(pl.col(name).is_not_null()).head(size).collect())
    return sample
