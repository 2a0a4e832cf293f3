"""Delimited text: CSV, TSV, "::", semicolons, bars, spaces; of any encoding; with a header or not.

`delimited_format` detects the format from the first bytes. A healthy file is then mapped and read by Polars as it is,
each column in the narrowest type that its sample fits. Cells that this type cannot hold come back as null and are read
again as text, so that the type of a column is that of all of its cells.
"""

from __future__ import annotations

import csv
import io
import mmap
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.data.csv_records import Count, Records, count, has_leading_zeros
from zhiyin.data.delimited_format import HEAD_BYTES, decode, detect, is_utf8, no_rows, split_record
from zhiyin.data.encodings import to_utf8
from zhiyin.data.event_schema import beyond_values
from zhiyin.data.file_formats import compression_of, raw_bytes
from zhiyin.data.read_assumptions import Dialect, Findings
from zhiyin.data.table import SAMPLE_ROWS, ColumnPlan, Loaded, Table, TableFormat, Use, merge, reject_bad, typed_sample
from zhiyin.data.type_inference import LEADING_ZERO, infer_column, infer_ids, parse_numbers

_ROWS_OF_EMPTY_COLUMN = 500  # sampled where a column that is empty in the sample is not
_SAMPLE_BLOCKS, _BLOCK_BYTES = 40, 1 << 15  # blocks behind the head that the sample is taken from too
_MAX_INT32_SAMPLE = 100_000_000  # ids below this in the sample are expected to fit into 32 bits in the rest
_MAX_SINGLE_CELLS = 100_000  # cells that are looked up one by one
_SAVE_AGAIN = "open it in the program that wrote it and save it again as CSV, or convert it to Parquet"
_PLAIN_INT = r"^(?:0|-?[1-9]\d*)$"
_TORN = "a quote is never closed, or closed inside its field"
_NUL = "a NUL byte stands in it"
_HEADER_AGAIN = "the header once more"


