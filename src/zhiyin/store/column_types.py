"""Types of catalogue columns in the store: declared ones, and those that the first write of a column determined.

A first write determines the type in one transaction, so that all processes and a restart agree on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.type_names import MAX_TABLE_COLUMNS, TABLES, parse_type
from zhiyin.store.store import Store
from zhiyin.store.tables import COLUMN_TYPES

_FIRST, _DECLARED = "first", "declared"


@dataclasses.dataclass(frozen=True)
class StoredTypes:
    """The types that a store holds.

    Parameters
    ----------
    first: types that first writes determined.
    declared: types that were declared.
    version: grows with each change.
    unusable: (table, column) of entries that are no types, which do not count.
    """

    first: CatalogueSchema
    declared: CatalogueSchema
    version: int
    unusable: tuple[tuple[str, str], ...] = ()


def stored_types(store: Store) -> StoredTypes:
    """All types that a store holds."""
    rows, version = store.changes_since(COLUMN_TYPES)
    return types_of(rows, version)


def types_of(rows: Mapping[str, Mapping[str, Any] | None], version: int = 0) -> StoredTypes:
    """The types of rows of the table of types: types by column, by key such as "items/first"."""
    parts: dict[str, dict[str, dict[str, str]]] = {_FIRST: {}, _DECLARED: {}}
    unusable = []
    for key, types in rows.items():
        table, _, source = key.partition("/")
        if table not in TABLES or source not in parts:
            continue
        for column, type in (types or {}).items():
            if type is None:
                continue
            try:
                parts[source].setdefault(table, {})[column] = parse_type(type, column)
            except ConfigError:
                unusable.append((table, column))
    return StoredTypes(
        CatalogueSchema(**parts[_FIRST]), CatalogueSchema(**parts[_DECLARED]), version, tuple(sorted(unusable))
    )


def add_first(store: Store, table: str, types: Mapping[str, str]) -> dict[str, str]:
    """Store types of columns that are written for the first time.

    Returns the types that apply: where another writer was first, that one's.

    Raises DataError where the table has too many columns.
    """
    decided: dict[str, Any] = {}

    def combine(key: str, old: dict[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
        both = {**new, **(old or {})}
        if len(both) > MAX_TABLE_COLUMNS:
            raise DataError(
                f"{table} have {len(old or {}):,} columns besides those of the catalogue",
                remedy=f"at most {MAX_TABLE_COLUMNS:,}; values that differ from item to item belong into one column",
            )
        decided.update({name: both[name] for name in new})
        return both

    store.change(COLUMN_TYPES, {f"{table}/{_FIRST}": types}, combine)
    return decided


def declare(store: Store, types: Mapping[str, Mapping[str, str | None]]) -> int:
    """Declare types by table and column; None takes a declaration back. Returns the new version."""
    changes = {f"{table}/{_DECLARED}": dict(columns) for table, columns in types.items() if columns}
    if changes:
        store.patch(COLUMN_TYPES, changes)
    return store.last_change(COLUMN_TYPES)


def adopt(store: Store) -> None:
    """Store types for columns that were written before the store had types: those of their first values."""
    for table in TABLES:
        key = f"{table}/{_FIRST}"
        if store.get(COLUMN_TYPES, key) is not None or not store.last_change(table):
            continue
        rows, _ = store.changes_since(table)
        first_types = CatalogueSchema().first_types(table, (row for row in rows.values() if row))
        types = dict(list(first_types.items())[:MAX_TABLE_COLUMNS])
        store.change(COLUMN_TYPES, {key: types}, lambda key, old, new: {**new, **(old or {})})
