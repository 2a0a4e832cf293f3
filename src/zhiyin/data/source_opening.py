"""The table of a path, a frame or a query, by the format of its content."""

from __future__ import annotations

import mmap
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import polars as pl

from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.data.delimited_text import TextTable
from zhiyin.data.file_formats import UNPACKED, as_file, compression_of, format_of, format_of_file, plain_name, raw_bytes
from zhiyin.data.frame_table import FrameTable, ParquetTable, partition_keys
from zhiyin.data.json_table import JsonTable, is_json, looks_like_json
from zhiyin.data.read_assumptions import Dialect
from zhiyin.data.sql_query import query_table
from zhiyin.data.table import Loaded, Table, TableFormat, Use

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
    path = local_path(source)
    if not _exists(path):
        raise _no_such_file(path)
    try:
        return _with_rows(_open(path, dialect))
    except MemoryError:
        raise DataError("the file does not fit into memory", file=path, remedy="read it by parts") from None


def local_path(source: str | Path) -> Path:
    """The path that a source names, one of the form file:///... too. Raises ConfigError for an address that no file of
    this machine has."""
    text = str(source)
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    if "://" in text and not _exists(Path(text)):
        scheme = text.partition("://")[0]
        if scheme.partition("+")[0] in ("postgresql", "postgres", "sqlite"):
            raise ConfigError(
                "a database address needs a query", remedy='query="SELECT user_id, item_id, at FROM events"'
            )
        raise ConfigError(
            f"{scheme}:// is no address that is read", remedy="download the file, and name that; or give a frame"
        )
    return Path(text)


def is_folder(source: str | Path) -> bool:
    """Whether a source names a folder; not for what cannot be a path."""
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a path can be: a text that was meant as the content
        return False


def _no_such_file(path: Path) -> DataError:
    short_path = path if len(str(path)) <= 300 else Path(f"{str(path)[:100]}...")
    if len(str(path)) > 300 or "\n" in str(path):
        return DataError("no such file", file=short_path, remedy="give a path or a frame; a text is taken as a path")
    if path.is_symlink():
        return DataError("this link leads to no file", file=path, remedy=f"it leads to {path.readlink()}")
    if any(mark in path.name for mark in "*?["):
        return DataError("no such file", file=path, remedy="patterns are not expanded: name the folder, or a list")
    siblings = sorted(other.name for other in path.parent.iterdir()) if is_folder(path.parent) else []
    close = f"; {suggest(path.name, siblings)}" if get_close_matches(path.name, siblings) else ""
    return DataError("no such file", file=path, remedy=f"check the path; it is taken from the current directory{close}")


def _open(path: Path, dialect: Dialect | None) -> Table:
    kind, name = format_of_file(path), plain_name(path)
    content = None
    if kind not in UNPACKED or kind == "text":
        content = raw_bytes(path)
        kind = format_of(content[:512])
    if kind == "text" and name.endswith((".parquet", ".pq")):
        raise DataError("not a Parquet file: it does not begin as one", file=path, remedy="check how it was written")
    if kind == "parquet":
        return (
            ParquetTable(path, dialect)
            if content is None
            else _frame(path, "Parquet", pl.read_parquet, content, dialect)
        )
    if kind == "arrow":
        return _frame(path, "Arrow", pl.read_ipc, raw_bytes(path) if content is None else content, dialect)
    if kind == "sqlite":
        raise DataError(
            "this is a SQLite database", file=path,
            remedy=f"name it with a query: zhiyin init 'sqlite:///{path}' --query 'SELECT user_id, item_id, at FROM t'",
        )  # fmt: skip
    assert content is not None
    table = _text_or_json(path, name, dialect, content)
    if keys := partition_keys(path):
        table.findings.note(f"not used: {', '.join(keys)}, which only the names of folders say")
    return table


def _text_or_json(path: Path, name: str, dialect: Dialect | None, content: bytes | mmap.mmap) -> Table:
    if is_json(content) or (name.endswith(JSON_ENDINGS) and looks_like_json(content)):
        return JsonTable(path, dialect, content)
    return TextTable(path, dialect, content)


def _frame(path: Path, name: str, read: Any, content: Any, dialect: Dialect | None) -> FrameTable:
    try:
        return FrameTable(read(as_file(content)), str(path), dialect, TableFormat(name, compression_of(path)))
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
