"""One table, whatever it is kept in: delimited text, Parquet, JSON Lines, a frame, or the answer to a SQL query.

A `Table` shows a sample first (to guess roles from), then loads just the columns that are wanted. Cells that cannot be
read are never dropped: `load` says which rows they are in and `locate` says where those rows stand in the source.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections import Counter
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError, MissingExtraError
from zhiyin.data.records import Records, raw_bytes, to_utf8

SAMPLE = 10_000
_SEPARATORS = ("::", "\t", ",", ";", "|", " ")
_NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
_COMPRESSED = (".gz", ".zst", ".zstd")
TEXT_ENDINGS = (".csv", ".tsv", ".dat", ".data", ".txt", ".inter", ".item", ".user")
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
ENDINGS = (*TEXT_ENDINGS, *JSON_ENDINGS, ".parquet", ".pq")


@dataclasses.dataclass
class Loaded:
    """Columns of a table, and the rows (positions) whose cell could not be read, by reason."""

    frame: pl.DataFrame
    bad: dict[int, str]


class Table:
    """Any source of rows. Subclasses fill `name`, `sample` and `load`."""

    name: str
    sample: pl.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        return self.sample.columns

    def load(self, columns: list[str], numeric: Set[str], textual: Set[str] = frozenset()) -> Loaded:
        """Load columns. A cell of a `numeric` column that is no number makes its row bad; `textual` ones stay text."""
        raise NotImplementedError

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        """(line from 1, raw text) of rows."""
        return [(row + 1, "") for row in rows]

    def set_aside(self) -> list[tuple[int, str, str]]:
        """(line, reason, raw text) of rows that could not even be cut into columns."""
        return []


class FrameTable(Table):
    """A Polars or pandas frame, or the answer to a query."""

    def __init__(self, frame: Any, name: str = "frame") -> None:
        if isinstance(frame, pl.LazyFrame):
            frame = frame.collect()
        if not isinstance(frame, pl.DataFrame):
            frame = pl.from_pandas(frame)
        self.frame: pl.DataFrame = frame
        self.name = name
        self.sample = frame.head(SAMPLE)

    def load(self, columns: list[str], numeric: Set[str], textual: Set[str] = frozenset()) -> Loaded:
        return _cast(self.frame.select(columns), numeric)

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        return [(row + 1, json.dumps(self.frame.row(row, named=True), default=str)[:500]) for row in rows]


class ParquetTable(Table):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self.sample = pl.scan_parquet(path).head(SAMPLE).collect()

    def load(self, columns: list[str], numeric: Set[str], textual: Set[str] = frozenset()) -> Loaded:
        return _cast(pl.read_parquet(self.path, columns=columns).select(columns), numeric)


class JsonTable(FrameTable):
    """JSON Lines, plain or compressed. A line that is no JSON object is a bad row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken: list[int] = []
        lines = None
        plain = path.suffix not in _COMPRESSED
        try:
            if not plain:
                raise pl.exceptions.ComputeError("compressed")
            frame = pl.read_ndjson(path, infer_schema_length=SAMPLE)
        except pl.exceptions.PolarsError:
            lines = _lines(path)
            text = lines.str.strip_chars()
            good = np.array([_is_object(line) for line in text.to_list()])
            self.broken = [int(i) for i in np.flatnonzero(~good & (text != "").fill_null(False).to_numpy())]
            if not good.any():
                raise DataError("no line is a JSON object", file=path, remedy='write one {"user": ...} a line') from None
            self.kept = np.flatnonzero(good)
            joined = "\n".join(text.filter(pl.Series(good)).to_list()).encode()
            frame = pl.read_ndjson(io.BytesIO(joined), infer_schema_length=None)
        super().__init__(frame, str(path))
        self.lines = lines if self.broken else None

    def set_aside(self) -> list[tuple[int, str, str]]:
        lines = self.lines if self.lines is not None else []
        return [(at + 1, "not a JSON object", str(lines[at])[:500]) for at in self.broken]

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        lines = _lines(self.path)
        numbers = getattr(self, "kept", np.arange(len(lines)))
        return [(int(numbers[row]) + 1, str(lines[int(numbers[row])])[:500]) for row in rows]


def _is_object(line: str | None) -> bool:
    try:
        return isinstance(json.loads(line or ""), dict)
    except ValueError:
        return False


def _lines(path: Path, n: int | None = None) -> pl.Series:
    """The file's lines, decompressed, blank ones as null."""
    try:
        frame = pl.read_csv(
            path, separator="\x01", quote_char=None, has_header=False, infer_schema=False, n_rows=n,
            encoding="utf8-lossy", truncate_ragged_lines=True,
        )  # fmt: skip
    except pl.exceptions.NoDataError:
        raise DataError("the file is empty", file=path, remedy="name a file with at least one event") from None
    return frame.to_series(0)


