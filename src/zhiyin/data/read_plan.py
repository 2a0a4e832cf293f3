"""The plan of a reading: which tables are read, and what their columns are, decided from samples before anything is
loaded.

`plan_read` opens every source and decides: the format of a file, its encoding, compression, separator, quoting and
header; the role, use and first type of each column; which columns are not used, and why. `read_execution.execute` then
reads by the plan. Three things only whole columns can tell, and by fixed rules: the type of a column with a cell that
does not fit the type of the sample, the order of days and months in dates such as 03/04/2024, and which column of the
items table holds the ids of the log.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zhiyin.core.errors import DataError, suggest
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.column_roles import Roles
from zhiyin.data.entity_table import EntitySource, plan_entity
from zhiyin.data.event_cleaning import EventSource, plan_events
from zhiyin.data.link_table import LinkSource, plan_links
from zhiyin.data.read_assumptions import Dialect, Findings
from zhiyin.data.role_inference import guess_roles, ignored
from zhiyin.data.source_discovery import find_sources
from zhiyin.data.source_opening import is_folder, open_table, query_table
from zhiyin.data.sql_query import QueryLimit
from zhiyin.data.table import Table

# Opens the answer of the database at an address to a query, as `query_table` does.
OpenQuery = Callable[[str, str, Dialect, QueryLimit | None], Table]


@dataclasses.dataclass(frozen=True)
class ReadPlan:
    """How a log, its catalogue and its links are read. A plan is executed once: its tables are closed then.

    Parameters
    ----------
    events: the tables of the log, in the order they are read. Empty where a store has all events.
    roles: which column of the log plays which role.
    items, users: what describes them.
    links: the table of links, or None.
    dialect: what the caller assumes of the sources.
    unused: why columns of the log are not used, in sentences.
    notes: all decisions so far, in sentences.
    """

    events: tuple[EventSource, ...]
    roles: Roles
    items: EntitySource
    users: EntitySource
    links: LinkSource | None
    dialect: Dialect
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    def describe(self) -> list[str]:
        """The plan in lines: each table with its format, and its columns with use and type."""
        lines = []
        tables = [(source.table, source.columns) for source in self.events]
        tables += [(source.table, source.columns) for source in (self.items, self.users) if source.table is not None]
        tables += [(self.links.table, self.links.columns)] if self.links is not None else []
        for table, columns in tables:
            lines.append(f"{table.name}: {table.format}")
            for column in columns:
                dtype = "" if column.dtype is None else f", read as {column.dtype} first"
                lines.append(f"  {column.name}: {column.use}{dtype}")
        if self.roles.time:
            order = {True: "day first", False: "month first", None: "order of days and months by the whole column"}
            zone = self.dialect.zone or "UTC"
            lines.append(f"time: {order[self.dialect.day_first]}, times without a zone are {zone}")
        return [*lines, f"columns: {self.roles.sentence()}", *self.unused]


def plan_read(
    source: Any,
    *,
    items: Any = None,
    users: Any = None,
    links: Any = None,
    columns: Mapping[str, Any] | None = None,
    query: str | None = None,
    query_limit: QueryLimit | None = None,
    assume: Mapping[str, Any] | None = None,
    types: CatalogueSchema | None = None,
    has_store: bool = False,
    text: str | None = None,
    open_query: OpenQuery = query_table,
) -> ReadPlan:
    """Decide how a source is read. The parameters are those of `read`.

    has_store: whether the events of a store are read too; then `source` may be None.
    text: the column of reviews, in one table of the log at least.
    open_query: opens the answers of databases.

    Raises DataError for a source that cannot be opened, and where its columns cannot be inferred or are missing.
    """
    dialect, findings = Dialect.of(assume), Findings()
    named_columns = {role: value for role, value in dict(columns or {}).items() if value}
    keys = {"item": named_columns.pop("item_id", None), "user": named_columns.pop("user_id", None)}
    link_columns = {role: named_columns.pop(f"link_{role}", None) for role in ("user", "other", "weight")}
    details: dict[str, Any] = {}
    for role in ("item_columns", "user_columns"):
        named_columns.pop(role, None)
        if columns is not None and columns.get(role) is not None:
            details[role] = tuple(columns[role])  # an empty list means none, and is no guess
    is_discovered = {"item": False, "user": False}
    if isinstance(source, str | Path) and is_folder(source):
        sources = find_sources(Path(source), dialect)
        is_discovered = {"item": items is None, "user": users is None}
        items = sources.items if items is None else items
        users = sources.users if users is None else users
        links = sources.links if links is None else links
        tables: list[tuple[str | None, Table]] = [(None, table) for table in sources.event_tables]
        if query is not None:
            tables = _event_tables(sources.events, query, dialect, query_limit, open_query)
        findings.notes += sources.notes
    elif source is None and has_store:
        tables = []
    else:
        tables = _event_tables(source, query, dialect, query_limit, open_query)
    roles, unused = Roles("user", "item", "time"), []
    if tables:
        first = tables[0][1]
        if text is not None and all(text not in table.columns for _, table in tables):
            raise DataError(
                f"there is no column of reviews {text!r}", file=first.name, remedy=suggest(text, first.columns)
            )
        known = first.sample.drop(text, strict=False) if text is not None else first.sample
        roles = dataclasses.replace(guess_roles(known, named_columns, first.name), **details, text=text)
        unused = ignored(first.sample, roles)
        for sentence in [f"columns: {roles.sentence()}", *unused]:
            findings.note(sentence)
    declared = types or CatalogueSchema()
    return ReadPlan(
        tuple(plan_events(table, roles, kind) for kind, table in tables),
        roles,
        plan_entity("item", items, keys["item"], roles.item_columns, is_discovered["item"],
                    _with_text_columns(dialect, declared.items)),
        plan_entity("user", users, keys["user"], roles.user_columns, is_discovered["user"],
                    _with_text_columns(dialect, declared.users)),
        plan_links(links, link_columns, dialect) if links is not None else None,
        dialect,
        tuple(unused),
        tuple(findings.notes),
    )  # fmt: skip


def _event_tables(
    source: Any, query: str | None, dialect: Dialect, limit: QueryLimit | None, open_query: OpenQuery
) -> list[tuple[str | None, Table]]:
    """(kind or None, table) of every part of the log."""
    if isinstance(source, Mapping):
        return [
            (kind, table)
            for kind, part in source.items()
            for _, table in _event_tables(part, query, dialect, limit, open_query)
        ]
    if isinstance(source, list | tuple):
        if not source:
            raise DataError("no event file was named", remedy="name at least one")
        return [pair for part in source for pair in _event_tables(part, query, dialect, limit, open_query)]
    if query is not None:
        return [(None, open_query(str(source), query, dialect, limit))]
    if isinstance(source, str | Path) and is_folder(source):
        sources = find_sources(Path(source), dialect)
        for sentence in sources.notes:
            sources.event_tables[0].findings.note(sentence)
        return [(None, table) for table in sources.event_tables]
    return [(None, open_table(source, dialect))]


def _with_text_columns(dialect: Dialect, types: Mapping[str, str]) -> Dialect:
    """A dialect in which columns that are declared as texts stay as they are written."""
    texts = [name for name, type in types.items() if type in ("text", "piped", "texts")]
    return dataclasses.replace(dialect, text=(*dialect.text, *texts))
