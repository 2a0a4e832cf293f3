"""Where rows stand in a delimited file: line numbers and raw text, found only for the rows that need them.

Reading a healthy file never comes here. Quoted fields may hold newlines, so a record is not a line; both are counted by
vectorised passes over blocks of bytes.
"""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np

from zhiyin.core.errors import DataError

_NEWLINE, _QUOTE = ord("\n"), ord('"')
_BLOCK = 1 << 24


def raw_bytes(path: Path) -> bytes | np.memmap:
    """The file's bytes, decompressed; a plain file is mapped, not read."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix in (".zst", ".zstd"):
        raise DataError(
            "some rows need a second look, which zstd files do not allow", file=path, remedy="decompress the file first"
        )
    return np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else b""


def to_utf8(content: bytes | np.ndarray) -> tuple[bytes, int]:
    """Bytes as UTF-8: lines that are not valid UTF-8 are read as Windows-1252. Returns them and how many there were."""
    raw = content if isinstance(content, bytes) else content.tobytes()
    mended, lines = 0, raw.split(b"\n")
    for number, line in enumerate(lines):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            lines[number] = line.decode("cp1252", errors="replace").encode("utf-8")
            mended += 1
    return b"\n".join(lines), mended


@dataclasses.dataclass(frozen=True)
class Records:
    """Start of each record (int64[n + 1], bytes), its line number (from 1), and its fields (separators + 1)."""

    content: np.ndarray
    starts: np.ndarray
    lines: np.ndarray
    fields: np.ndarray

    @classmethod
    def scan(cls, content: bytes | np.ndarray, separator: str, quoted: bool = True) -> Records:
        """Find the records of a delimited text."""
        data = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
        cut = ord(separator)
        starts, lines, ends = [np.zeros(1, np.int64)], [np.ones(1, np.int64)], []
        odd, line, separators = 0, 1, 0
        for begin in range(0, len(data), _BLOCK):
            block = np.asarray(data[begin : begin + _BLOCK])
            if quoted:
                inside = (np.cumsum(block == _QUOTE) + odd) & 1
                odd = int(inside[-1])
                outside = inside == 0
            else:
                outside = np.ones(len(block), dtype=bool)
            newline = block == _NEWLINE
            breaks = np.flatnonzero(newline & outside)
            starts.append(breaks + begin + 1)
            lines.append(np.cumsum(newline)[breaks] + line)
            ends.append(np.cumsum((block == cut) & outside)[breaks] + separators)
            line += int(newline.sum())
            separators += int(((block == cut) & outside).sum())
        at = np.concatenate(starts)
        counted = np.concatenate([np.zeros(1, np.int64), *ends])
        if at[-1] < len(data):
            at, counted = np.append(at, len(data)), np.append(counted, separators)
        fields = np.diff(counted) + 1
        return cls(data, at, np.concatenate(lines)[: len(fields)], fields)

    def __len__(self) -> int:
        return len(self.fields)

    def text(self, record: int) -> str:
        """One record as text, at most 500 characters."""
        raw = bytes(self.content[self.starts[record] : self.starts[record + 1]])
        return raw.decode("utf-8", errors="replace").strip("\r\n")[:500]

    def without(self, records: np.ndarray) -> bytes:
        """The content less the given records."""
        kept = np.ones(len(self.content), dtype=bool)
        for record in records:
            kept[self.starts[record] : self.starts[record + 1]] = False
        return np.asarray(self.content)[kept].tobytes()
