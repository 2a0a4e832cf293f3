"""Delimited text: CSV, TSV, "::", semicolons, bars, spaces; of any encoding; with a header or not.

A healthy file is mapped and read by Polars as it stands, each column in the narrowest type that its sample fits. What
that type cannot hold comes back as null and is looked up as it is written, so a column is what all of its cells say.
"""

from __future__ import annotations

import codecs
import csv
import io
import mmap
import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.data.csv_records import Count, Records, count, has_leading_zeros
from zhiyin.data.dialect import Dialect, Findings
from zhiyin.data.encodings import NAMES, Decoded, to_utf8
from zhiyin.data.event_schema import beyond_values
from zhiyin.data.file_formats import raw_bytes
from zhiyin.data.header_detection import declared_separator, find_header, guess_separator, is_padded
from zhiyin.data.table_source import SAMPLE, Loaded, Table, Use, merge, reject_bad, typed_sample
from zhiyin.data.type_inference import LEADING_ZERO, infer_column, infer_ids, parse_numbers

_HEAD = 1 << 22  # bytes looked at before a file is read
_BLOCKS, _BLOCK = 40, 1 << 15  # and of so many blocks from the rest of it
_SMALL = 100_000_000  # ids below this in the sample are expected to fit into 32 bits in the rest
_FEW = 100_000  # cells that are looked up one by one
_COLUMNS = 5_000
_SAVE_AGAIN = "open it in the program that wrote it and save it again as CSV, or convert it to Parquet"
_PLAIN_INT = r"^(?:0|-?[1-9]\d*)$"
_TORN = "a quote is never closed, or closed inside its field"
_NUL = "a NUL byte stands in it"
_HEADER_AGAIN = "the header once more"
csv.field_size_limit(1 << 27)