class TextTable(Table):
    """Delimited text; see the module docstring."""

    def __init__(self, path: Path, dialect: Dialect | None = None, content: bytes | mmap.mmap | None = None) -> None:
        self.path, self.name = path, str(path)
        self.dialect, self.findings = dialect or Dialect(), Findings()
        raw = raw_bytes(path) if content is None else content
        detected = detect(raw, path, self.dialect, self.findings)
        self._shape = shape = detected.format
        self.format = TableFormat(
            "delimited text", compression_of(path), shape.encoding, shape.separator, shape.quoted, shape.header_line
        )
        self.content = detected.content
        # Polars maps a plain file itself; other content is passed as bytes.
        self.is_mapped = detected.is_original and isinstance(raw, mmap.mmap)
        self.quoted = shape.quoted
        self.count: Count | None = None
        self.mended: bytes | None = None
        self._records: Records | None = None
        self._rejected: np.ndarray = np.zeros(0, np.int64)  # records that are no rows
        self._n_rows = 0  # records that are rows or the header
        self._raw_sample = self._sample(detected.head, detected.is_whole)
        if not len(self._raw_sample):
            self._refuse_rows(detected.head)
        self.sample = typed_sample(self._raw_sample)

    def close(self) -> None:
        self.content, self.mended, self._records, self.count = b"", None, None, None

    def _refuse_rows(self, records: Records) -> None:
        """Raise DataError with the reason why there is no row."""
        full = np.flatnonzero(records.fields > 0)
        full = full[full > self._shape.first_record] if self._shape.has_header else full
        if not len(full):
            raise no_rows(self.path)
        first = int(full[0])
        if records.torn[first]:
            raise DataError(
                _TORN, file=self.path, row=int(records.lines[first]),
                remedy='a quote inside a quoted text is written twice: "5"" disk"',
            )  # fmt: skip
        raise DataError(
            f"no row has the {len(self._shape.names)} fields of the header; this one has {records.fields[first]}",
            file=self.path, row=int(records.lines[first]),
            remedy="mend the header or the rows; a text that holds the separator stands in quotes",
        )  # fmt: skip

    # The sample

    def _sample(self, records: Records, is_whole: bool) -> pl.DataFrame:
        """Rows from all over the file as text, without records that do not have the fields of the header.

        records: those of the head of the file; is_whole: whether the file has no others.
        """
        head = self._frame_of(self._rewritten(records), skip=int(self._shape.has_header))
        if is_whole:
            return head.head(SAMPLE_ROWS)
        parts = [head.head(SAMPLE_ROWS // 2)]
        step = (len(self.content) - HEAD_BYTES) // _SAMPLE_BLOCKS
        for begin in range(HEAD_BYTES, len(self.content) - 1, max(step, 1)):
            block = self.content[begin : begin + _BLOCK_BYTES]
            block = block[block.find(b"\n") + 1 : block.rfind(b"\n") + 1]
            if block:
                rows = self._rewritten(Records.scan(block, self._shape.delimiter, self.quoted), headless=True)
                parts.append(self._frame_of(rows, skip=0).head(SAMPLE_ROWS // 2 // _SAMPLE_BLOCKS))
        return self._with_empty_columns(pl.concat(parts))

    def _frame_of(self, text: bytes, skip: int) -> pl.DataFrame:
        decoded = text if is_utf8(text) else to_utf8(text).content
        try:
            return self._scan(decoded[:], {}, skip).collect()
        except pl.exceptions.NoDataError:
            return pl.DataFrame(schema=dict.fromkeys(self._shape.names, pl.String))
        except pl.exceptions.PolarsError as error:
            raise DataError(f"cannot be cut into columns: {error}", file=self.path, remedy=_SAVE_AGAIN) from None

    def _with_empty_columns(self, sample: pl.DataFrame) -> pl.DataFrame:
        """The sample, with some rows where columns that are empty in it are not."""
        empty = [name for name in sample.columns if sample[name].null_count() == len(sample)]
        if not empty:
            return sample
        self._prepare()
        scan = self._scan(self._source(), {}, int(self._shape.has_header))
        for name in empty:
            try:
                rows = scan.filter(pl.col(name).is_not_null()).head(_ROWS_OF_EMPTY_COLUMN)
                sample = sample.vstack(rows.collect(engine="streaming"))
            except pl.exceptions.PolarsError:
                continue
        return sample

    def _scan(self, source: Path | bytes, dtypes: Mapping[str, Any], skip: int) -> pl.LazyFrame:
        return pl.scan_csv(
            source if isinstance(source, Path) else io.BytesIO(source),
            separator=self._shape.delimiter,
            has_header=False,
            skip_rows=skip,
            schema={name: dtypes.get(name, pl.String) for name in self._shape.names},
            quote_char='"' if self.quoted else None,
            ignore_errors=True,
            glob=False,
        )

    # Loading

    def _first_type(self, name: str, use: Use) -> Any:
        """The narrowest type that the sample of a column fits; text where only the whole column can tell."""
        text = self._raw_sample[name].str.strip_chars()
        text = text.filter((text != "").fill_null(False))
        if not len(text) or use == "text" or (name in self.dialect.text and use in ("any", "id")):
            return pl.String
        if use != "time" and use != "id" and text.str.contains(r"^[+-]?[1-9]\d{0,2}\.\d{3}$").any():
            return pl.String  # points that may separate thousands
        if use == "number":
            numbers = text.cast(pl.Float64, strict=False)
            return pl.Float32 if numbers.null_count() <= 0.2 * len(text) else pl.String
        if text.str.contains(_PLAIN_INT).all():
            whole = text.cast(pl.Int64, strict=False)
            if whole.null_count():
                return pl.String
            is_small = int(whole.abs().max() or 0) < _MAX_INT32_SAMPLE  # type: ignore[arg-type]
            return pl.Int32 if is_small and use != "time" else pl.Int64
        if use == "any" and text.str.contains(r"^-?\d+(?:\.\d+)?$").all() and not text.str.contains(LEADING_ZERO).any():
            return pl.Float64
        return pl.String

    def execute(self, columns: Sequence[ColumnPlan]) -> Loaded:
        self._prepare()
        try:
            return self._execute(columns)
        except pl.exceptions.PolarsError as error:
            problem = error
        if self.mended is None:
            self._mend()
            try:
                return self._execute(columns)
            except pl.exceptions.PolarsError as error:
                problem = error
        raise DataError(f"cannot be cut into rows: {problem}", file=self.path, remedy=_SAVE_AGAIN)

    def _execute(self, columns: Sequence[ColumnPlan]) -> Loaded:
        return self._by_use(self._collect({column.name: column.dtype for column in columns}), columns)

    def _prepare(self) -> None:
        if self.count is None and (not self._is_healthy() or self._holds_odd_records()):
            self._mend()

    def _is_healthy(self) -> bool:
        """Count records and separators: whether every record is one row of the right width."""
        delimiter, width = self._shape.delimiter, len(self._shape.names)
        if self.quoted and self.content.find(b'"') < 0:
            self.quoted = False
        counts = count(self.content, delimiter, self.quoted)
        if counts.torn and self._shape.separator not in ",;" and counts.torn > counts.quoted:
            self.quoted = False
            counts = count(self.content, delimiter, False)
        self.count, self._n_rows = counts, counts.records
        n_expected = counts.records * (width - 1)
        if self._shape.has_header:  # which may have a name more or less
            n_expected += self._shape.header_fields - width
        is_whole = counts.torn + counts.loose == 0 and counts.separators == n_expected
        return is_whole and width > 1 and not self._shape.n_preamble

    def _mend(self) -> None:
        """Rewrite a file that Polars cannot read as it is.

        - Other encodings become UTF-8.
        - Records of the wrong width and torn ones are set aside, blank lines are left out.
        - A quote inside a field is escaped, so that Polars does not take it for the begin of one.
        """
        content, _ = decode(self.content, self.path, self.dialect, self.findings)
        if content is not self.content:
            self.content, self.is_mapped = content, False
        self._records = None
        records = Records.scan(self.content, self._shape.delimiter, self.quoted)
        self._rejected = np.flatnonzero(self._is_no_row(records, headless=False))
        self._n_rows = len(records) - len(self._rejected)
        self.mended = self._rewritten(records)

    def _is_no_row(self, records: Records, headless: bool) -> np.ndarray:
        """bool[n], records that are blank, of another width, torn, odd, or above the header.

        headless: whether the records are from a later part of the file.
        """
        is_out = (records.fields != len(self._shape.names)) | records.torn | self._odd_records(records)
        if not headless:
            is_out[: self._shape.n_preamble] = True
            if self._shape.has_header:
                is_out[self._shape.first_record] = False
        return is_out

    def _holds_odd_records(self) -> bool:
        """Whether the content has `_odd_records`, or something that looks so, without cutting it into records."""
        return self.content.find(b"\x00") >= 0 or any(self.content.find(b"\n" + raw, 1) >= 0 for raw in self._headers)

    def _odd_records(self, records: Records) -> np.ndarray:
        """bool[n], records that hold a NUL byte, or the header of the file once more, as where files were joined."""
        return records.holding(b"\x00") | self._repeated_headers(records)

    def _repeated_headers(self, records: Records) -> np.ndarray:
        repeated = np.zeros(len(records), dtype=bool)
        for header in self._headers:
            repeated |= records.equal_to(header)
        if len(repeated) and records.content is self.content:
            repeated[: self._shape.first_record + 1] = False
        return repeated

    @cached_property
    def _headers(self) -> list[bytes]:
        """The header as it is written, and with its cells all in quotes or none."""
        shape = self._shape
        if not shape.has_header:
            return []
        return list(dict.fromkeys([shape.header_bytes, *_spellings(shape.header_bytes, shape.delimiter)]))

    def _rewritten(self, records: Records, headless: bool = False) -> bytes:
        is_out = self._is_no_row(records, headless)
        delimiter = self._shape.delimiter
        loose = records.odd_quotes() if self.quoted else np.zeros(0, np.int64)
        changed = np.union1d(np.flatnonzero(is_out), loose)
        return records.rewrite(changed, lambda at: b"" if is_out[at] else _requote(records.raw(at), delimiter))

    def _moments(self, column: pl.Series) -> pl.Series:
        return self._as_text(column.name) if self._is_odd(column) else column

    def _ids(self, column: pl.Series) -> pl.Series:
        if column.dtype == pl.String:
            return infer_ids(column, self.dialect, self.findings)
        if self._is_odd(column) or column.name in self.dialect.text or self._has_zeros(column.name):
            return infer_ids(self._as_text(column.name), self.dialect, self.findings)
        return column

    def _numbers(self, column: pl.Series, bad: dict[int, str]) -> pl.Series:
        semicolons = self._shape.separator == ";"
        if column.dtype == pl.String:
            numbers = parse_numbers(column, self.dialect, semicolons=semicolons)
            merge(self.findings, numbers.findings)
            reject_bad(column, numbers.bad, bad)
            return _narrow(numbers.values)
        # A float32 at the bound of values does not tell on which side of it the number was written.
        rows = (column.is_null() | beyond_values(column)).arg_true()
        if self.dialect.decimal == ",":
            return self._numbers(self._as_text(column.name), bad)
        if not len(rows):
            return column
        text = self._cells_at(column.name, rows)
        if not text.is_not_null().any():
            return column.fill_nan(None)
        if len(rows) > _MAX_SINGLE_CELLS:
            return self._numbers(self._as_text(column.name), bad)
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
        text = column if column.dtype == pl.String else self._as_text(column.name)
        typed, findings = infer_column(text, self.dialect, semicolons=self._shape.separator == ";")
        merge(self.findings, findings)
        return typed

    def _is_odd(self, column: pl.Series) -> bool:
        """Whether a column of numbers has a cell that is no number."""
        if column.dtype == pl.String:
            return False
        missing = column.is_null()
        if column.dtype.is_float():
            missing = missing | ~column.is_finite().fill_null(True)
        rows = missing.arg_true()
        return len(rows) > 0 and bool(self._cells_at(column.name, rows).is_not_null().any())

    def _has_zeros(self, name: str) -> bool:
        """Whether a cell of a column of whole numbers is written as none is, such as "007"."""
        return self._leading_zeros and bool(self._as_text(name).str.strip_chars().str.contains(LEADING_ZERO).any())

    @cached_property
    def _leading_zeros(self) -> bool:
        return has_leading_zeros(self.mended if self.mended is not None else self.content, self._shape.delimiter)

    def _as_text(self, name: str) -> pl.Series:
        """A column as text."""
        return self._collect({name: pl.String})[name]

    def _cells_at(self, name: str, rows: pl.Series) -> pl.Series:
        """Cells of a column as text, null where they are empty."""
        if len(rows) > _MAX_SINGLE_CELLS:
            cells = self._as_text(name).gather(rows)
        else:  # much cheaper than the column a second time
            position, records = self._shape.names.index(name), self._record_numbers(rows.to_numpy())
            read = (self.records.raw(at).decode("utf-8", errors="replace").strip("\r\n") for at in records)
            split = (split_record(record, self._shape.delimiter, self.quoted) for record in read)
            cells = pl.Series(name, [fields[position] for fields in split], dtype=pl.String)
        cells = cells.str.strip_chars()
        return cells.set(cells == "", None) if (cells == "").any() else cells

    def _source(self) -> Path | bytes:
        if self.mended is not None:
            return self.mended
        return self.path if self.is_mapped else self.content[:]

    def _collect(self, dtypes: Mapping[str, Any]) -> pl.DataFrame:
        scan = self._scan(self._source(), dtypes, int(self._shape.has_header))
        frame = scan.select(list(dtypes)).collect(engine="streaming")
        rows = self._n_rows - self._shape.has_header
        if len(frame) != rows:
            raise pl.exceptions.ComputeError(f"{rows:,} rows are written, {len(frame):,} were read")
        return frame

    # Locations of rows

    @property
    def records(self) -> Records:
        if self._records is None:
            self._records = Records.scan(self.content, self._shape.delimiter, self.quoted)
        return self._records

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        records = self.records
        return [
            (int(records.lines[at]), self._raw(at)) for at in self._record_numbers(np.asarray(rows, dtype=np.int64))
        ]

    def _record_numbers(self, rows: np.ndarray) -> list[int]:
        """The numbers of the records that rows are, both from 0."""
        rows = rows.astype(np.int64) + self._shape.has_header
        n_before = self._rejected - np.arange(len(self._rejected))  # rows before each record that is no row
        return (rows + np.searchsorted(n_before, rows, side="right")).tolist()

    def _raw(self, record: int) -> str:
        return self.records.text(record).lstrip("\ufeff").replace("\x1f", self._shape.separator)

    def set_aside(self) -> list[tuple[int, str, str]]:
        if not len(self._rejected):
            return []
        records, width = self.records, len(self._shape.names)
        has_nul, is_header = records.holding(b"\x00"), self._repeated_headers(records)

        def reason(at: int) -> str:
            if records.torn[at]:
                return _TORN
            if has_nul[at]:
                return _NUL
            return _HEADER_AGAIN if is_header[at] else f"{records.fields[at]} fields, but {width} columns"

        filled = self._rejected[records.fields[self._rejected] > 0].tolist()
        return [(int(records.lines[at]), reason(at), self._raw(at)) for at in filled if at >= self._shape.n_preamble]


def _narrow(numbers: pl.Series) -> pl.Series:
    """Float64 as Float32, unless that leaves open on which side of the bound of values one was written."""
    narrow = numbers.cast(pl.Float32)
    return numbers if beyond_values(narrow).any() else narrow


def _spellings(header: bytes, delimiter: str) -> list[bytes]:
    """A header with all of its cells in quotes, and with none."""
    cells = split_record(header.decode("utf-8", errors="surrogateescape"), delimiter, True)
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    return [delimiter.join(row).encode("utf-8", errors="surrogateescape") for row in (quoted, cells)]


def _requote(record: bytes, delimiter: str) -> bytes:
    """A record with its fields quoted as RFC 4180 has it."""
    out = io.StringIO()
    cells = split_record(record.decode("utf-8", errors="surrogateescape").rstrip("\r\n"), delimiter, True)
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return out.getvalue().encode("utf-8", errors="surrogateescape")
