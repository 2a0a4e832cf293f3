"""JSON: an object a line, or one array of objects, on any number of lines."""

from __future__ import annotations

import io
import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.core.parallel import kernel
from zhiyin.data.encodings import note_encoding, to_utf8
from zhiyin.data.file_formats import compression_of, raw_bytes
from zhiyin.data.frame_table import FrameTable
from zhiyin.data.read_assumptions import Dialect
from zhiyin.data.table import TableFormat

_DEPTH = 100  # levels of lists and objects
_COLUMNS = 5_000
_ARRAY, _OBJECT = ord("["), ord("{")
_END_ARRAY, _END_OBJECT = ord("]"), ord("}")
_QUOTE, _BACKSLASH, _COMMA, _NEWLINE, _RETURN, _SPACE = map(ord, '"\\,\n\r ')


class JsonTable(FrameTable):
    """JSON, plain or packed. What is no JSON object is a bad row."""

    def __init__(self, path: Path, dialect: Dialect | None = None, content: bytes | mmap.mmap | None = None) -> None:
        self.path = path
        self.bad_lines: list[int] = []
        self.object_lines: np.ndarray | None = None
        raw = raw_bytes(path) if content is None else content
        decoded = to_utf8(raw, dialect.encoding if dialect else None)
        content = decoded.content
        if content[:3] == b"\xef\xbb\xbf":
            content = content[3:]
        first = _first_byte(content)
        if first < 0:
            raise DataError("the file is empty", file=path, remedy="name a file with at least one event")
        self._original = content
        is_lines = content[first] == _OBJECT and _balanced(content[first : content.find(b"\n", first) + 1 or None])
        self._is_lines = is_lines or content[first] not in (_ARRAY, _OBJECT)
        self._check_depth(content)
        self._content: bytes | mmap.mmap = content if self._is_lines else self._flattened(content)
        frame = self._frame()
        super().__init__(frame, str(path), dialect)
        self.format = TableFormat("JSON", compression_of(path), decoded.encoding)
        self.untyped = self._untyped
        note_encoding(decoded, path.name, self.findings)
        if frame.width > _COLUMNS:
            raise DataError(f"{frame.width:,} columns are more than a table has", file=path, remedy="name another file")

    def _check_depth(self, content: bytes | mmap.mmap) -> None:
        depth, line, _ = _deepest(np.frombuffer(content, np.uint8), self._is_lines)
        if depth > _DEPTH:
            raise DataError(
                f"lists and objects stand in each other {depth:,} levels deep", file=self.path, row=int(line),
                remedy='write one flat object an event: {"user": ..., "item": ...}',
            )  # fmt: skip

    def _flattened(self, content: bytes | mmap.mmap) -> bytes:
        """The objects of an array, or of a file of objects over several lines, one a line, each at its position."""
        out = np.frombuffer(content, np.uint8).copy()
        if _flatten(out) != 0:
            raise DataError(
                "the JSON ends before its array or object is closed", file=self.path, remedy="fetch the file again"
            )
        return out.tobytes()

    def _frame(self) -> pl.DataFrame:
        self._untyped: frozenset[str] = frozenset()
        try:
            frame = self._read_lines(self.path if isinstance(self._content, mmap.mmap) else self._content)
        except pl.exceptions.PolarsError:
            return self._line_by_line()
        if not frame.width:
            raise DataError("no line is a JSON object", file=self.path, remedy='write one {"user": ...} a line')
        nested = [n for n, t in frame.schema.items() if isinstance(t, pl.List) and isinstance(t.inner, pl.Struct)]
        if len(frame) == 1 and nested:
            raise DataError(
                f"the file is one object, and its rows stand under {nested[0]!r}", file=self.path,
                remedy="write that list alone, or one object a line",
            )  # fmt: skip
        return frame

    def _read_lines(self, source: Path | bytes) -> pl.DataFrame:
        """Objects a line. Numbers that are no 64-bit integers are read as they are written: they may be ids."""

        def opened() -> Any:
            return source if isinstance(source, Path) else io.BytesIO(source)

        schema = pl.scan_ndjson(opened(), infer_schema_length=None).collect_schema()
        self._untyped = frozenset(n for n, t in schema.items() if t.is_float() or t in (pl.Int128, pl.UInt64))
        overrides = dict.fromkeys(self._untyped, pl.String)
        return pl.read_ndjson(opened(), infer_schema_length=None, schema_overrides=overrides)

    def _line_by_line(self) -> pl.DataFrame:
        """Read a file that Polars cannot read, line by line."""
        lines = self._lines()
        objects = [_object(line) for line in lines]
        self.bad_lines = [at for at, (line, record) in enumerate(zip(lines, objects)) if line and record is None]
        self.object_lines = np.array([at for at, record in enumerate(objects) if record is not None], dtype=np.int64)
        if not len(self.object_lines):
            raise DataError("no line is a JSON object", file=self.path, remedy='write one {"user": ...} a line')
        text = "\n".join(lines[at].removesuffix(",") for at in self.object_lines).encode()
        try:
            return self._read_lines(text)
        except pl.exceptions.PolarsError:  # a field that is a number here and an object there
            frame, self._untyped = _frame_of([record for record in objects if record is not None])
            return frame

    def _lines(self) -> list[str]:
        return [line.strip() for line in self._content[:].decode("utf-8", errors="replace").split("\n")]

    def _source_lines(self, at: np.ndarray) -> list[int]:
        """Lines of the file, from 1, of lines of the content."""
        if self._is_lines:
            return (at + 1).tolist()
        ends = np.flatnonzero(np.frombuffer(self._content, np.uint8) == _NEWLINE)
        starts = np.concatenate([[0], ends + 1])
        newlines = np.flatnonzero(np.frombuffer(self._original, np.uint8) == _NEWLINE)
        text = np.frombuffer(self._content, np.uint8)
        line_numbers = []
        for start in starts[at].tolist():
            while start < len(text) and text[start] in (_SPACE, _RETURN):
                start += 1
            line_numbers.append(int(np.searchsorted(newlines, start)) + 1)
        return line_numbers

    def set_aside(self) -> list[tuple[int, str, str]]:
        if not self.bad_lines:
            return []
        lines, numbers = self._lines(), self._source_lines(np.array(self.bad_lines))
        return [(number, "not a JSON object", lines[at][:500]) for at, number in zip(self.bad_lines, numbers)]

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        lines = self._lines()
        object_lines = (
            self.object_lines if self.object_lines is not None else np.flatnonzero([bool(line) for line in lines])
        )
        at = object_lines[np.asarray(rows, dtype=np.int64)]
        return [(number, lines[line][:500]) for line, number in zip(at.tolist(), self._source_lines(at))]


