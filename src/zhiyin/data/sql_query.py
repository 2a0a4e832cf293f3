"""The result of a database query, as a table."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import polars as pl

from zhiyin.core.errors import ConfigError, DataError, MissingExtraError, ZhiyinError
from zhiyin.core.memory import available_bytes
from zhiyin.data.frame_table import FrameTable
from zhiyin.data.read_assumptions import Dialect
from zhiyin.data.table import TableFormat

_BATCH = 100_000
_STEPS = 20_000  # instructions of SQLite between two checks of the time limit


@dataclasses.dataclass
class QueryLimit:
    """Limits of one query; its time starts when this is constructed.

    Parameters
    ----------
    seconds: until the last row has come.
    rows: of the result, at most.
    """

    seconds: float = 600.0
    rows: int = 100_000_000
    started_at: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.started_at > self.seconds

    def check(self, rows: int, name: str) -> None:
        """Raise DataError where a result exceeds the limit of rows or of time. rows: received so far."""
        if rows > self.rows:
            raise DataError(
                f"the answer has more than {self.rows:,} rows", file=name,
                remedy="ask for less, or allow more: query_rows = ... under [data]",
            )  # fmt: skip
        if self.is_over:
            raise DataError(
                f"the query was stopped after {self.seconds:,.0f} s; {rows:,} rows had come", file=name,
                remedy='see that it ends, or allow more: query_timeout = "30m" under [data]',
            )  # fmt: skip


def query_table(url: str, query: str, dialect: Dialect | None = None, limit: QueryLimit | None = None) -> FrameTable:
    """The answer of PostgreSQL ("postgresql://...") or SQLite ("sqlite:///file.db") to a query, within a limit."""
    name = shown_address(url)
    scheme, mark, rest = url.partition(":")
    if scheme.partition("+")[0] not in ("sqlite", "postgresql", "postgres"):
        raise ConfigError(
            f"{scheme if mark else name} is no database that is read",
            remedy="postgresql://... or sqlite:///...; of another one, export the events to a file",
        )
    url, limit = f"{scheme.partition('+')[0]}:{rest}", limit or QueryLimit()
    with failures_as_data_errors(url, limit):
        answer = (_sqlite if scheme.startswith("sqlite") else _postgres)(url, query, name, limit)
        return FrameTable(answer, name, dialect, TableFormat("query"))


def shown_address(url: str) -> str:
    """An address without user and password, as it is shown."""
    return re.sub(r"([?&])password=[^&]*&?", r"\1", re.sub(r"//[^@/]*@", "//", url)).rstrip("?&")


def without_password(text: str, url: str) -> str:
    """A text in which the password of an address is replaced, also where it is written with %20."""
    parts = urlsplit(url)
    passwords = {parts.password or "", *parse_qs(parts.query).get("password", ())}
    for password in sorted({*passwords, *map(unquote, passwords)} - {""}):
        text = text.replace(password, "***")
    return text


@contextmanager
def failures_as_data_errors(url: str, limit: QueryLimit) -> Iterator[None]:
    """Errors of a database as DataError, without the password of its address."""
    name = shown_address(url)
    try:
        yield
    except ZhiyinError:
        raise
    except MemoryError:
        raise DataError("the answer does not fit into memory", file=name, remedy="ask for less, or by parts") from None
    except Exception as error:
        limit.check(0, name)
        raise DataError(
            f"the query failed: {without_password(str(error), url)}", file=name,
            remedy="check the address, the rights and the SQL",
        ) from error  # fmt: skip


def _sqlite(url: str, query: str, name: str, limit: QueryLimit) -> pl.DataFrame:
    import sqlite3

    path = _sqlite_path(url)
    if path is None:
        raise DataError("no such SQLite file", file=name, remedy="write sqlite:///relative or sqlite:////absolute")
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
    try:
        connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
        connection.set_progress_handler(lambda: limit.is_over, _STEPS)
        cursor = connection.execute(query)
        if cursor.description is None:
            raise DataError(
                "this is no query that gives rows", file=name, remedy="SELECT user_id, item_id, at FROM ..."
            )
        names = [column[0] for column in cursor.description]
        return _joined(_batches(cursor, names), name, limit)
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
    if bytes in kinds and kinds != {bytes}:
        cells = [cell.decode("utf-8", errors="replace") if isinstance(cell, bytes) else cell for cell in cells]
    if kinds == {int, float} and all(cell.is_integer() for cell in cells if isinstance(cell, float)):
        cells, kinds = [None if cell is None else int(cell) for cell in cells], {int}  # type: ignore[call-overload]
    if len(kinds) > 1 and kinds != {int, float}:
        cells = [cell if cell is None or isinstance(cell, str) else str(cell) for cell in cells]
    elif kinds == {int, float}:
        cells = [None if cell is None else str(cell) if isinstance(cell, int) else repr(cell) for cell in cells]
    return pl.Series(name, cells, strict=False)


def _postgres(url: str, query: str, name: str, limit: QueryLimit) -> pl.DataFrame:
    try:
        import psycopg
    except ImportError:
        raise MissingExtraError("psycopg", "postgres", "reading from PostgreSQL") from None
    # A server-side cursor: the answer arrives in batches, not twice in memory.
    with psycopg.connect(url) as server, server.cursor(name="zhiyin_read") as cursor:
        server.execute(f"SET statement_timeout = {max(1, int(limit.seconds * 1000))}")  # of each batch
        cursor.execute(query.encode())
        return _joined(pl.read_database(query, cursor, iter_batches=True, batch_size=_BATCH), name, limit)


def _joined(batches: Iterable[pl.DataFrame], name: str, limit: QueryLimit) -> pl.DataFrame:
    """All batches. Raises DataError for none, and when they grow past the limit or what memory has room for."""
    parts: list[pl.DataFrame] = []
    room, size, rows = int(0.4 * available_bytes()), 0, 0
    for batch in batches:
        size, rows = size + int(batch.estimated_size()), rows + len(batch)
        limit.check(rows, name)
        if size > room:
            raise DataError(
                f"the answer is larger than {room >> 20:,} MiB, and memory has no room for it",
                file=name, remedy="ask for fewer columns or rows, or read it by parts",
            )  # fmt: skip
        parts.append(batch)
    if not parts:
        raise DataError("the query gave no rows", file=name, remedy="check its conditions")
    return pl.concat(parts, how="vertical_relaxed")
