"""The answer of a database to a query, as a table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import polars as pl

from zhiyin.core.errors import DataError, MissingExtraError
from zhiyin.core.memory import available_bytes
from zhiyin.data.dialect import Dialect
from zhiyin.data.table import FrameTable

_BATCH = 100_000


def query_table(url: str, query: str, dialect: Dialect | None = None) -> FrameTable:
    """The answer of PostgreSQL ("postgresql://...") or SQLite ("sqlite:///file.db") to a query."""
    name = re.sub(r"//[^@/]*@", "//", url)  # a password is never shown
    try:
        if url.startswith("sqlite:"):
            return FrameTable(_sqlite(url, query, name), name, dialect)
        return FrameTable(_postgres(url, query, name), name, dialect)
    except (DataError, MissingExtraError):
        raise
    except MemoryError:
        raise DataError("the answer does not fit into memory", file=name, remedy="ask for less, or by parts") from None
    except Exception as error:
        password = urlsplit(url).password
        said = str(error).replace(password, "***") if password else str(error)
        raise DataError(
            f"the query failed: {said}", file=name, remedy="check the address, the rights and the SQL"
        ) from error


def _sqlite(url: str, query: str, name: str) -> pl.DataFrame:
    import sqlite3

    path = _sqlite_path(url)
    if path is None:
        raise DataError("no such SQLite file", file=name, remedy="write sqlite:///relative or sqlite:////absolute")
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
    try:
        connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
        cursor = connection.execute(query)
        if cursor.description is None:
            raise DataError(
                "this is no query that gives rows", file=name, remedy="SELECT user_id, item_id, at FROM ..."
            )
        names = [column[0] for column in cursor.description]
        return _joined(_batches(cursor, names), name)
    finally:
        connection.close()


def _sqlite_path(url: str) -> Path | None:
    """The file of an address: as it is written, else with its %20 resolved; relative, else absolute."""
    written = url.removeprefix("sqlite:").removeprefix("//").removeprefix("/")
    for text in dict.fromkeys((written, unquote(written))):
        for path in (Path(text), Path("/") / text):
            if text and path.is_file():
                return path
    return None


def _batches(cursor: object, names: list[str]) -> Iterable[pl.DataFrame]:
    while rows := cursor.fetchmany(_BATCH):  # type: ignore[attr-defined]
        yield pl.DataFrame(
            {name: _column(name, list(cells)) for name, cells in zip(_unique(names), zip(*rows))}, strict=False
        )


def _unique(names: list[str]) -> list[str]:
    fresh: list[str] = []
    for at, name in enumerate(names, 1):
        fresh.append(f"{name}_{at}" if name in fresh else name)
    return fresh


def _column(name: str, cells: list[object]) -> pl.Series:
    """A column of SQLite, whose cells may be of several types: then it is text."""
    kinds = {type(cell) for cell in cells} - {type(None)}
    if len(kinds) > 1 and kinds != {int, float}:
        cells = [cell if cell is None or isinstance(cell, str) else str(cell) for cell in cells]
    elif kinds == {int, float}:
        cells = [None if cell is None else str(cell) if isinstance(cell, int) else repr(cell) for cell in cells]
    return pl.Series(name, cells, strict=False)


def _postgres(url: str, query: str, name: str) -> pl.DataFrame:
    try:
        import psycopg
    except ImportError:
        raise MissingExtraError("psycopg", "postgres", "reading from PostgreSQL") from None
    # A server-side cursor: the answer arrives in batches, not twice in memory.
    with psycopg.connect(url) as server, server.cursor(name="zhiyin_read") as cursor:
        cursor.execute(query.encode())
        return _joined(pl.read_database(query, cursor, iter_batches=True, batch_size=_BATCH), name)


def _joined(batches: Iterable[pl.DataFrame], name: str) -> pl.DataFrame:
    """All batches. Raises DataError for none, and when they grow past what memory has room for."""
    parts: list[pl.DataFrame] = []
    room, size = int(0.4 * available_bytes()), 0
    for batch in batches:
        size += int(batch.estimated_size())
        if size > room:
            raise DataError(
                f"the answer is larger than {room >> 20:,} MiB, and memory has no room for it",
                file=name, remedy="ask for fewer columns or rows, or read it by parts",
            )  # fmt: skip
        parts.append(batch)
    if not parts:
        raise DataError("the query gave no rows", file=name, remedy="check its conditions")
    return pl.concat(parts, how="vertical_relaxed")
