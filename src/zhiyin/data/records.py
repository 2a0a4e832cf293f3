"""Where rows stand in a delimited file: its bytes, its records, their line numbers and raw text.

A healthy file is only counted here (`count`), to prove that no row was lost on the way into a frame. The
records themselves are looked for when a row needs a second look. Quoted fields may hold newlines, so a record
is not a line.
"""

from __future__ import annotations

import dataclasses
import gzip
import mmap
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.core.parallel import kernel

COMPRESSED = (".gz", ".zst", ".zstd")
_NEWLINE, _RETURN, _SPACE, _QUOTE = ord("\n"), ord("\r"), ord(" "), ord('"')
_BLOCK = 1 << 20


def raw_bytes(path: Path) -> bytes | mmap.mmap:
    """The file's bytes, decompressed; a plain file is mapped, not read."""
    if path.suffix == ".gz":
        try:
            return gzip.decompress(path.read_bytes())
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"the gzip file is damaged: {error}", file=path, remedy="fetch it again") from None
    if path.suffix in COMPRESSED:
        return "\n".join(_zstd_lines(path)).encode()
    if not path.stat().st_size:
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _zstd_lines(path: Path) -> list[str]:
    """Lines of a zstd file. The only decompressor surely installed is inside the CSV reader of Polars."""
    try:
        frame = pl.read_csv(
            path, separator="\x01", quote_char=None, has_header=False, infer_schema=False,
            encoding="utf8-lossy", truncate_ragged_lines=True,
        )  # fmt: skip
    except pl.exceptions.NoDataError:
        return []
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"the zstd file is damaged: {error}", file=path, remedy="fetch it again") from None
    return frame.to_series(0).fill_null("").to_list()


def to_utf8(content: bytes | mmap.mmap) -> tuple[bytes | mmap.mmap, int]:
    """Content as UTF-8, and how many lines were not: these are read as Windows-1252."""
    if all(_is_utf8(block) for block in _blocks(content)):
        return content, 0
    out, mended = [], 0
    for block in _blocks(content):
        if not _is_utf8(block):
            lines = block.split(b"\n")
            foreign = [at for at, line in enumerate(lines) if not _is_utf8(line)]
            for at in foreign:
                lines[at] = lines[at].decode("cp1252", errors="replace").encode("utf-8")
            mended += len(foreign)
            block = b"\n".join(lines)
        out.append(block)
    return b"".join(out), mended


def _blocks(content: bytes | mmap.mmap) -> Iterator[bytes]:
    """The content in blocks of about a megabyte, cut after newlines."""
    begin = 0
    while begin < len(content):
        cut = content.find(b"\n", min(begin + _BLOCK, len(content)))
        block = content[begin : len(content) if cut < 0 else cut + 1]
        begin += len(block)
        yield block


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@dataclasses.dataclass(frozen=True)
class Count:
    """What a delimited text holds.

    Parameters
    ----------
    records, separators, quoted: records, separators outside quotes, fields in quotes.
    torn: records with a quote that is never closed, or closed in the middle of its field.
    loose: quotes inside plain fields, which are part of the text.
    """

    records: int
    separators: int
    quoted: int = 0
    torn: int = 0
    loose: int = 0


def count(content: bytes | mmap.mmap, separator: str, quoted: bool) -> Count:
    """Count a delimited text without keeping anything."""
    data = np.frombuffer(content, np.uint8)
    if quoted:
        return Count(*map(int, _walk(data, ord(separator), True, *_NOTHING)))
    newlines, separators = _tally(data, ord(separator))
    return Count(int(newlines) + int(len(data) > 0 and data[-1] != _NEWLINE), int(separators))


