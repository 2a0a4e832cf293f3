"""Queries of PostgreSQL on Spark: tasks read parts of the answer by JDBC and write them into the shared folder.

The answer is cut by ranges of a column of whole numbers, in the order of that column: `seq` where the answer has it, or
the one that the option `zhiyin.jdbc.partition` names. Without such a column it is cut by a hash of the user, each task
running the query; the events of a user keep their order then. All parts are read as of one moment: this process holds a
transaction whose snapshot they share.

Values are sent as whole numbers, floats, booleans and texts, and become here what `query_table` makes of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from zhiyin.core.errors import ConfigError, DataError, EngineError
from zhiyin.core.run import Run
from zhiyin.data.read_assumptions import Dialect
from zhiyin.data.role_inference import guess_roles
from zhiyin.data.sql_query import (
    QueryLimit,
    failures_as_data_errors,
    query_table,
    shown_address,
    without_password,
)
from zhiyin.data.table import SAMPLE_ROWS, Table, typed_sample
from zhiyin.engines.array_files import write_batches
from zhiyin.engines.spark.engine import BLOCKS_PER_SLOT, SparkEngine
from zhiyin.engines.spark.event_log import block_name
from zhiyin.engines.spark.jdbc_driver import (
    DRIVER,
    PARTITION,
    connection_settings,
    driver_jar,
    missing_driver,
    untranslated,
)
from zhiyin.engines.spark.query_answer import AnswerTable

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa

DEFAULT_PARTITION = "seq"
_POSTGRES = ("postgresql", "postgres")
_MICROSECONDS = "(extract(epoch FROM {0}) * 1000000)::int8"


@dataclasses.dataclass(frozen=True)
class _Sent:
    """How values of a type of PostgreSQL are sent: an SQL expression of the column {0}, and the type they become."""

    expression: str
    dtype: pl.DataType


_WHOLE, _TEXT, _FLOAT = (
    _Sent("{0}::int8", pl.Int64()), _Sent("{0}::text", pl.String()), _Sent("{0}::text::float8", pl.Float64()),
)  # fmt: skip
# By the type's name in PostgreSQL. A cast of char(n) to text would drop the blanks at its end.
_SENT = {
    "int2": _WHOLE, "int4": _WHOLE, "int8": _WHOLE, "oid": _WHOLE,
    "text": _TEXT, "varchar": _TEXT, "name": _TEXT, "uuid": _TEXT,
    "bpchar": _Sent("CASE WHEN {0} IS NOT NULL THEN format('%s', {0}) END", pl.String()),
    "bool": _Sent("{0}", pl.Boolean()), "float4": _FLOAT, "float8": _FLOAT,
    "date": _Sent("({0} - DATE '1970-01-01')::int4", pl.Date()),
    "timestamp": _Sent(_MICROSECONDS, pl.Datetime("us")),
    "timestamptz": _Sent(_MICROSECONDS, pl.Datetime("us", "UTC")),
}  # fmt: skip
_WHOLE_TYPES = ("int2", "int4", "int8")


@dataclasses.dataclass
class QueryReader:
    """Opens the answers of queries for a reading plan: of PostgreSQL in parts, of others by this process.

    Parameters
    ----------
    columns: roles that the caller has named, as `read` takes them.

    Attributes
    ----------
    reasons: by the name of a table, why it was read by this process.
    folders: of the answers that were read in parts; they are removed by `close`.
    """

    engine: SparkEngine
    run: Run
    columns: Mapping[str, Any] | None = None
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    folders: list[Path] = dataclasses.field(default_factory=list)

    def open(self, url: str, query: str, dialect: Dialect, limit: QueryLimit | None) -> Table:
        """As `query_table`. Raises ConfigError where Spark has no JDBC driver."""
        limit, name = limit or QueryLimit(), shown_address(url)
        scheme, _, rest = url.partition(":")
        reason = "it is no PostgreSQL"
        if scheme.partition("+")[0] in _POSTGRES and _has_psycopg():
            reason = "its query has a ?" if "?" in query else ""
            if not reason:
                answer = self._in_parts(f"postgresql:{rest}", query, dialect, limit)
                if isinstance(answer, Table):
                    return answer
                reason = answer
        self.reasons[name] = reason
        return query_table(url, query, dialect, limit)

    def close(self) -> None:
        for folder in self.folders:
            self.engine.remove(folder)

    def _in_parts(self, url: str, query: str, dialect: Dialect, limit: QueryLimit) -> Table | str:
        """The answer, or why it cannot be read in parts."""
        import psycopg

        name = shown_address(url)
        with failures_as_data_errors(url, limit), psycopg.connect(url) as server:
            if reason := untranslated(server, url):
                return reason
            server.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            timeout = max(1, int(limit.seconds * 1000))
            server.execute(f"SET statement_timeout = {timeout}")
            server.execute("SET idle_in_transaction_session_timeout = 0")
            answer = _Answer.describe(server, query)
            if isinstance(answer, str):
                return answer
            predicates = self._predicates(server, answer, name)
            row = server.execute("SELECT pg_export_snapshot()").fetchone()
            assert row is not None
            address, properties = connection_settings(server)
            properties["sessionInitStatement"] = (
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;"
                f" SET TRANSACTION SNAPSHOT '{row[0]}'; SET LOCAL statement_timeout = {timeout}"
            )
            folder = self.engine.new_folder("answer")
            self.folders.append(folder)
            secrets = {url, properties.get("password", "")} - {""}
            counts = self._read(address, properties, answer, predicates, folder, name, limit, secrets)
        limit.check(sum(counts), name)
        files = [folder / f"{block_name(part)}.arrow" for part, n in enumerate(counts) if n]
        if not files:
            raise DataError("the query gave no rows", file=name, remedy="check its conditions")
        objects = [column for column, type in zip(answer.names, answer.types) if type == "uuid"]
        return AnswerTable(files, name, dialect, objects)

    def _predicates(self, server: psycopg.Connection[Any], answer: _Answer, name: str) -> list[str]:
        """Conditions of SQL, of which each row of the answer satisfies one. Sets what the answer is ordered by."""
        named = self.engine.settings.get(PARTITION)
        column = named or (DEFAULT_PARTITION if DEFAULT_PARTITION in answer.whole_columns else None)
        if named and named not in answer.whole_columns:
            raise ConfigError(
                f"{PARTITION}: the answer has no column {named!r} of whole numbers",
                remedy=f"name one of {', '.join(answer.whole_columns) or 'none'}, or leave it out",
            )
        if column is not None:
            at = answer.order_by(column)
            low, high = server.execute(f"SELECT min({at}), max({at}) FROM {answer.source}".encode()).fetchone() or (
                None, None
            )  # fmt: skip
            return range_predicates(at, low, high, BLOCKS_PER_SLOT * self.engine.slots)
        user = (self.columns or {}).get("user") or self._guessed_user(server, answer, name)
        if user not in answer.names:
            return ["TRUE"]  # planning says that there is no such column
        number = f"hashtextextended(coalesce({answer.column(user)}::text, ''), 0)"
        n = max(1, self.engine.slots)
        return [f"abs({number} % {n}) = {part}" for part in range(n)]

    def _guessed_user(self, server: psycopg.Connection[Any], answer: _Answer, name: str) -> str:
        with server.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {answer.source} LIMIT {SAMPLE_ROWS}".encode())
            rows = cursor.fetchall()
        sample = pl.DataFrame(rows, schema=answer.names, orient="row", infer_schema_length=None)
        if sample.is_empty():
            return answer.names[0]
        named = {role: value for role, value in (self.columns or {}).items() if isinstance(value, str) and value}
        roles = {role: value for role, value in named.items() if role in ("user", "item", "time", "rating", "kind")}
        return guess_roles(typed_sample(sample), roles, name).user

    def _read(
        self,
        address: str,
        properties: dict[str, str],
        answer: _Answer,
        predicates: list[str],
        folder: Path,
        name: str,
        limit: QueryLimit,
        secrets: set[str],
    ) -> list[int]:
        """Read the parts into files. Returns their numbers of rows."""
        session = self.engine.session
        jar = driver_jar(self.engine.settings)
        if self.engine.is_connect and jar is not None and not self.engine.has_driver:
            session.addArtifacts(str(jar))
            self.engine.has_driver = True
        write = partial(_write_part, str(folder), answer.dtypes, name, limit.rows)
        try:
            frame = session.read.jdbc(address, answer.table, predicates=predicates, properties=properties)
            frame = frame.select(*(f"v{at}" for at in range(len(answer.names))))
            return self.engine.run_partitions(frame, write, len(predicates), self.run, f"Reading {name}")
        except (ConfigError, DataError):
            raise
        except Exception as error:
            text = str(error)
            if "ClassNotFoundException" in text and DRIVER in text:
                raise missing_driver() from None
            from zhiyin.engines.spark.job_errors import SEE_LOG, job_error

            failure = error if isinstance(error, EngineError) else job_error(error, f"Reading {name}")
            message = failure.message
            for secret in secrets:
                message = without_password(message, secret) if "://" in secret else message.replace(secret, "***")
            raise EngineError(message, remedy=failure.remedy or SEE_LOG) from None


@dataclasses.dataclass
class _Answer:
    """The columns of an answer, named c0, c1, ... in SQL.

    Parameters
    ----------
    source: the query, as SQL after FROM.
    names: of the columns. types: names of their types in PostgreSQL.
    zone: time zone of moments, of the session of PostgreSQL.
    order: column that the rows are ordered by; None: as the query has them.
    """

    source: str
    names: list[str]
    types: list[str]
    zone: str
    order: str | None = None

    @classmethod
    def describe(cls, server: psycopg.Connection[Any], query: str) -> _Answer | str:
        """The answer to a query, or why it cannot be read in parts."""
        from psycopg.errors import SyntaxError as NoSubquery

        inner = query.strip().rstrip(";")
        with server.cursor() as cursor:
            try:
                cursor.execute(f"SELECT * FROM ({inner}\n) AS answer LIMIT 0".encode())
            except NoSubquery:  # such as a comment after its end; the query itself may be right
                return "its query is no subquery"
            described = list(cursor.description or ())
        names = [column.name for column in described]
        if not names or len(set(names)) < len(names):
            return "two of its columns have one name" if names else "it has no columns"
        types = []
        for column in described:
            known = server.adapters.types.get(column.type_code)
            type_name = known.name if known is not None else ""
            if type_name not in _SENT:
                shown = column.type_display
                return f"its column {column.name} is of the type {shown}; the query may cast it, as to float8 or text"
            types.append(type_name)
        zone = getattr(server.info.timezone, "key", None)
        if zone is None and "timestamptz" in types:
            return "the time zone of the database has no name"
        columns = ", ".join(f"c{at}" for at in range(len(names)))
        return cls(f"({inner}\n) AS answer({columns})", names, types, zone or "UTC")

    @property
    def whole_columns(self) -> list[str]:
        return [name for name, type in zip(self.names, self.types) if type in _WHOLE_TYPES]

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        """Types of the columns, as `query_table` has them."""
        zoned = pl.Datetime("us", self.zone)
        return {n: zoned if t == "timestamptz" else _SENT[t].dtype for n, t in zip(self.names, self.types)}

    @property
    def table(self) -> str:
        """The answer with values as they are sent, as SQL after FROM; conditions name its columns as `column` does."""
        sent = [f"{_SENT[type].expression.format(f'c{at}')} AS v{at}" for at, type in enumerate(self.types)]
        own = [f"c{at}" for at in range(len(self.types))]
        order = f" ORDER BY {self.order}" if self.order else ""
        return f"(SELECT {', '.join([*sent, *own])} FROM {self.source}{order}) AS parts"

    def column(self, name: str) -> str:
        return f"c{self.names.index(name)}"

    def order_by(self, name: str) -> str:
        """Order the rows by a column; its name in SQL."""
        self.order = self.column(name)
        return self.order


def range_predicates(column: str, low: int | None, high: int | None, n: int) -> list[str]:
    """Conditions of SQL for at most n ranges of a column of whole numbers, ascending; each value, also one that is
    missing, satisfies one.

    low, high: smallest and largest value; None where there is none.
    """
    if low is None or high is None:
        return ["TRUE"]
    steps = min(n, high - low + 1)
    edges = [low + (high - low + 1) * step // steps for step in range(1, steps)]
    if not edges:
        return ["TRUE"]
    inner = [f"{column} >= {start} AND {column} < {stop}" for start, stop in pairwise(edges)]
    return [f"{column} < {edges[0]}", *inner, f"{column} >= {edges[-1]} OR {column} IS NULL"]


def _has_psycopg() -> bool:
    from importlib.util import find_spec

    return find_spec("psycopg") is not None


# -- on the workers ----------------------------------------------------------------------------------------------------


def _write_part(
    folder: str,
    dtypes: dict[str, pl.DataType],
    name: str,
    max_rows: int,
    part: int,
    batches: Iterator[pa.RecordBatch],
) -> int:
    """Write the rows of a part. Returns their number."""
    limit, n = QueryLimit(float("inf"), max_rows), 0

    def frames() -> Iterator[pl.DataFrame]:
        nonlocal n
        for batch in batches:
            n += batch.num_rows
            limit.check(n, name)
            sent = pl.DataFrame(pl.from_arrow(batch))
            yield sent.select(_received(f"v{at}", dtype).alias(name) for at, (name, dtype) in enumerate(dtypes.items()))

    return write_batches(Path(folder) / f"{block_name(part)}.arrow", frames(), pl.Schema(dtypes))


def _received(column: str, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        moments = pl.col(column).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return moments.dt.convert_time_zone(dtype.time_zone)
    return pl.col(column).cast(dtype)