class TextTable(Table):
    """Delimited text; see the module docstring."""

    def __init__(self, path: Path, dialect: Dialect | None = None, content: bytes | mmap.mmap | None = None) -> None:
        self.path, self.name = path, str(path)
        self.dialect, self.findings = dialect or Dialect(), Findings()
        content = raw_bytes(path) if content is None else content
        self.mapped = isinstance(content, mmap.mmap)  # Polars maps a plain file itself; anything else goes as bytes
        content = self._as_text(content)
        head = content[:_HEAD]
        whole = len(head) == len(content)
        if not whole:
            head = head[: head.rfind(b"\n") + 1] or head
        written = head.decode("utf-8", errors="replace").lstrip("\ufeff").split("\n", 2_000)[:2_000]
        lines = [line for line in map(str.rstrip, written) if line]
        if not lines:
            raise DataError("the file is empty", file=path, remedy="name a file with at least one event")
        declared = declared_separator(lines[0])
        if declared is not None:
            lines = lines[1:]
            if not lines:
                raise _no_rows(path)
        self.separator = self.dialect.separator or declared or guess_separator(lines)
        if self.separator == " " and is_padded(lines) and b'"' not in head:
            self.mapped = False
            self.findings.note("the columns are padded with blanks: several blanks are read as one")
            content, head = (re.sub(rb"(?m)^ +| +(?= |\r?$)", b"", part[:]) for part in (content, head))
        self.wide = len(self.separator.encode()) > 1
        self.cut = "\x1f" if self.wide else self.separator
        if self.wide:
            self.mapped = False
            content, head = (part[:].replace(self.separator.encode(), b"\x1f") for part in (content, head))
        self.content: bytes | mmap.mmap = content
        seen = count(head, self.cut, True)
        # Files of tabs or "::" do not quote as a rule: a quote out of place says that all of them are text.
        self.literal = self.separator not in ",;" and seen.torn > (0 if whole else seen.quoted)
        self.count: Count | None = None
        self.mended: bytes | None = None
        self._records: Records | None = None
        self._left_out: np.ndarray = np.zeros(0, np.int64)  # records that are no rows
        self._rows = 0  # records that are, the header among them
        records = Records.scan(head, self.cut, not self.literal)
        self._settle_header(records, declared is not None)
        self._written = self._sample(records, whole)
        if not len(self._written):
            self._refuse_rows(records)
        self.sample = typed_sample(self._written)

    # The shape of the file

    def _as_text(self, content: bytes | mmap.mmap) -> bytes | mmap.mmap:
        """Content in UTF-8 with newlines. Raises DataError for bytes that are no text."""
        head = content[:_HEAD]
        marked = head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\x00" in head[:4096]
        if self.dialect.encoding is not None or marked or not _is_utf8(head):
            content = self._decode(content)
            head = content[:_HEAD]
        start = head[:4096]
        control = sum(byte == 0 or 3 < byte < 9 or 13 < byte < 31 for byte in start)  # 1 to 3 part fields of Hive
        if control > 0.02 * len(start):
            raise DataError("this is no text", file=self.path, remedy="name a file of text, Parquet or JSON")
        if not _ends_lines_by_return(head):
            return content
        self.mapped = False
        if b"\n" not in head:
            return content[:].replace(b"\r", b"\n")  # the line ends of old Macs
        self.findings.note(f"some lines of {self.path.name} end in a carriage return alone: read as lines")
        parts = content[:].replace(b"\r\n", b"\n").split(b'"')
        return b'"'.join(part if at % 2 else part.replace(b"\r", b"\n") for at, part in enumerate(parts))

    def _decode(self, content: bytes | mmap.mmap) -> bytes | mmap.mmap:
        """Content as UTF-8, and what was decided about its encoding."""
        try:
            decoded = to_utf8(content, self.dialect.encoding)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1 if self.dialect.encoding else None
            raise DataError(
                f"this is not {self.dialect.encoding or 'text'}: {error.reason}", file=self.path, row=line,
                remedy="name its encoding: encoding = ... under [read], or --assume encoding=...",
            ) from None  # fmt: skip
        if decoded.content is not content:
            self.mapped = False
        say_encoding(decoded, self.path, self.findings)
        return decoded.content

    def _settle_header(self, records: Records, declared: bool) -> None:
        """Find the columns: `names`, `header`, and which records stand above the first row."""
        full = np.flatnonzero(records.fields > 0)
        if not len(full):
            raise DataError("the file is empty", file=self.path, remedy="name a file with at least one event")
        if declared:
            full = full[1:]
        at = full[:100]
        rows = [self._cells_of(records, int(record)) for record in at]
        width = Counter(records.fields[full[:1_000]].tolist()).most_common(1)[0][0]
        if width > _COLUMNS:
            raise DataError(
                f"{width:,} columns are more than the {_COLUMNS:,} of a table", file=self.path,
                remedy="one row is one event, with a handful of columns; name another separator if this is not one row",
            )  # fmt: skip
        given = None
        if self.dialect.header is not None:
            lines = records.lines[at].tolist()
            given = lines.index(self.dialect.header) if self.dialect.header in lines else -1
            if self.dialect.header and given < 0:
                raise DataError(f"line {self.dialect.header} is no header", file=self.path, remedy="name another line")
        found = find_header(rows, width, self.findings, given)
        first = int(full[found.above])
        if found.present and records.torn[first]:
            raise DataError(
                "a quote in the header is out of place", file=self.path, row=int(records.lines[first]),
                remedy="mend the first line",
            )  # fmt: skip
        self.header, self.names = found.present, found.names
        self._above = first if found.above or declared else 0  # records before this one are no rows
        self._first = first
        self._header_fields = int(records.fields[first])
        self._header_raw = records.raw(first).lstrip(codecs.BOM_UTF8).rstrip(b"\r\n")
        if not self.header:
            self.findings.note(f"{self.path.name} has no header; its columns are column_1, column_2, ...")

    def _cells_of(self, records: Records, record: int) -> list[str]:
        text = records.raw(record).decode("utf-8", errors="replace").lstrip("\ufeff").rstrip("\r\n")
        return _cells(text, self.cut, self.literal)

    def _refuse_rows(self, records: Records) -> None:
        """Raise DataError that says why there is no row."""
        full = np.flatnonzero(records.fields > 0)
        full = full[full > self._first] if self.header else full
        if not len(full):
            raise _no_rows(self.path)
        first = int(full[0])
        if records.torn[first]:
            raise DataError(
                _TORN, file=self.path, row=int(records.lines[first]),
                remedy='a quote inside a quoted text is written twice: "5"" disk"',
            )  # fmt: skip
        raise DataError(
            f"no row has the {len(self.names)} fields of the header; this one has {records.fields[first]}",
            file=self.path, row=int(records.lines[first]),
            remedy="mend the header or the rows; a text that holds the separator stands in quotes",
        )  # fmt: skip

    # The sample

    def _sample(self, records: Records, whole: bool) -> pl.DataFrame:
        """Rows from all over the file as they are written, those that do not cut into the columns left out."""
        head = self._frame_of(self._rewritten(records), skip=int(self.header))
        if whole:
            return head.head(SAMPLE)
        parts = [head.head(SAMPLE // 2)]
        step = (len(self.content) - _HEAD) // _BLOCKS
        for begin in range(_HEAD, len(self.content) - 1, max(step, 1)):
            block = self.content[begin : begin + _BLOCK]
            block = block[block.find(b"\n") + 1 : block.rfind(b"\n") + 1]
            if block:
                found = Records.scan(block, self.cut, not self.literal)
                parts.append(self._frame_of(self._rewritten(found, headless=True), skip=0).head(SAMPLE // 2 // _BLOCKS))
        return self._with_empty_columns(pl.concat(parts))

    def _frame_of(self, text: bytes, skip: int) -> pl.DataFrame:
        decoded = text if _is_utf8(text) else to_utf8(text).content
        try:
            return self._scan(decoded[:], None if self.literal else '"', {}, skip).collect()
        except pl.exceptions.NoDataError:
            return pl.DataFrame(schema=dict.fromkeys(self.names, pl.String))
        except pl.exceptions.PolarsError as error:
            raise DataError(f"cannot be cut into columns: {error}", file=self.path, remedy=_SAVE_AGAIN) from None

    def _with_empty_columns(self, sample: pl.DataFrame) -> pl.DataFrame:
        """The sample, with some rows where columns that are empty in it are not."""
        empty = [name for name in sample.columns if sample[name].null_count() == len(sample)]
        if not empty:
            return sample
        self._prepare()
        source, quote = self._source(), None if self.literal else '"'
        for name in empty:
            try:
                rows = self._scan(source, quote, {}, int(self.header)).filter(pl.col(name).is_not_null()).head(500)
                sample = sample.vstack(rows.collect(engine="streaming"))
            except pl.exceptions.PolarsError:
                continue
        return sample

    def _scan(self, source: Path | bytes, quote: str | None, dtypes: Mapping[str, Any], skip: int) -> pl.LazyFrame:
        return pl.scan_csv(
            source if isinstance(source, Path) else io.BytesIO(source),
            separator=self.cut,
            has_header=False,
            skip_rows=skip,
            schema={name: dtypes.get(name, pl.String) for name in self.names},
            quote_char=quote,
            ignore_errors=True,
            glob=False,
        )

    # Loading

    def load(self, columns: Mapping[str, Use]) -> Loaded:
        self._prepare()
        try:
            return self._load(columns)
        except pl.exceptions.PolarsError as error:
            problem = error
        if self.mended is None:
            self._mend()
            try:
                return self._load(columns)
            except pl.exceptions.PolarsError as error:
                problem = error
        raise DataError(f"cannot be cut into rows: {problem}", file=self.path, remedy=_SAVE_AGAIN)

    def _prepare(self) -> None:
        if self.count is None and (not self._is_healthy() or self._holds_odd_records()):
            self._mend()

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
        separators = found.records * (width - 1)
        if self.header:  # which may have a name more or less
            separators += self._header_fields - width
        return not self._above and found.torn + found.loose == 0 and found.separators == separators and width > 1

    def _mend(self) -> None:
        """Second look at a file that does not read as it stands.

        Other encodings become UTF-8, rows of the wrong width and torn ones are set aside, blank lines are
        left out, and a quote inside a field is written so that Polars cannot take it for the begin of one.
        """
        self.content = self._decode(self.content)
        self._records = None
        records = Records.scan(self.content, self.cut, not self.literal)
        self._left_out = np.flatnonzero(self._out(records, headless=False))
        self._rows = len(records) - len(self._left_out)
        self.mended = self._rewritten(records)

    def _out(self, records: Records, headless: bool) -> np.ndarray:
        """bool[n], records that are no rows: blank, of another width, torn, or above the header."""
        out = (records.fields != len(self.names)) | records.torn | self._odd_records(records)
        if not headless:
            out[: self._above] = True
            if self.header:
                out[self._first] = False
        return out

    def _holds_odd_records(self) -> bool:
        """Whether the content has `_odd_records`, or something that looks so, without cutting it into records."""
        return self.content.find(b"\x00") >= 0 or any(self.content.find(b"\n" + raw, 1) >= 0 for raw in self._headers)

    def _odd_records(self, records: Records) -> np.ndarray:
        """bool[n], records that hold a NUL byte, or the header of the file once more, as where files were joined."""
        return records.holding(b"\x00") | self._headers_again(records)

    def _headers_again(self, records: Records) -> np.ndarray:
        again = np.zeros(len(records), dtype=bool)
        for header in self._headers:
            again |= records.equal_to(header)
        if len(again) and records.content is self.content:
            again[: self._first + 1] = False
        return again

    @cached_property
    def _headers(self) -> list[bytes]:
        """The header as it is written, and with its cells all in quotes or none."""
        if not self.header:
            return []
        return list(dict.fromkeys([self._header_raw, *_spellings(self._header_raw, self.cut)]))

    def _rewritten(self, records: Records, headless: bool = False) -> bytes:
        out = self._out(records, headless)
        loose = np.zeros(0, np.int64) if self.literal else records.odd_quotes()
        changed = np.union1d(np.flatnonzero(out), loose)
        return records.rewrite(changed, lambda at: b"" if out[at] else _requote(records.raw(at), self.cut))

    def _load(self, columns: Mapping[str, Use]) -> Loaded:
        dtypes = {name: self._dtype(name, use) for name, use in columns.items()}
        return self._by_use(self._collect(dtypes), columns)

    def _moments(self, column: pl.Series) -> pl.Series:
        return self._text(column.name) if self._is_odd(column) else column

    def _dtype(self, name: str, use: Use) -> Any:
        """The narrowest type that the sample says a column has; text where only the whole column can tell."""
        text = self._written[name].str.strip_chars()
        text = text.filter((text != "").fill_null(False))
        if not len(text) or use == "text" or (name in self.dialect.text and use in ("any", "id")):
            return pl.String
        if use != "time" and use != "id" and text.str.contains(r"^[+-]?[1-9]\d{0,2}\.\d{3}$").any():
            return pl.String  # points that may stand before thousands
        if use == "number":
            numbers = text.cast(pl.Float64, strict=False)
            return pl.Float32 if numbers.null_count() <= 0.2 * len(text) else pl.String
        if text.str.contains(_PLAIN_INT).all():
            whole = text.cast(pl.Int64, strict=False)
            if whole.null_count():
                return pl.String
            small = int(whole.abs().max() or 0) < _SMALL  # type: ignore[arg-type]
            return pl.Int32 if small and use != "time" else pl.Int64
        if use == "any" and text.str.contains(r"^-?\d+(?:\.\d+)?$").all() and not text.str.contains(LEADING_ZERO).any():
            return pl.Float64
        return pl.String

    def _ids(self, column: pl.Series) -> pl.Series:
        if column.dtype == pl.String:
            return infer_ids(column, self.dialect, self.findings)
        if self._is_odd(column) or column.name in self.dialect.text or self._has_zeros(column.name):
            return infer_ids(self._text(column.name), self.dialect, self.findings)
        return column

    def _numbers(self, column: pl.Series, bad: dict[int, str]) -> pl.Series:
        semicolons = self.separator == ";"
        if column.dtype == pl.String:
            numbers = parse_numbers(column, self.dialect, semicolons=semicolons)
            merge(self.findings, numbers.findings)
            reject_bad(column, numbers.bad, bad)
            return _narrow(numbers.values)
        # A float32 at the bound of values does not tell on which side of it the number was written.
        rows = (column.is_null() | beyond_values(column)).arg_true()
        if self.dialect.decimal == ",":
            return self._numbers(self._text(column.name), bad)
        if not len(rows):
            return column
        text = self._cells_at(column.name, rows)
        if not text.is_not_null().any():
            return column.fill_nan(None)
        if len(rows) > _FEW:
            return self._numbers(self._text(column.name), bad)
        plain = column.filter(column.is_finite().fill_null(False))
        fractions = bool((plain != plain.floor()).any())
        numbers = parse_numbers(text, self.dialect, semicolons=semicolons, fractions=fractions)
        merge(self.findings, numbers.findings)
        for at, cell in zip(rows.filter(numbers.bad).to_list(), text.filter(numbers.bad).to_list()):
            bad[at] = f"{column.name} = {cell!r} is not a number"
        exact = _narrow(numbers.values)
        return column.cast(exact.dtype).scatter(rows, exact)

    def _described(self, column: pl.Series) -> pl.Series:
        if column.dtype != pl.String and not self._is_odd(column):
            if not column.dtype.is_integer():
                return column
            if not self._has_zeros(column.name) and column.name not in self.dialect.text:
                return column.cast(pl.Int64)
        text = column if column.dtype == pl.String else self._text(column.name)
        found, findings = infer_column(text, self.dialect, semicolons=self.separator == ";")
        merge(self.findings, findings)
        return found

    def _is_odd(self, column: pl.Series) -> bool:
        """Whether a column of numbers has a cell that is none."""
        if column.dtype == pl.String:
            return False
        missing = column.is_null()
        if column.dtype.is_float():
            missing = missing | ~column.is_finite().fill_null(True)
        rows = missing.arg_true()
        return len(rows) > 0 and bool(self._cells_at(column.name, rows).is_not_null().any())

    def _has_zeros(self, name: str) -> bool:
        """Whether a cell of a column of whole numbers is written as none is, such as "007"."""
        return self._leading_zeros and bool(self._text(name).str.strip_chars().str.contains(LEADING_ZERO).any())

    @cached_property
    def _leading_zeros(self) -> bool:
        return has_leading_zeros(self.mended if self.mended is not None else self.content, self.cut)

    def _text(self, name: str) -> pl.Series:
        """A column as it is written."""
        return self._collect({name: pl.String})[name]

    def _cells_at(self, name: str, rows: pl.Series) -> pl.Series:
        """What stands in cells of a column; null where nothing does."""
        if len(rows) > _FEW:
            cells = self._text(name).gather(rows)
        else:  # much cheaper than the column a second time
            place, where = self.names.index(name), self._places(rows.to_numpy())
            read = (self.records.raw(at).decode("utf-8", errors="replace").strip("\r\n") for at in where)
            cells = pl.Series(name, [_cells(r, self.cut, self.literal)[place] for r in read], dtype=pl.String)
        cells = cells.str.strip_chars()
        return cells.set(cells == "", None) if (cells == "").any() else cells

    def _source(self) -> Path | bytes:
        if self.mended is not None:
            return self.mended
        return self.path if self.mapped else self.content[:]

    def _collect(self, dtypes: Mapping[str, Any]) -> pl.DataFrame:
        scan = self._scan(self._source(), None if self.literal else '"', dtypes, int(self.header))
        frame = scan.select(list(dtypes)).collect(engine="streaming")
        rows = self._rows - self.header
        if len(frame) != rows:
            raise pl.exceptions.ComputeError(f"{rows:,} rows are written, {len(frame):,} were read")
        return frame

    # Where rows stand

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
        nul, again = records.holding(b"\x00"), self._headers_again(records)

        def reason(at: int) -> str:
            if records.torn[at]:
                return _TORN
            if nul[at]:
                return _NUL
            return _HEADER_AGAIN if again[at] else f"{records.fields[at]} fields, but {width} columns"

        left_out = self._left_out[records.fields[self._left_out] > 0].tolist()
        return [(int(records.lines[at]), reason(at), self._raw(at)) for at in left_out if at >= self._above]


def _narrow(numbers: pl.Series) -> pl.Series:
    """Float64 as Float32, unless that leaves open on which side of the bound of values one was written."""
    narrow = numbers.cast(pl.Float32)
    return numbers if beyond_values(narrow).any() else narrow


def say_encoding(decoded: Decoded, path: Path, findings: Findings) -> None:
    """Note which legacy encoding a text was read by."""
    if decoded.encoding is None:
        return
    name = NAMES[decoded.encoding]
    what = f"{path.name} is not UTF-8 and was"
    if decoded.lines:
        what = f"{decoded.lines:,} lines of {path.name} are not UTF-8 and were"
    other = f"; it may be {NAMES[decoded.other]}" if decoded.other else ""
    if decoded.lines and not decoded.other:  # UTF-8 with some foreign lines: no encoding of the whole
        findings.note(
            f"{what} read as {name}{other} (if it is another one: encoding = ... under [read] or by --assume)"
        )
    else:
        findings.assume("encoding", decoded.encoding, f"{what} read as {name}{other}")


def _ends_lines_by_return(head: bytes) -> bool:
    """Whether a carriage return alone ends lines of a text: one that no newline follows, outside of quotes."""
    if b"\r" not in head:
        return False
    outside = head.rstrip(b"\r").split(b'"')[::2]
    return any(re.search(rb"\r(?!\r*\n)", part) for part in outside)


def _spellings(header: bytes, cut: str) -> list[bytes]:
    """A header with all of its cells in quotes, and with none."""
    cells = _cells(header.decode("utf-8", errors="surrogateescape"), cut, False)
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    return [cut.join(row).encode("utf-8", errors="surrogateescape") for row in (quoted, cells)]


def _no_rows(path: Path) -> DataError:
    return DataError("there is a header, and no row below it", file=path, remedy="name a file with at least one event")


def _is_utf8(text: bytes | mmap.mmap) -> bool:
    part = text[:]
    if part.isascii():
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(part)  # which may end within a character
    except UnicodeDecodeError:
        return False
    return True


def _cells(record: str, cut: str, literal: bool) -> list[str]:
    if literal:
        return record.split(cut)
    try:
        return next(csv.reader([record], delimiter=cut), [""])
    except csv.Error:
        return record.split(cut)


def _requote(record: bytes, cut: str) -> bytes:
    """A record with its fields quoted by the book."""
    out = io.StringIO()
    cells = _cells(record.decode("utf-8", errors="surrogateescape").rstrip("\r\n"), cut, False)
    csv.writer(out, delimiter=cut, lineterminator="\n").writerow(cells)
    return out.getvalue().encode("utf-8", errors="surrogateescape")
