"""One table, whatever it is kept in: delimited text, Parquet, JSON Lines, a frame, or the answer to a query.

A `Table` shows a sample first (to guess roles from), then loads just the columns that are wanted. Cells that
cannot be read are never dropped: `load` says which rows they are in and `locate` where those
rows stand in the source.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import json
import mmap
import re
from collections import Counter
from collections.abc import Set
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError, MissingExtraError, nearest
from zhiyin.data.guess import name_score
from zhiyin.data.records import COMPRESSED, Count, Records, count, raw_bytes, to_utf8
from zhiyin.data.schema import ROLES

SAMPLE = 10_000
_SEPARATORS = ("::", "\t", ",", ";", "|", " ")
_NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
_HEAD = 1 << 22  # bytes looked at before a file is read
_SMALL = 100_000_000  # ids below this in the sample are expected to fit into 32 bits in the rest
_MOSTLY = 0.8  # share of numbers that makes a column of the sample one of numbers; the others may be bad cells
_FEW = 100_000  # cells that are looked up one by one
_SAVE_AGAIN = "open it in the program that wrote it and save it again as CSV, or convert it to Parquet"
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

    def load(self, columns: list[str], numeric: Set[str]) -> Loaded:
        """Load columns. A cell of a `numeric` column that is no number makes its row bad."""
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
        self.frame: pl.DataFrame = _polars(frame)
        self.name = name
        self.sample = self.frame.head(SAMPLE)

    def load(self, columns: list[str], numeric: Set[str]) -> Loaded:
        return _cast(self.frame.select(columns), numeric)

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        found = self.frame[rows].iter_rows(named=True)
        return [(row + 1, json.dumps(cells, default=str)[:500]) for row, cells in zip(rows, found)]


def _polars(frame: Any) -> pl.DataFrame:
    """A frame of any make as a Polars frame without Python objects in it."""
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if not isinstance(frame, pl.DataFrame):
        if not hasattr(frame, "columns") or not hasattr(frame, "astype"):
            raise DataError(
                f"cannot read a {type(frame).__name__}",
                remedy="give a path, a Polars or pandas frame, a list of them, or a mapping from kind to one",
            )
        mixed = {name: frame[name].map(_text, na_action="ignore") for name in frame.columns if _is_mixed(frame[name])}
        frame = pl.from_pandas(frame.assign(**mixed).rename(columns=str))
    objects = [name for name, dtype in frame.schema.items() if dtype == pl.Object]
    return frame.with_columns(pl.Series(name, list(map(_text, frame[name]))) for name in objects)


def _is_mixed(column: Any) -> bool:
    """Whether a pandas column holds Python objects of several types, which Arrow does not take."""
    return column.dtype == object and column.dropna().map(type).nunique() > 1


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


class ParquetTable(Table):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        try:
            self.sample = pl.scan_parquet(path, glob=False).head(SAMPLE).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"not a Parquet file: {error}", file=path, remedy="check how it was written") from None

    def load(self, columns: list[str], numeric: Set[str]) -> Loaded:
        return _cast(pl.scan_parquet(self.path, glob=False).select(columns).collect(), numeric)


class JsonTable(FrameTable):
    """JSON Lines, plain or compressed. A line that is no JSON object is a bad row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken: list[int] = []
        self.kept: np.ndarray | None = None
        try:
            if path.suffix in COMPRESSED:
                raise pl.exceptions.ComputeError("a closer look decompresses it once")
            frame = pl.read_ndjson(path, infer_schema_length=SAMPLE)
        except pl.exceptions.PolarsError:
            frame = self._line_by_line()
        super().__init__(frame, str(path))

    def _line_by_line(self) -> pl.DataFrame:
        """Second look at a file that Polars does not read as it stands."""
        lines = self._lines()
        if not any(lines):
            raise DataError("the file is empty", file=self.path, remedy="name a file with at least one event")
        objects = [_object(line) for line in lines]
        self.broken = [at for at, (line, found) in enumerate(zip(lines, objects)) if line and found is None]
        self.kept = np.array([at for at, found in enumerate(objects) if found is not None], dtype=np.int64)
        if not len(self.kept):
            raise DataError("no line is a JSON object", file=self.path, remedy='write one {"user": ...} a line')
        text = "\n".join(lines[at] for at in self.kept)
        try:
            return pl.read_ndjson(io.BytesIO(text.encode()), infer_schema_length=None)
        except pl.exceptions.PolarsError:  # a field that is a number here and an object there
            return _frame_of([found for found in objects if found is not None])

    def _lines(self) -> list[str]:
        content, mended = to_utf8(raw_bytes(self.path))
        if mended:
            self.notes = (f"{mended:,} lines of {self.path.name} are not UTF-8 and were read as Windows-1252",)
        return [line.strip() for line in content[:].decode("utf-8").lstrip("\ufeff").split("\n")]

    def set_aside(self) -> list[tuple[int, str, str]]:
        lines = self._lines() if self.broken else []
        return [(at + 1, "not a JSON object", lines[at][:500]) for at in self.broken]

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        lines = self._lines()
        numbers = self.kept if self.kept is not None else np.flatnonzero([bool(line) for line in lines])
        return [(int(numbers[row]) + 1, lines[int(numbers[row])][:500]) for row in rows]


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _frame_of(objects: list[dict[str, Any]]) -> pl.DataFrame:
    """A frame of objects whose fields do not agree on their types: nested ones become JSON text."""
    columns = {}
    for name in dict.fromkeys(name for found in objects for name in found):
        cells = [found.get(name) for found in objects]
        cells = [json.dumps(cell) if isinstance(cell, dict | list) else cell for cell in cells]
        columns[name] = pl.Series(name, cells, strict=False)
    return pl.DataFrame(columns)