@dataclasses.dataclass(frozen=True)
class Records:
    """Records of a delimited text.

    Parameters
    ----------
    content: the text.
    starts: int64[n + 1], where each record begins, in bytes.
    lines: int64[n], the line each begins on, from 1.
    fields: int32[n], fields of each; 0 for a blank line.
    torn: bool[n], whether a quote in it is out of place. Such a record ends with its line.
    """

    content: bytes | mmap.mmap
    starts: np.ndarray
    lines: np.ndarray
    fields: np.ndarray
    torn: np.ndarray

    @classmethod
    def scan(cls, content: bytes | mmap.mmap, separator: str, quoted: bool = True) -> Records:
        """Find the records of a delimited text."""
        n = count(content, separator, quoted).records
        data = np.frombuffer(content, np.uint8)
        starts, lines = np.full(n + 1, len(data), np.int64), np.empty(n, np.int64)
        fields, torn = np.empty(n, np.int32), np.zeros(n, bool)
        _walk(data, ord(separator), quoted, starts, lines, fields, torn)
        return cls(content, starts, lines, fields, torn)

    def __len__(self) -> int:
        return len(self.fields)

    def raw(self, record: int) -> bytes:
        """One record with its newline."""
        return self.content[int(self.starts[record]) : int(self.starts[record + 1])]

    def text(self, record: int) -> str:
        """One record as text, at most 500 characters."""
        return self.raw(record).decode("utf-8", errors="replace").strip("\r\n")[:500]

    def rewrite(self, records: np.ndarray, change: Callable[[int], bytes] = lambda record: b"") -> bytes:
        """The content with the given records (ascending) changed; left out unless told otherwise."""
        parts, begin = [], 0
        for record in map(int, records):
            parts += [self.content[begin : int(self.starts[record])], change(record)]
            begin = int(self.starts[record + 1])
        return b"".join([*parts, self.content[begin:]])

    def odd_quotes(self) -> np.ndarray:
        """Records with an odd number of quotes, ascending."""
        data, odd = np.frombuffer(self.content, np.uint8), np.zeros(len(self), dtype=bool)
        for begin in range(0, len(data), _BLOCK):
            places = np.flatnonzero(data[begin : begin + _BLOCK] == _QUOTE) + begin
            records, quotes = np.unique(np.searchsorted(self.starts, places, "right") - 1, return_counts=True)
            odd[records[quotes % 2 == 1]] ^= True
        return np.flatnonzero(odd)


_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, bool))


@kernel
def _tally(data: np.ndarray, cut: int) -> tuple[int, int]:
    newlines = separators = 0
    for byte in data:
        newlines += byte == _NEWLINE
        separators += byte == cut
    return newlines, separators


@kernel
def _walk(
    data: np.ndarray,
    cut: int,
    quotes: bool,
    starts: np.ndarray,
    lines: np.ndarray,
    fields: np.ndarray,
    torn: np.ndarray,
) -> tuple[int, int, int, int, int]:
    """One pass over the records; they are written down when there is room for them.

    A quote opens a field only as its first byte and closes it only before a separator or the end of the line;
    a doubled one inside stands for itself. A field that breaks this is read again as plain text, and its
    record is torn.
    """
    n, at, record, line = len(data), 0, 0, 1
    separators = quoted = broken = loose = 0
    while at < n:
        begin, first, cuts, bad, fresh, blank = at, line, 0, False, True, True
        while at < n and data[at] != _NEWLINE:
            byte = data[at]
            if byte == cut:
                cuts, fresh, blank, at = cuts + 1, True, False, at + 1
                continue
            if byte == _QUOTE and quotes:
                if fresh:
                    end, breaks, closed = at + 1, 0, False
                    while end < n:
                        if data[end] == _NEWLINE:
                            breaks += 1
                        elif data[end] == _QUOTE:
                            if end + 1 < n and data[end + 1] == _QUOTE:
                                end += 1
                            else:
                                after = end + 1
                                if after < n and data[after] == _RETURN:
                                    after += 1
                                closed = after >= n or data[after] == _NEWLINE
                                closed = closed or (after == end + 1 and data[after] == cut)
                                break
                        end += 1
                    if closed:
                        at, line, quoted, fresh, blank = end + 1, line + breaks, quoted + 1, False, False
                        continue
                    bad = True
                else:
                    loose += 1
            if byte != _RETURN and byte != _SPACE:
                blank = False
            fresh = False
            at += 1
        at, line = at + 1, line + 1
        if len(lines):
            starts[record], lines[record], torn[record] = begin, first, bad
            fields[record] = 0 if blank else cuts + 1
        record, separators, broken = record + 1, separators + cuts, broken + bad
    return record, separators, quoted, broken, loose