def _first_byte(content: bytes | mmap.mmap) -> int:
    """Position of the first byte that is no white space; -1 for none."""
    for begin in range(0, len(content), 1 << 16):
        block = content[begin : begin + (1 << 16)]
        stripped = block.lstrip()
        if stripped:
            return begin + len(block) - len(stripped)
    return -1


def is_json(content: bytes | mmap.mmap) -> bool:
    """Whether a content without a telling name is JSON: objects a line, or an array of them."""
    head = content[: 1 << 16].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] == b"{":
        line = head.split(b"\n", 1)[0]
        return _object(line.decode("utf-8", errors="replace")) is not None or head[1:].lstrip()[:1] == b'"'
    return head[:1] == b"[" and head[1:].lstrip()[:1] in (b"{", b"[")


def looks_like_json(content: bytes | mmap.mmap) -> bool:
    """Whether a content that is named as JSON may be some: anything but lines of text without a brace or a bracket."""
    head = content[: 1 << 16]
    return not head.strip() or b"{" in head or b"[" in head or b"\x00" in head or b'"' in head[:1]


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line.removesuffix(","))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _frame_of(objects: list[dict[str, Any]]) -> tuple[pl.DataFrame, frozenset[str]]:
    """A frame of objects whose fields do not agree on their types: nested ones become JSON text. Also the columns of
    numbers that no one type holds, as they are written."""
    columns, untyped = {}, set()
    for name in dict.fromkeys(name for record in objects for name in record):
        cells = [record.get(name) for record in objects]
        cells = [json.dumps(cell) if isinstance(cell, dict | list) else cell for cell in cells]
        kinds = {type(cell) for cell in cells if cell is not None}
        if kinds <= {int, float} and kinds != {int}:
            untyped.add(name)
        if (
            name in untyped
            or len(kinds) > 1
            or (int in kinds and any(abs(cell) >= 2**63 for cell in cells if cell is not None))
        ):
            cells = [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells]
        columns[name] = pl.Series(name, cells, strict=False)
    return pl.DataFrame(columns), frozenset(untyped)


def _balanced(line: bytes) -> bool:
    """Whether every bracket of a line is closed in it, or it is too broken to tell."""
    return int(_deepest(np.frombuffer(line, np.uint8), False)[2]) <= 0


@kernel
def _deepest(data: np.ndarray, lines: bool) -> tuple[int, int, int]:
    """The deepest level, the line it is on, and the level at the end. `lines`: the level is 0 again in every line."""
    depth = deepest = at = 0
    line, where, quoted = 1, 1, False
    while at < len(data):
        byte = data[at]
        if byte == _NEWLINE:
            line += 1
            if lines:
                depth, quoted = 0, False
        elif quoted:
            if byte == _BACKSLASH and at + 1 < len(data) and data[at + 1] != _NEWLINE:
                at += 1
            elif byte == _QUOTE:
                quoted = False
        elif byte == _QUOTE:
            quoted = True
        elif byte in (_ARRAY, _OBJECT):
            depth += 1
            if depth > deepest:
                deepest, where = depth, line
        elif byte in (_END_ARRAY, _END_OBJECT):
            depth -= 1
        at += 1
    return deepest, where, depth


@kernel
def _flatten(data: np.ndarray) -> int:
    """Make an array, or objects over several lines, one object a line, in place; the number of brackets left open.

    The brackets of an array around all become spaces, commas and the room between its elements a newline, and
    newlines inside of an element spaces.
    """
    depth, outer, quoted, at, begun = 0, 0, False, 0, False
    while at < len(data):
        byte = data[at]
        if quoted:
            if byte == _BACKSLASH:
                at += 1
            elif byte == _QUOTE:
                quoted = False
            elif byte == _NEWLINE:
                data[at] = _SPACE
        elif byte == _QUOTE:
            quoted = True
        elif byte == _ARRAY and depth == 0 and not begun:
            data[at], outer, depth, begun = _SPACE, 1, 1, True
        elif byte in (_ARRAY, _OBJECT):
            depth, begun = depth + 1, True
        elif byte in (_END_ARRAY, _END_OBJECT):
            depth -= 1
            if outer == 1 and depth == 0:
                data[at], outer, begun = _SPACE, 0, False
        elif byte == _COMMA and depth == outer:
            data[at] = _NEWLINE
        elif byte in (_NEWLINE, _RETURN):
            data[at] = _SPACE if depth > 0 or byte == _RETURN else _NEWLINE
        at += 1
    return depth