class TextTable(Table):
    """Delimited text: CSV, TSV, "::", semicolons, bars, spaces; plain, gzip or zstd; with a header or not."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self.mapped = path.suffix not in COMPRESSED  # Polars maps a plain file itself; anything else goes as bytes
        content = self._plain(raw_bytes(path))
        head = content[:_HEAD]
        whole = len(head) == len(content)
        if not whole:
            head = head[: head.rfind(b"\n") + 1] or head
        written = head.decode("utf-8", errors="replace").lstrip("\ufeff").split("\n", 2_000)[:2_000]
        lines = [line for line in map(str.rstrip, written) if line]
        if not lines:
            raise DataError("the file is empty", file=path, remedy="name a file with at least one event")
        self.separator = _separator(lines)
        self.wide = len(self.separator) > 1
        self.cut = "\x1f" if self.wide else self.separator
        if self.wide:
            self.mapped = False
            content, head = (part[:].replace(self.separator.encode(), b"\x1f") for part in (content, head))
        self.content: bytes | mmap.mmap = content
        seen = count(head, self.cut, True)
        # Files of tabs or "::" do not quote as a rule: a quote out of place says that all of them are text.
        self.literal = self.separator not in ",;" and seen.torn > (0 if whole else seen.quoted)
        records = Records.scan(head, self.cut, not self.literal)
        full = np.flatnonzero(records.fields > 0)
        first = records.raw(int(full[0])).decode("utf-8", errors="replace").lstrip("\ufeff").rstrip("\r\n")
        cells = _cells(first, self.cut, self.literal)
        self.header = _is_header(cells, [line.split(self.separator) for line in lines[1:50]])
        if self.header and records.torn[full[0]]:
            raise DataError("a quote in the header is out of place", file=path, row=1, remedy="mend the first line")
        width = Counter(records.fields[full[:1_000]].tolist()).most_common(1)[0][0]
        self.names = _clean(cells if self.header else [""] * width)
        self.count: Count | None = None
        self.mended: bytes | mmap.mmap | None = None
        self._records: Records | None = None
        self._left_out: np.ndarray = np.zeros(0, np.int64)  # records that are no rows
        self._rows = 0  # records that are, the header among them
        if not self.header:
            self.notes = (f"{path.name} has no header; its columns are column_1, column_2, ...",)
        self.sample = self._sample(records)

    def _plain(self, content: bytes | mmap.mmap) -> bytes | mmap.mmap:
        """UTF-16 becomes UTF-8, and the line ends of old Macs become newlines."""
        head = content[:_HEAD]
        utf16 = head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        if not utf16 and (b"\n" in head or b"\r" not in head):
            return content
        self.mapped = False
        return content[:].decode("utf-16", errors="replace").encode() if utf16 else content[:].replace(b"\r", b"\n")

    def _sample(self, records: Records) -> pl.DataFrame:
        """The first rows, those that do not cut into the columns left out, each column in its own type."""
        text, _ = to_utf8(self._rewritten(records))
        quote = None if self.literal else '"'
        try:
            frame = self._scan(text[:], quote, {}).head(SAMPLE).collect()
        except pl.exceptions.PolarsError as error:
            raise DataError(f"cannot be cut into columns: {error}", file=self.path, remedy=_SAVE_AGAIN) from None
        return frame.with_columns(_typed(column, _MOSTLY) for column in frame.get_columns())

    def _scan(self, source: Path | bytes, quote: str | None, dtypes: dict[str, Any]) -> pl.LazyFrame:
        return pl.scan_csv(
            source if isinstance(source, Path) else io.BytesIO(source),
            separator=self.cut,
            has_header=False,
            skip_rows=int(self.header),
            schema={name: dtypes.get(name, pl.String) for name in self.names},
            quote_char=quote,
            null_values=_NULLS,
            ignore_errors=True,
            glob=False,
        )

    def load(self, columns: list[str], numeric: Set[str]) -> Loaded:
        if self.count is None and not self._is_healthy():
            self._mend()
        try:
            return self._load(columns, numeric)
        except pl.exceptions.PolarsError as error:
            problem = error
        if self.mended is None:
            self._mend()
            try:
                return self._load(columns, numeric)
            except pl.exceptions.PolarsError as error:
                problem = error
        raise DataError(f"cannot be cut into rows: {problem}", file=self.path, remedy=_SAVE_AGAIN)

    def _is_healthy(self) -> bool:
        """Count records and separators: whether every record is one row of the right width."""
        if not self.literal and self.content.find(b'"') < 0:
            self.literal = True
        found = count(self.content, self.cut, not self.literal)
        if found.torn and self.separator not in ",;" and found.torn > found.quoted:
            self.literal = True
            found = count(self.content, self.cut, False)
        self.count, self._rows = found, found.records
        width = len(self.names)
        return found.torn + found.loose == 0 and found.separators == found.records * (width - 1) and width > 1

    def _mend(self) -> None:
        """Second look at a file that does not read as it stands.

        Other encodings become UTF-8, rows of the wrong width and torn ones are set aside, blank lines are
        left out, and a quote inside a field is written so that Polars cannot take it for the begin of one.
        """
        self.content, mended = to_utf8(self.content)
        if mended:
            self.notes += (f"{mended:,} lines of {self.path.name} are not UTF-8 and were read as Windows-1252",)
        records = Records.scan(self.content, self.cut, not self.literal)
        self._left_out = np.flatnonzero(self._out(records))
        self._rows = len(records) - len(self._left_out)
        self.mended = self._rewritten(records)

    def _out(self, records: Records) -> np.ndarray:
        """bool[n], records that are no rows: blank, of another width, or torn."""
        return (records.fields != len(self.names)) | records.torn

    def _rewritten(self, records: Records) -> bytes:
        out = self._out(records)
        loose = np.zeros(0, np.int64) if self.literal else records.odd_quotes()
        changed = np.union1d(np.flatnonzero(out), loose)
        return records.rewrite(changed, lambda at: b"" if out[at] else _requote(records.raw(at), self.cut))

    def _load(self, columns: list[str], numeric: Set[str]) -> Loaded:
        dtypes = {c: _dtype(self.sample[c], c in numeric) for c in columns}
        frame = self._collect(dtypes)
        bad: dict[int, str] = {}
        for name in columns:
            if dtypes[name] == pl.String or not frame[name].null_count():
                continue
            rows = frame[name].is_null().arg_true()
            text = self._written(name, rows)
            if not text.is_not_null().any():
                continue
            if name not in numeric:  # an id such as "A12" among numbers: the column is text
                whole = self._collect({name: pl.String})[name].str.strip_chars()
                frame = frame.with_columns(_typed(whole.replace("", None) if (whole == "").any() else whole))
                continue
            number = text.cast(pl.Float32, strict=False)
            frame = frame.with_columns(frame[name].scatter(rows, number))
            for row, cell in zip(rows.filter(number.is_null()), text.filter(number.is_null())):
                if cell is not None:
                    bad[row] = f"{name} = {cell!r} is not a number"
        return Loaded(frame, bad)

    def _written(self, name: str, rows: pl.Series) -> pl.Series:
        """What stands in cells of a column; null where nothing does."""
        if len(rows) > _FEW:
            cells = self._collect({name: pl.String})[name].gather(rows)
        else:  # much cheaper than the column a second time
            place, where = self.names.index(name), self._places(rows.to_numpy())
            read = (self.records.raw(at).decode("utf-8", errors="replace").strip("\r\n") for at in where)
            found = [_cells(record, self.cut, self.literal)[place] for record in read]
            cells = pl.Series(name, [None if cell in _NULLS else cell for cell in found], dtype=pl.String)
        return cells.str.strip_chars().replace("", None)

    def _collect(self, dtypes: dict[str, Any]) -> pl.DataFrame:
        source: Path | bytes = self.path
        if self.mended is not None:
            source = self.mended[:]
        elif not self.mapped:
            source = self.content[:]
        scan = self._scan(source, None if self.literal else '"', dtypes)
        frame = scan.select(list(dtypes)).collect(engine="streaming")
        rows = self._rows - self.header
        if len(frame) != rows:
            raise pl.exceptions.ComputeError(f"{rows:,} rows are written, {len(frame):,} were read")
        return frame

    @property
    def records(self) -> Records:
        if self._records is None:
            self._records = Records.scan(self.content, self.cut, not self.literal)
        return self._records

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        records = self.records
        return [(int(records.lines[at]), self._raw(at)) for at in self._places(np.asarray(rows, dtype=np.int64))]

    def _places(self, rows: np.ndarray) -> list[int]:
        """The records that rows are."""
        rows = rows.astype(np.int64) + self.header
        before = self._left_out - np.arange(len(self._left_out))  # rows before each record that was left out
        return (rows + np.searchsorted(before, rows, side="right")).tolist()

    def _raw(self, record: int) -> str:
        return self.records.text(record).lstrip("\ufeff").replace("\x1f", self.separator)

    def set_aside(self) -> list[tuple[int, str, str]]:
        if not len(self._left_out):
            return []
        records, width = self.records, len(self.names)
        torn = "a quote is never closed, or closed inside its field"
        return [
            (
                int(records.lines[at]),
                torn if records.torn[at] else f"{records.fields[at]} fields, but {width} columns",
                self._raw(at),
            )
            for at in map(int, self._left_out[records.fields[self._left_out] > 0])
        ]


def _cells(record: str, cut: str, literal: bool) -> list[str]:
    return record.split(cut) if literal else next(csv.reader([record], delimiter=cut))


def _requote(record: bytes, cut: str) -> bytes:
    """A record with its fields quoted by the book."""
    out = io.StringIO()
    cells = _cells(record.decode("utf-8", errors="surrogateescape").rstrip("\r\n"), cut, False)
    csv.writer(out, delimiter=cut, lineterminator="\n").writerow(cells)
    return out.getvalue().encode("utf-8", errors="surrogateescape")


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
    """Whether a first line is a header: no number in it, and known names, numbers below, or names."""
    if any(_is_number(cell) for cell in first):
        return False
    if any(name_score(role, cell) >= 1 for role in ROLES for cell in first):
        return True
    if any(cell and cell in (row[at] for row in rows if at < len(row)) for at, cell in enumerate(first)):
        return False  # "alice,film" above "alice,book" is an event
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
    """Names of columns without quotes or endings such as ":token", each used once; numbers where none is."""
    cleaned: list[str] = []
    for at, written in enumerate(names, 1):
        name = re.sub(r":(token|token_seq|float|float_seq)$", "", written.strip().strip('"')) or f"column_{at}"
        cleaned.append(f"{name}_{at}" if name in cleaned else name)
    return cleaned


def _typed(text: pl.Series, share: float = 1.0) -> pl.Series:
    """Text as whole numbers if that share of it is, else as numbers, else as it stands; true and false, in any case of
    letters, if all of it is that. "007" is a code."""
    stripped = text.str.strip_chars()
    written = len(text) - stripped.null_count()
    words = stripped.str.to_lowercase()
    if written and words.is_in(["true", "false"]).sum() == written:
        return words == "true"
    for dtype in (pl.Int64, pl.Float64):
        numbers = stripped.cast(dtype, strict=False)
        if written and len(text) - numbers.null_count() >= share * written:
            return stripped if stripped.str.contains(r"^[+-]?0\d").any() else numbers
    return text


def _dtype(sample: pl.Series, numeric: bool) -> Any:
    """The narrowest type that should hold a column; what it cannot hold is read a second time."""
    if numeric:
        return pl.Float32
    if sample.dtype.is_integer():
        small = int(sample.abs().max() or 0) < _SMALL  # type: ignore[arg-type]
        return pl.Int32 if small else pl.Int64
    return sample.dtype


def _cast(frame: pl.DataFrame, numeric: Set[str]) -> Loaded:
    """Numeric columns that came as text become numbers; what cannot is bad."""
    bad: dict[int, str] = {}
    for name in numeric & set(frame.columns):
        before = frame[name]
        if before.dtype.is_numeric() or before.dtype == pl.Boolean:
            continue
        text = before.cast(pl.String).str.strip_chars().replace("", None)
        after = text.cast(pl.Float64, strict=False)
        _not_numbers(text, after, bad)
        frame = frame.with_columns(after)
    return Loaded(frame, bad)


def _not_numbers(text: pl.Series, number: pl.Series, bad: dict[int, str]) -> None:
    rows = (number.is_null() & text.is_not_null()).arg_true()
    for row, cell in zip(rows.to_list(), text.gather(rows).to_list()):
        bad[row] = f"{text.name} = {cell!r} is not a number"


def query_table(url: str, query: str) -> FrameTable:
    """The answer of PostgreSQL ("postgresql://...") or SQLite ("sqlite:///file.db") to a query."""
    name = re.sub(r"//[^@/]*@", "//", url)  # a password is never shown
    try:
        if url.startswith("sqlite:"):
            import sqlite3

            path = Path(url.removeprefix("sqlite:").removeprefix("//").removeprefix("/") or ":memory:")
            path = path if path.exists() else Path("/") / path
            if not path.exists():
                raise DataError(
                    "no such SQLite file", file=name, remedy="write sqlite:///relative or sqlite:////absolute"
                )
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                frame = pl.read_database(query, connection, infer_schema_length=None)
            connection.close()
            if frame.is_empty():
                raise DataError("the query gave no rows", file=name, remedy="check its conditions")
            return FrameTable(frame, name)
        try:
            import psycopg
        except ImportError:
            raise MissingExtraError("psycopg", "postgres", "reading from PostgreSQL") from None
        # A server-side cursor: the answer arrives in batches, not twice in memory.
        with psycopg.connect(url) as server, server.cursor(name="zhiyin_read") as cursor:
            cursor.execute(query.encode())
            batches = list(pl.read_database(query, cursor, iter_batches=True, batch_size=100_000))
            if not batches:
                raise DataError("the query gave no rows", file=name, remedy="check its conditions")
            return FrameTable(pl.concat(batches, how="vertical_relaxed"), name)
    except (DataError, MissingExtraError):
        raise
    except Exception as error:
        password = urlsplit(url).password
        said = str(error).replace(password, "***") if password else str(error)
        raise DataError(
            f"the query failed: {said}", file=name, remedy="check the address, the rights and the SQL"
        ) from error


def open_table(source: Any) -> Table:
    """The table behind a path or a frame."""
    if not isinstance(source, str | Path):
        return FrameTable(source)
    path = Path(source)
    if not path.exists():
        beside = sorted(other.name for other in path.parent.iterdir()) if path.parent.is_dir() else []
        close = f"; {nearest(path.name, beside)}" if get_close_matches(path.name, beside) else ""
        remedy = f"check the path; it is taken from the current directory{close}"
        raise DataError("no such file", file=path, remedy=remedy)
    inner = path.with_suffix("") if path.suffix in COMPRESSED else path
    if inner.suffix in (".parquet", ".pq"):
        return ParquetTable(path)
    if inner.suffix in JSON_ENDINGS:
        return JsonTable(path)
    return TextTable(path)
