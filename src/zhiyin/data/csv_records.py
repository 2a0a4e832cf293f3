"""Records of a delimited file: their positions in bytes, line numbers and raw text.

A healthy file is only counted (`count`), to verify that no row was lost on the way into a frame. The records are
located where a row has to be read again or reported. Quoted fields may hold newlines, so a record is not a line.
"""

from __future__ import annotations

import dataclasses
import mmap
from collections.abc import Callable

import numpy as np

from zhiyin.core.parallel import kernel

_NEWLINE, _RETURN, _SPACE, _QUOTE = ord("\n"), ord("\r"), ord(" "), ord('"')
_ZERO, _NINE, _PLUS, _MINUS = ord("0"), ord("9"), ord("+"), ord("-")
_BLOCK = 1 << 20


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
    """Count the records of a delimited text, without storing them."""
    data = np.frombuffer(content, np.uint8)
    if quoted:
        return Count(*map(int, _walk(data, ord(separator), True, *_NOTHING)))
    newlines, separators = _tally(data, ord(separator))
    return Count(int(newlines) + int(len(data) > 0 and data[-1] != _NEWLINE), int(separators))


def has_leading_zeros(content: bytes | mmap.mmap, separator: str) -> bool:
    """Whether any field begins as no whole number is written: "007", "+5" or "-0"."""
    data = np.frombuffer(content, np.uint8)
    return any(
        _leading_zero(data[max(0, begin - 2) : begin + _BLOCK], ord(separator), begin == 0)
        for begin in range(0, len(data), _BLOCK)
    )


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
        """The content with the given records (ascending) replaced by `change`; by default they are removed."""
        parts, begin = [], 0
        for record in map(int, records):
            parts += [self.content[begin : int(self.starts[record])], change(record)]
            begin = int(self.starts[record + 1])
        return b"".join([*parts, self.content[begin:]])

    def holding(self, text: bytes) -> np.ndarray:
        """bool[n], records that hold some bytes."""
        hits, at = np.zeros(len(self), dtype=bool), self.content.find(text)
        while at >= 0:
            record = int(np.searchsorted(self.starts, at, "right")) - 1
            hits[record] = True
            at = self.content.find(text, int(self.starts[record + 1]))
        return hits

    def equal_to(self, text: bytes) -> np.ndarray:
        """bool[n], records that are some bytes, their line end aside."""
        hits = np.zeros(len(self), dtype=bool)
        at = 0 if self.content[: len(text)] == text else self._next(text, 0)
        while at >= 0:
            record = int(np.searchsorted(self.starts, at, "right")) - 1
            if int(self.starts[record]) == at and self.raw(record).rstrip(b"\r\n") == text:
                hits[record] = True
            at = self._next(text, at + 1)
        return hits

    def _next(self, text: bytes, begin: int) -> int:
        """Where a line begins with some bytes, from a place on; -1 for nowhere."""
        at = self.content.find(b"\n" + text, max(0, begin - 1))
        return at + 1 if at >= 0 else -1

    def odd_quotes(self) -> np.ndarray:
        """Records with an odd number of quotes, ascending."""
        data, odd = np.frombuffer(self.content, np.uint8), np.zeros(len(self), dtype=bool)
        for begin in range(0, len(data), _BLOCK):
            quote_bytes = np.flatnonzero(data[begin : begin + _BLOCK] == _QUOTE) + begin
            records, quotes = np.unique(np.searchsorted(self.starts, quote_bytes, "right") - 1, return_counts=True)
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
def _leading_zero(data: np.ndarray, cut: int, first: bool) -> bool:
    hits = 0
    for at in range(0 if first else 1, len(data) - 1):
        before = _NEWLINE if at == 0 else data[at - 1]
        byte, after = data[at], data[at + 1]
        begins = (before == cut) | (before == _NEWLINE) | (before == _QUOTE) | (before == _SPACE)
        digit = (after >= _ZERO) & (after <= _NINE)
        odd = ((byte == _ZERO) & digit) | ((byte == _PLUS) & digit) | ((byte == _MINUS) & (after == _ZERO))
        hits += begins & odd
    return hits > 0


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
    """One pass over the records. Their positions are stored where the arrays have room.

    A quote opens a field only as its first byte and closes it only before a separator or the end of the line;
    a doubled one inside is one quote of the text. A field that breaks this is read again as plain text, and its
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
