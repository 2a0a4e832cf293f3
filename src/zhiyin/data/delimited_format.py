"""The format of a delimited text, detected from its first bytes: encoding, line ends, separator, quoting, header.

`detect` is the first step of reading such a file: it decides, and returns the content in the form that the second step
(`delimited_text.TextTable`) reads without deciding again: UTF-8, lines that end in a newline, fields that one character
separates.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import mmap
import re
from collections import Counter
from pathlib import Path

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.data.csv_records import Records, count
from zhiyin.data.encodings import note_encoding, to_utf8
from zhiyin.data.header_detection import declared_separator, find_header, guess_separator, is_padded
from zhiyin.data.read_assumptions import Dialect, Findings

HEAD_BYTES = 1 << 22  # bytes that the format is detected from
MAX_COLUMNS = 5_000
_HEAD_LINES = 2_000
_HEADER_ROWS = 100  # rows among which the header is searched
_MAX_CONTROL_SHARE = 0.02  # of control characters in a text
# Stands for a separator of several characters.
_UNIT_SEPARATOR = "\x1f"
csv.field_size_limit(1 << 27)


@dataclasses.dataclass(frozen=True)
class DelimitedFormat:
    """How the records of a text are written.

    Parameters
    ----------
    separator: between fields, as the file has it: one or two characters.
    delimiter: the one character that separates fields in the normalised content.
    quoted: whether quotes enclose fields; where not, a quote is a character like any other.
    encoding: the encoding that the text was decoded from; None for UTF-8.
    has_header: whether `first_record` is a header.
    names: of the columns, each once.
    first_record: the header, or the first row of a file without one.
    n_preamble: records above it that are no rows.
    header_line: its line in the file, from 1; 0 without a header.
    header_fields: fields of the first record.
    header_bytes: the first record as it is written, without its line end.
    """

    separator: str
    delimiter: str
    quoted: bool
    encoding: str | None
    has_header: bool
    names: list[str]
    first_record: int
    n_preamble: int
    header_line: int
    header_fields: int
    header_bytes: bytes


@dataclasses.dataclass(frozen=True)
class DetectedText:
    """A text whose format is known.

    Parameters
    ----------
    format: how its records are written.
    content: the normalised content.
    is_original: whether the content is that of the file, byte by byte.
    head: the records of the first HEAD_BYTES.
    is_whole: whether these are all records.
    """

    format: DelimitedFormat
    content: bytes | mmap.mmap
    is_original: bool
    head: Records
    is_whole: bool


def detect(raw: bytes | mmap.mmap, path: Path, dialect: Dialect, findings: Findings) -> DetectedText:
    """The format of a delimited text. Raises DataError for what is empty, no text, or has no row.

    findings: takes what was decided.
    """
    content, encoding = _normalised(raw, path, dialect, findings)
    head = content[:HEAD_BYTES]
    is_whole = len(head) == len(content)
    if not is_whole:
        head = head[: head.rfind(b"\n") + 1] or head
    written = head.decode("utf-8", errors="replace").lstrip("\ufeff").split("\n", _HEAD_LINES)[:_HEAD_LINES]
    lines = [line for line in map(str.rstrip, written) if line]
    if not lines:
        raise DataError("the file is empty", file=path, remedy="name a file with at least one event")
    declared = declared_separator(lines[0])
    if declared is not None:
        lines = lines[1:]
        if not lines:
            raise no_rows(path)
    separator = dialect.separator or declared or guess_separator(lines)
    if separator == " " and is_padded(lines) and b'"' not in head:
        findings.note("the columns are padded with blanks: several blanks are read as one")
        content, head = (re.sub(rb"(?m)^ +| +(?= |\r?$)", b"", part[:]) for part in (content, head))
    delimiter = separator
    if len(separator.encode()) > 1:
        delimiter = _UNIT_SEPARATOR
        content, head = (part[:].replace(separator.encode(), b"\x1f") for part in (content, head))
    counts = count(head, delimiter, True)
    # Files of tabs or "::" do not quote as a rule: a quote out of place shows that quotes are text.
    quoted = separator in ",;" or counts.torn <= (0 if is_whole else counts.quoted)
    records = Records.scan(head, delimiter, quoted)
    header = _detect_header(records, delimiter, quoted, declared is not None, path, dialect, findings)
    detected = DelimitedFormat(separator, delimiter, quoted, encoding, *header)
    return DetectedText(detected, content, content is raw, records, is_whole)


def _normalised(
    raw: bytes | mmap.mmap, path: Path, dialect: Dialect, findings: Findings
) -> tuple[bytes | mmap.mmap, str | None]:
    """Content in UTF-8 with newlines, and its encoding. Raises DataError for bytes that are no text."""
    content, encoding = raw, None
    head = content[:HEAD_BYTES]
    has_mark = head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\x00" in head[:4096]
    if dialect.encoding is not None or has_mark or not is_utf8(head):
        content, encoding = decode(content, path, dialect, findings)
        head = content[:HEAD_BYTES]
    start = head[:4096]
    control = sum(byte == 0 or 3 < byte < 9 or 13 < byte < 31 for byte in start)  # 1 to 3 separate fields of Hive
    if control > _MAX_CONTROL_SHARE * len(start):
        raise DataError("this is no text", file=path, remedy="name a file of text, Parquet or JSON")
    if not _ends_lines_by_return(head):
        return content, encoding
    if b"\n" not in head:
        return content[:].replace(b"\r", b"\n"), encoding  # the line ends of old Macs
    findings.note(f"some lines of {path.name} end in a carriage return alone: read as lines")
    parts = content[:].replace(b"\r\n", b"\n").split(b'"')
    return b'"'.join(part if at % 2 else part.replace(b"\r", b"\n") for at, part in enumerate(parts)), encoding


def decode(
    content: bytes | mmap.mmap, path: Path, dialect: Dialect, findings: Findings
) -> tuple[bytes | mmap.mmap, str | None]:
    """Content as UTF-8 (the same object where it is UTF-8 already), and the encoding it was decoded from."""
    try:
        decoded = to_utf8(content, dialect.encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1 if dialect.encoding else None
        raise DataError(
            f"this is not {dialect.encoding or 'text'}: {error.reason}", file=path, row=line,
            remedy="name its encoding: encoding = ... under [read], or --assume encoding=...",
        ) from None  # fmt: skip
    note_encoding(decoded, path.name, findings)
    is_native = decoded.content is content
    return decoded.content, None if is_native else decoded.encoding or dialect.encoding


def _detect_header(
    records: Records,
    delimiter: str,
    quoted: bool,
    is_declared: bool,
    path: Path,
    dialect: Dialect,
    findings: Findings,
) -> tuple[bool, list[str], int, int, int, int, bytes]:
    """The fields of `DelimitedFormat` from `has_header` on.

    is_declared: whether the first line states the separator, and is no row.
    """
    filled = np.flatnonzero(records.fields > 0)
    if not len(filled):
        raise DataError("the file is empty", file=path, remedy="name a file with at least one event")
    if is_declared:
        filled = filled[1:]
    at = filled[:_HEADER_ROWS]
    rows = [_cells_of(records, int(record), delimiter, quoted) for record in at]
    width = Counter(records.fields[filled[:1_000]].tolist()).most_common(1)[0][0]
    if width > MAX_COLUMNS:
        raise DataError(
            f"{width:,} columns are more than the {MAX_COLUMNS:,} of a table", file=path,
            remedy="one row is one event, with a handful of columns; name another separator if this is not one row",
        )  # fmt: skip
    header_row = None
    if dialect.header is not None:
        lines = records.lines[at].tolist()
        header_row = lines.index(dialect.header) if dialect.header in lines else -1
        if dialect.header and header_row < 0:
            raise DataError(f"line {dialect.header} is no header", file=path, remedy="name another line")
    header = find_header(rows, width, findings, header_row)
    first = int(filled[header.above])
    line = int(records.lines[first])
    if header.present and records.torn[first]:
        raise DataError("a quote in the header is out of place", file=path, row=line, remedy="mend the first line")
    if not header.present:
        findings.note(f"{path.name} has no header; its columns are column_1, column_2, ...")
    n_preamble = first if header.above or is_declared else 0
    written = records.raw(first).lstrip(codecs.BOM_UTF8).rstrip(b"\r\n")
    n_fields = int(records.fields[first])
    return header.present, header.names, first, n_preamble, line if header.present else 0, n_fields, written


def _cells_of(records: Records, record: int, delimiter: str, quoted: bool) -> list[str]:
    text = records.raw(record).decode("utf-8", errors="replace").lstrip("\ufeff").rstrip("\r\n")
    return split_record(text, delimiter, quoted)


def split_record(record: str, delimiter: str, quoted: bool) -> list[str]:
    """The cells of one record, its line end removed."""
    if not quoted:
        return record.split(delimiter)
    try:
        return next(csv.reader([record], delimiter=delimiter), [""])
    except csv.Error:
        return record.split(delimiter)


def no_rows(path: Path) -> DataError:
    """The error of a file that holds a header alone."""
    return DataError("there is a header, and no row below it", file=path, remedy="name a file with at least one event")


def is_utf8(text: bytes | mmap.mmap) -> bool:
    """Whether bytes are UTF-8; they may end within a character."""
    part = text[:]
    if part.isascii():
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(part)
    except UnicodeDecodeError:
        return False
    return True


def _ends_lines_by_return(head: bytes) -> bool:
    """Whether a carriage return alone ends lines of a text: one that no newline follows, outside of quotes."""
    if b"\r" not in head:
        return False
    outside = head.rstrip(b"\r").split(b'"')[::2]
    return any(re.search(rb"\r(?!\r*\n)", part) for part in outside)
