"""Validation of an export, or of a backup, before it is loaded: items and users are checked against the types of their
columns.

The check is the one that HTTP writes go through, `service/live_schema.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.type_names import TABLES
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service.live_schema import LiveSchema, convert_rows
from zhiyin.store.column_types import add_first, types_of
from zhiyin.store.parquet_export import exported_rows
from zhiyin.store.store import Store
from zhiyin.store.tables import COLUMN_TYPES


@dataclasses.dataclass(frozen=True)
class InvalidRow:
    """A row that cannot be loaded.

    Parameters
    ----------
    table: items or users.
    key: id of the item or user.
    reason: the column, its type and the value.
    remedy: what to do.
    """

    table: str
    key: str
    reason: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class ValidatedImport:
    """Items and users of an export.

    Parameters
    ----------
    rows: columns by table and id, converted to their types.
    new_types: types of columns that have none yet, by table.
    invalid_rows: rows that cannot be loaded, in the order of the export.
    """

    rows: dict[str, dict[str, Any]]
    new_types: dict[str, dict[str, str]]
    invalid_rows: list[InvalidRow]

    def load(self, store: Store, folder: Path, run: Any = None) -> int:
        """Load an export with these rows; see `Store.load`. Raises DataError where there are invalid rows."""
        new = store.load(folder, run, self.rows)
        for table, types in self.new_types.items():
            if types:
                add_first(store, table, types)
        return new


def validate_import(store: Store, folder: Path, learned: CatalogueSchema, settings: CatalogueSchema) -> ValidatedImport:
    """Check the items and users of an export against the types that apply once it is loaded. Nothing is written.

    Parameters
    ----------
    folder: folder of the export.
    learned: types of the catalogue of the version in use.
    settings: types of the settings file.

    Raises DataError for a folder that is no export, or is damaged.
    """
    live = LiveSchema(store, settings)
    stored, _ = store.changes_since(COLUMN_TYPES)
    exported = exported_rows(folder, COLUMN_TYPES)
    merged = {key: {**(stored.get(key) or {}), **(exported.get(key) or {})} for key in {*stored, *exported}}
    rows = {table: exported_rows(folder, table) for table in TABLES}
    return _validate(rows, live.effective_types(learned, types_of(merged)))


def invalid_rows_of(store: Store, learned: CatalogueSchema, settings: CatalogueSchema) -> list[InvalidRow]:
    """Items and users of a store, such as a restored backup, that a write over HTTP would refuse.

    Parameters
    ----------
    learned: types of the catalogue of the version in use.
    settings: types of the settings file.
    """
    rows = {table: store.changes_since(table)[0] for table in TABLES}
    present = {table: {key: row for key, row in rows[table].items() if row is not None} for table in TABLES}
    return _validate(present, LiveSchema(store, settings).effective_types(learned)).invalid_rows


def _validate(rows_by_table: Mapping[str, Mapping[str, Any]], schema: CatalogueSchema) -> ValidatedImport:
    """Rows by id of items and users, converted to their types."""
    result = ValidatedImport({}, {}, [])
    for table, rows in rows_by_table.items():
        objects = {key: row for key, row in rows.items() if isinstance(row, dict)}
        valid, errors, result.new_types[table] = convert_rows(table, objects, schema)
        result.rows[table] = {key: row for key, row in valid.items() if row is not None}
        errors |= {key: DataError("it is no JSON object") for key in rows.keys() - objects.keys()}
        result.invalid_rows.extend(
            InvalidRow(table, key, errors[key].message, errors[key].remedy or "") for key in rows if key in errors
        )
    return result


def learned_types(bundles: Bundles) -> CatalogueSchema:
    """Types of the catalogue of the version in use; no types where there is no version or it cannot be read."""
    try:
        bundle = bundles.current
        catalogue = None if bundle is None else Catalogue.load(bundle.folder)
    except DataError:
        return CatalogueSchema()
    return CatalogueSchema() if catalogue is None else catalogue.types
