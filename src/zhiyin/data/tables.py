"""The table behind a path, a frame or a query, told by its content."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from zhiyin.core.errors import DataError, nearest
from zhiyin.data.containers import UNPACKED, as_file, format_of, format_of_file, plain_name, raw_bytes
from zhiyin.data.dialect import Dialect
from zhiyin.data.json_table import JsonTable, is_json
from zhiyin.data.sql import query_table
from zhiyin.data.table import FrameTable, Loaded, ParquetTable, Table, Use
from zhiyin.data.text_table import TextTable

__all__ = [
    "ENDINGS", "FrameTable", "JsonTable", "Loaded", "ParquetTable", "Table", "TextTable", "Use", "open_table",
    "query_table",
]  # fmt: skip

TEXT_ENDINGS = (".csv", ".tsv", ".psv", ".dat", ".data", ".txt", ".inter", ".item", ".user")
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
ENDINGS = (*TEXT_ENDINGS, *JSON_ENDINGS, ".parquet", ".pq", ".arrow", ".feather", ".ipc")


def open_table(source: Any, dialect: Dialect | None = None) -> Table:
    """The table behind a path or a frame."""
    if not isinstance(source, str | Path):
        return _with_rows(FrameTable(source, dialect=dialect))
    path = Path(source)
    if not path.exists():
        beside = sorted(other.name for other in path.parent.iterdir()) if path.parent.is_dir() else []
        close = f"; {nearest(path.name, beside)}" if get_close_matches(path.name, beside) else ""
        remedy = f"check the path; it is taken from the current directory{close}"
        raise DataError("no such file", file=path, remedy=remedy)
    try:
        return _with_rows(_open(path, dialect))
    except MemoryError:
        raise DataError("the file does not fit into memory", file=path, remedy="read it by parts") from None


def _open(path: Path, dialect: Dialect | None) -> Table:
    kind, name = format_of_file(path), plain_name(path)
    content = None
    if kind not in UNPACKED or kind == "text":
        content = raw_bytes(path)
        kind = format_of(content[:16])
    if kind == "text" and name.endswith((".parquet", ".pq")):
        raise DataError("not a Parquet file: it does not begin as one", file=path, remedy="check how it was written")
    if kind == "parquet":
        return ParquetTable(path, dialect) if content is None else _frame(path, pl.read_parquet, content, dialect)
    if kind == "arrow":
        return _frame(path, pl.read_ipc, raw_bytes(path) if content is None else content, dialect)
    if kind == "sqlite":
        raise DataError(
            "this is a SQLite database", file=path,
            remedy=f"name it with a query: zhiyin init 'sqlite:///{path}' --query 'SELECT user_id, item_id, at FROM t'",
        )  # fmt: skip
    assert content is not None
    if name.endswith(JSON_ENDINGS) or is_json(content):
        return JsonTable(path, dialect, content)
    return TextTable(path, dialect, content)


def _frame(path: Path, read: Any, content: Any, dialect: Dialect | None) -> FrameTable:
    try:
        return FrameTable(read(as_file(content)), str(path), dialect)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"the file is damaged: {error}", file=path, remedy="check how it was written") from None


def _with_rows(table: Table) -> Table:
    """The table. Raises DataError for one without rows."""
    if table.sample.is_empty():
        raise DataError(
            f"there is no row in it; its columns: {', '.join(table.columns) or 'none'}",
            file=table.name,
            remedy="name a source with at least one event",
        )
    return table
