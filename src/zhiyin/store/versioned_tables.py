"""Items, users, placements, experiments and types of columns: each change is a row, and the newest counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zhiyin.core.errors import ConfigError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.text_validation import text
from zhiyin.store.database import Database
from zhiyin.store.records import columns
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.tables import COLUMN_TYPES, ROWS_PER_STATEMENT, VERSIONED_TABLES

# Columns that say something of an item rather than describe it: they are never stored as null.
_FLAGS = ("hidden",)
# Fixed statements by table; see `Database.fetch`.
_NEWEST_VERSION = {
    name: sa.select(table.c.columns, table.c.version)
    .where(table.c.id == sa.bindparam("key"))
    .order_by(table.c.version.desc())
    .limit(1)
    for name, table in VERSIONED_TABLES.items()
}
_LAST_CHANGE = {
    name: sa.select(sa.func.coalesce(sa.func.max(table.c.seq), 0)) for name, table in VERSIONED_TABLES.items()
}


class VersionedTables(Database):
    """Columns of items, users and placements by id, in versions."""

    def put(self, table: str, rows: Mapping[str, Mapping[str, Any] | None]) -> dict[str, int]:
        """Write columns by id; None deletes. Returns the newest version of each id.

        What equals the newest version is not written again. Raises DataError for columns that are not valid.
        """
        return self.change(table, rows, lambda key, old, new: new)

    def patch(self, table: str, rows: Mapping[str, Mapping[str, Any] | None]) -> dict[str, int]:
        """As `put`, but columns that are not named stay as they are. Of two patches at once both count."""
        return self.change(table, rows, lambda key, old, new: {**(old or {}), **new})

    def replace(
        self, table: str, rows: Mapping[str, Mapping[str, Any] | None], other_columns: Mapping[str, Iterable[str]]
    ) -> dict[str, int]:
        """As `put`, for columns that lie over others: what an id no longer has is stored as null.

        Parameters
        ----------
        other_columns: names of the columns that each id has elsewhere, such as in a catalogue.
        """

        def combine(key: str, old: dict[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
            names = [name for name in (*other_columns.get(key, ()), *(old or {})) if name not in _FLAGS]
            return {**dict.fromkeys(names), **new}

        return self.change(table, rows, combine)

    def change(
        self,
        table: str,
        rows: Mapping[str, Mapping[str, Any] | None],
        combine: Callable[[str, dict[str, Any] | None, Mapping[str, Any]], Mapping[str, Any]],
    ) -> dict[str, int]:
        """Write what `combine(id, newest columns, given columns)` returns, in one transaction without other writers."""
        source = _table(table)
        validate = dict if table == COLUMN_TYPES else columns
        given = {text(key, "id", MAX_ID_CHARS): None if row is None else validate(row) for key, row in rows.items()}
        now, versions, keys = self.clock(), {}, list(given)
        with self.writing() as connection:
            for start in range(0, len(keys), ROWS_PER_STATEMENT):
                part = keys[start : start + ROWS_PER_STATEMENT]
                newest = {row.id: row for row in connection.execute(_newest_versions(source, part))}
                changed = []
                for key in part:
                    old, new = newest.get(key), given[key]
                    old_columns = None if old is None else _parsed(old.columns)
                    if old_columns is None and old is not None and old.columns is not None:
                        old_columns = _newest_readable(connection, source, key)
                    stored = None if new is None else _as_json(combine(key, old_columns, new))
                    if (old is not None and old.columns == stored) or (old is None and stored is None):
                        versions[key] = old.version if old is not None else 0
                        continue
                    versions[key] = 1 if old is None else old.version + 1
                    changed.append({"id": key, "version": versions[key], "columns": stored, "received": now})
                if changed:
                    connection.execute(sa.insert(source), changed)
        return versions

    def get(self, table: str, key: str) -> tuple[dict[str, Any], int] | None:
        """The columns of an id and their version; None where it is unknown or deleted."""
        _table(table)
        rows = self.fetch(_NEWEST_VERSION[table], key=key)
        if not rows or rows[0][0] is None:
            return None
        newest = _parsed(rows[0][0])
        if newest is not None:
            return newest, int(rows[0][1])
        readable = [(values, version) for version, values, _ in self.versions(table, key)]
        return next(((values, version) for values, version in readable if values is not None), None)

    def is_deleted(self, table: str, key: str) -> bool:
        """Whether the newest version of an id is a deletion."""
        _table(table)
        rows = self.fetch(_NEWEST_VERSION[table], key=key)
        return bool(rows) and rows[0][0] is None

    def changes_since(
        self, table: str, after: int = 0, until: int | None = None, unreadable: list[int] | None = None
    ) -> tuple[dict[str, dict[str, Any] | None], int]:
        """Newest columns by id of all that changed (None: deleted), and the sequence number of the last change.

        Parameters
        ----------
        after: sequence number; changes up to it are left out. until: later changes are left out.
        unreadable: receives the sequence numbers of rows that hold no columns; of these the version before counts.
        """
        source = _table(table)
        query = sa.select(source.c.seq, source.c.id, source.c.columns).where(source.c.seq > after)
        if until is not None:
            query = query.where(source.c.seq <= until)
        columns_by_id: dict[str, dict[str, Any] | None] = {}
        with self.reading() as connection:
            for seq, key, stored in connection.execute(query.order_by(source.c.seq)):
                after = int(seq)
                values = _parsed(stored)
                if values is None and stored is not None:
                    if unreadable is not None:
                        unreadable.append(after)
                    continue
                columns_by_id[key] = values
        return columns_by_id, after

    def last_change(self, table: str) -> int:
        """The sequence number of the last change of a table; 0 where there is none."""
        _table(table)
        return int(self.fetch(_LAST_CHANGE[table])[0][0])

    def last_change_of(self, table: str, key: str) -> int:
        """The sequence number of the newest version of an id; 0 for none. Logs name rows by it, never by their ids."""
        source = _table(table)
        with self.reading() as connection:
            newest = sa.select(sa.func.coalesce(sa.func.max(source.c.seq), 0)).where(source.c.id == key)
            return int(connection.execute(newest).scalar_one())

    def id_of_change(self, table: str, seq: int) -> str:
        """The id that the change of this sequence number is of; empty where there is no such change."""
        source = _table(table)
        with self.reading() as connection:
            return str(connection.execute(sa.select(source.c.id).where(source.c.seq == seq)).scalar() or "")

    def versions(self, table: str, key: str) -> list[tuple[int, dict[str, Any] | None, int]]:
        """All versions of an id that can be read, newest first: version, columns (None: deleted), when received."""
        source = _table(table)
        query = sa.select(source.c.version, source.c.columns, source.c.received).where(source.c.id == key)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(source.c.version.desc())).all()
        parsed = [(int(version), stored is None, _parsed(stored), int(received)) for version, stored, received in rows]
        return [
            (version, values, received)
            for version, is_deletion, values, received in parsed
            if is_deletion or values is not None
        ]


def _table(name: str) -> sa.Table:
    if name not in VERSIONED_TABLES:
        raise ConfigError(f"the store has no table {name!r}", remedy="items, users or placements")
    return VERSIONED_TABLES[name]


def _newest_versions(table: sa.Table, keys: list[str]) -> Any:
    """A query of the newest rows of some ids."""
    newest = sa.func.max(table.c.version).label("version")
    last = sa.select(table.c.id, newest).where(table.c.id.in_(keys)).group_by(table.c.id).subquery()
    return sa.select(table).join(last, (table.c.id == last.c.id) & (table.c.version == last.c.version))


def _newest_readable(connection: Any, table: sa.Table, key: str) -> dict[str, Any] | None:
    """Columns of the newest version of an id that can be read; None where that is a deletion, or none can."""
    query = sa.select(table.c.columns).where(table.c.id == key).order_by(table.c.version.desc())
    rows = connection.execute(query).scalars().all()
    return next((_parsed(stored) for stored in rows if stored is None or _parsed(stored) is not None), None)


def _parsed(stored: str | None) -> dict[str, Any] | None:
    """Columns of their stored JSON; None for a deletion, and for what is no JSON object."""
    try:
        value = None if stored is None else json.loads(stored)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _as_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, sort_keys=True, allow_nan=False)