class TextTable(Table):
    """Delimited text: CSV, TSV, "::", semicolons, bars or spaces; plain, gzip or zstd; with or without a header."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        lines = _lines(path, 2_000).drop_nulls().to_list()
        if not lines:
            raise DataError("the file is empty", file=path, remedy="name a file with at least one event")
        self.separator = _separator(lines)
        self.wide = len(self.separator) > 1
        self.quote = '"' if any('"' in line for line in lines) or not self.wide else None
        first = _clean(lines[0].split(self.separator))
        self.header = _is_header(first, [line.split(self.separator) for line in lines[1:50]])
        self.mended: bytes | None = None
        self.ragged: np.ndarray = np.zeros(0, np.int64)
        self._records: Records | None = None
        try:
            self.sample = self._scan(infer_schema_length=SAMPLE).head(SAMPLE).collect()
        except pl.exceptions.PolarsError:
            self._mend()
            self.sample = self._scan(infer_schema_length=SAMPLE).head(SAMPLE).collect()
        self.notes = () if self.header else (f"{path.name} has no header; columns are numbered",)

    def _scan(self, **options: Any) -> pl.LazyFrame:
        source: Any = self.path
        if self.wide and self.mended is None:
            self.mended = bytes(raw_bytes(self.path))
        if self.mended is not None:
            text = self.mended.replace(self.separator.encode(), b"\x1f") if self.wide else self.mended
            source = io.BytesIO(text)
        return pl.scan_csv(
            source,
            separator="\x1f" if self.wide else self.separator,
            has_header=self.header,
            quote_char=self.quote,
            null_values=_NULLS,
            with_column_names=_clean,
            missing_columns="insert",
            glob=False,
            **options,
        )

    def _mend(self) -> None:
        """Second look at a file that does not read: other encodings become UTF-8, rows with extra fields are set aside."""
        content, mended = to_utf8(raw_bytes(self.path))
        if mended:
            self.notes += (f"{mended} lines of {self.path.name} are not UTF-8 and were read as Windows-1252",)
        records = self._records = Records.scan(content.replace(b"::", b"\x1f") if self.wide else content, self._cut())
        width = Counter(records.fields[:1000].tolist()).most_common(1)[0][0]
        self.ragged = np.flatnonzero(records.fields > (records.fields[0] if self.header else width))
        self.mended = records.without(self.ragged).replace(b"\x1f", b"::" if self.wide else b"\x1f")
        self._good = np.setdiff1d(np.arange(len(records)), self.ragged)

    def _cut(self) -> str:
        return "\x1f" if self.wide else self.separator

    def load(self, columns: list[str], numeric: Set[str], textual: Set[str] = frozenset()) -> Loaded:
        dtypes = {c: _dtype(self.sample[c], c in numeric, c in textual) for c in columns}
        try:
            frame = self._collect(dtypes)
        except pl.exceptions.PolarsError:
            if self.mended is not None and self._records is not None:
                raise
            self._mend()
            frame = self._collect(dtypes)
        doubtful = {c: pl.String for c in columns if frame[c].null_count() and dtypes[c] != pl.String}
        bad: dict[int, str] = {}
        if doubtful:
            written = self._collect(doubtful)
            for column in doubtful:
                unread = (frame[column].is_null() & written[column].is_not_null()).arg_true().to_list()
                if unread and column not in numeric:  # an id such as "A12" among numbers: the column is text
                    frame = frame.with_columns(written[column])
                    continue
                for row in unread:
                    bad[row] = f"{column} = {written[column][row]!r} is not a number"
        return Loaded(frame, bad)

    def _collect(self, dtypes: dict[str, Any]) -> pl.DataFrame:
        scan = self._scan(schema_overrides=dtypes, infer_schema_length=1, ignore_errors=True)
        return scan.select(list(dtypes)).collect(engine="streaming")

    @property
    def records(self) -> Records:
        if self._records is None:
            content = self.mended if self.mended is not None else raw_bytes(self.path)
            if self.wide:
                content = bytes(content).replace(self.separator.encode(), b"\x1f")
            self._records = Records.scan(content, self._cut(), self.quote is not None)
            self._good = np.arange(len(self._records))
        return self._records

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        records, shift = self.records, int(self.header)
        where = [int(self._good[row + shift]) for row in rows]
        return [(int(records.lines[at]), self._raw(at)) for at in where]

    def _raw(self, record: int) -> str:
        return self.records.text(record).replace("\x1f", self.separator)

    def set_aside(self) -> list[tuple[int, str, str]]:
        width = len(self.columns)
        return [
            (int(self.records.lines[at]), f"{self.records.fields[at]} fields, but {width} columns", self._raw(at))
            for at in map(int, self.ragged)
        ]


def _separator(lines: list[str]) -> str:
    """The separator that cuts the lines most evenly, longer rows preferred; one column when none does."""
    best, best_score = ",", (0.0, 0)
    for separator in _SEPARATORS:
        counts = Counter(_outside_quotes(line).count(separator) for line in lines[:200])
        count, lines_with = counts.most_common(1)[0]
        if separator == " " and best_score[0] > 0.5:
            continue
        score = (lines_with / min(len(lines), 200), count)
        if count and score > best_score:
            best, best_score = separator, score
            if separator == "::":
                break
    return best


def _outside_quotes(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def _is_header(first: list[str], rows: list[list[str]]) -> bool:
    """A first line is a header when it has no number and either the rows below have some or its cells look like names."""
    if any(_is_number(cell) for cell in first):
        return False
    numbers_below = any(_is_number(cell) for row in rows for cell in row)
    names = all(re.fullmatch(r"[A-Za-z_\u4e00-\u9fff][\w .:/\-\u4e00-\u9fff]*|", cell.strip('"')) for cell in first)
    return numbers_below or names


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().strip('"'))
    except ValueError:
        return False
    return cell.strip().lower() not in ("nan", "inf", "infinity")


def _clean(names: list[str]) -> list[str]:
    """Column names without byte-order mark, quotes or typed endings such as ":token"."""
    cleaned = [re.sub(r":(token|token_seq|float|float_seq)$", "", n.lstrip("\ufeff").strip().strip('"')) for n in names]
    return [re.sub(r"^column_\d+$", "", name) or f"column_{i + 1}" for i, name in enumerate(cleaned)]


def _dtype(sample: pl.Series, numeric: bool, textual: bool) -> Any:
    if textual:
        return pl.String
    if sample.dtype.is_integer():
        return pl.Int64
    if sample.dtype.is_float() or numeric:
        return pl.Float64
    return pl.String if sample.dtype == pl.Null else sample.dtype


def _cast(frame: pl.DataFrame, numeric: Set[str]) -> Loaded:
    """Numeric columns that came as text become numbers; what cannot is bad."""
    bad: dict[int, str] = {}
    for column in numeric & set(frame.columns):
        before = frame[column]
        if before.dtype.is_numeric() or before.dtype == pl.Boolean:
            continue
        after = before.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
        for row in (after.is_null() & before.is_not_null()).arg_true().to_list():
            bad[row] = f"{column} = {before[row]!r} is not a number"
        frame = frame.with_columns(after)
    return Loaded(frame, bad)


def query_table(url: str, query: str) -> FrameTable:
    """The answer of PostgreSQL ("postgresql://...") or SQLite ("sqlite:///file.db") to a query."""
    name = re.sub(r"//[^@/]*@", "//", url)  # a password is never shown
    try:
        if url.startswith("sqlite:"):
            import sqlite3

            path = Path(url.removeprefix("sqlite:").removeprefix("//").removeprefix("/") or ":memory:")
            path = path if path.exists() else Path("/") / path
            if not path.exists():
                raise DataError("no such SQLite file", file=name, remedy="write sqlite:///relative or sqlite:////absolute")
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                return FrameTable(pl.read_database(query, connection, infer_schema_length=None), name)
        try:
            import psycopg
        except ImportError:
            raise MissingExtraError("psycopg", "postgres", "reading from PostgreSQL") from None
        with psycopg.connect(url) as connection:
            # A server-side cursor: the answer arrives in batches, not twice in memory.
            with connection.cursor(name="zhiyin_read") as cursor:
                cursor.execute(query.encode())
                batches = pl.read_database(query, cursor, iter_batches=True, batch_size=100_000)  # type: ignore[call-overload]
                return FrameTable(pl.concat(list(batches), how="vertical_relaxed"), name)
    except (DataError, MissingExtraError):
        raise
    except Exception as error:
        raise DataError(f"the query failed: {error}", file=name, remedy="check the address, the rights and the SQL") from error


def open_table(source: Any) -> Table:
    """The table behind a path or a frame."""
    if not isinstance(source, str | Path):
        return FrameTable(source)
    path = Path(source)
    if not path.exists():
        raise DataError("no such file", file=path, remedy="check the path; it is taken from the current directory")
    inner = path.with_suffix("") if path.suffix in _COMPRESSED else path
    if inner.suffix in (".parquet", ".pq"):
        return ParquetTable(path)
    if inner.suffix in JSON_ENDINGS:
        return JsonTable(path)
    return TextTable(path)
