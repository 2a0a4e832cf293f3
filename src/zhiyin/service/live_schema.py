"""Column types of items and users while the service runs: learned, taken from a first write, or declared.

Where several sources give a column a type, the first of these applies: `PUT /v1/schema`, `[schema]` of the settings,
the catalogue of the version in use, the first value that was written.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.type_names import TABLES
from zhiyin.store.column_types import StoredTypes, add_first, adopt, stored_types
from zhiyin.store.records import columns
from zhiyin.store.store import Store
from zhiyin.store.tables import COLUMN_TYPES

Rows = Mapping[str, Mapping[str, Any] | None]


class LiveSchema:
    """Column types of a store, kept current in every process.

    Parameters
    ----------
    settings: types of the settings file.
    """

    def __init__(self, store: Store, settings: CatalogueSchema | None = None) -> None:
        self.store, self.settings = store, settings or CatalogueSchema()
        self._lock = threading.Lock()
        adopt(store)
        self.stored: StoredTypes = stored_types(store)

    def refresh(self) -> StoredTypes:
        """The types that the store holds now."""
        if self.store.last_change(COLUMN_TYPES) != self.stored.version:
            with self._lock:
                self.stored = stored_types(self.store)
        return self.stored

    def effective_types(self, learned: CatalogueSchema, stored: StoredTypes | None = None) -> CatalogueSchema:
        """The types that apply together with those of a version.

        Parameters
        ----------
        learned: types of the version.
        stored: types of the store; None: as of the last refresh.
        """
        types = self.stored if stored is None else stored
        return types.first.with_types(learned).with_types(self.settings).with_types(types.declared)

    def types_with_source(self, learned: CatalogueSchema) -> dict[str, dict[str, dict[str, str]]]:
        """By table and column the `type`, and the `source` that it comes from."""
        stored = self.refresh()
        parts = (("first write", stored.first), ("catalogue", learned), ("settings", self.settings),
                 ("declared", stored.declared))  # fmt: skip
        return {
            table: {column: {"type": type, "source": source}
                    for source, types in parts for column, type in types.of_table(table).items()}
            for table in TABLES
        }  # fmt: skip

    def accept(
        self, table: str, rows: Rows, learned: CatalogueSchema
    ) -> tuple[dict[str, dict[str, Any] | None], dict[str, DataError]]:
        """Rows that are to be written, converted to their types, and the errors of those that do not fit.

        A row None deletes, and always fits. Columns that were never written before get their type here, permanently.
        """
        schema = self.effective_types(learned, self.refresh())
        valid, errors, new_types = convert_rows(table, rows, schema)
        if new_types:
            try:
                decided = add_first(self.store, table, new_types)
            except DataError as error:
                refused = {key: row for key, row in rows.items() if row and not new_types.keys().isdisjoint(row)}
                others = {key: row for key, row in rows.items() if key not in refused}
                valid, errors, _ = convert_rows(table, others, schema)
                return valid, errors | dict.fromkeys(refused, error)
            self.refresh()
            if decided != new_types:  # another writer was first
                valid, errors, _ = convert_rows(table, rows, self.effective_types(learned))
        return valid, errors


def convert_rows(
    table: str, rows: Rows, schema: CatalogueSchema
) -> tuple[dict[str, dict[str, Any] | None], dict[str, DataError], dict[str, str]]:
    """Converted rows, errors of the rows that do not fit, and types of the columns that had none."""
    valid: dict[str, dict[str, Any] | None] = {}
    errors: dict[str, DataError] = {}
    new_types: dict[str, str] = {}
    for key, row in rows.items():
        if row is None:
            valid[key] = None
            continue
        try:
            row = columns(row)
            added = schema.new_types(table, [row])
            if added:
                schema = schema.with_types(CatalogueSchema(**{table: added}))
            valid[key] = schema.convert(table, row)
            new_types |= added
        except DataError as error:
            errors[key] = error
    return valid, errors, new_types
