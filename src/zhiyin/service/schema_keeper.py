"""Types of the catalogue's columns while the service runs: learned, written first, declared.

Of several types of one column counts that of the first of: `PUT /v1/schema`, `[schema]` of the settings, the catalogue
of the version in use, the first value that was written.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.type_names import TABLES
from zhiyin.store.column_types import StoredTypes, add_first, adopt, stored_types
from zhiyin.store.database import COLUMN_TYPES, Store
from zhiyin.store.records import columns

Rows = Mapping[str, Mapping[str, Any] | None]


class SchemaKeeper:
    """Types of a store, current in every process. settings: those of the settings file."""

    def __init__(self, store: Store, settings: CatalogueSchema | None = None) -> None:
        self.store, self.settings = store, settings or CatalogueSchema()
        self._lock = threading.Lock()
        adopt(store)
        self.stored: StoredTypes = stored_types(store)

    def look(self) -> StoredTypes:
        """What the store says now."""
        if self.store.seq(COLUMN_TYPES) != self.stored.version:
            with self._lock:
                self.stored = stored_types(self.store)
        return self.stored

    def over(self, learned: CatalogueSchema, stored: StoredTypes | None = None) -> CatalogueSchema:
        """The types that count beside a version. stored: as they are now; None: as at the last look."""
        types = self.stored if stored is None else stored
        return types.first.with_types(learned).with_types(self.settings).with_types(types.declared)

    def sources(self, learned: CatalogueSchema) -> dict[str, dict[str, dict[str, str]]]:
        """Of each column its type, and where it comes from."""
        stored = self.look()
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
        """Columns of rows as their types have them, and why rows cannot be kept. None deletes and always can.

        Columns that nobody has written before get their type here, for good.
        """
        schema = self.over(learned, self.look())
        right, wrong, more = convert_rows(table, rows, schema)
        if more:
            try:
                decided = add_first(self.store, table, more)
            except DataError as error:
                new = {key: row for key, row in rows.items() if row and not more.keys().isdisjoint(row)}
                old = {key: row for key, row in rows.items() if key not in new}
                right, wrong, _ = convert_rows(table, old, schema)
                return right, wrong | dict.fromkeys(new, error)
            self.look()
            if decided != more:  # another writer was first
                right, wrong, _ = convert_rows(table, rows, self.over(learned))
        return right, wrong


def convert_rows(
    table: str, rows: Rows, schema: CatalogueSchema
) -> tuple[dict[str, dict[str, Any] | None], dict[str, DataError], dict[str, str]]:
    """Rows that fit, those that do not, and types of the columns that had none."""
    right: dict[str, dict[str, Any] | None] = {}
    wrong: dict[str, DataError] = {}
    more: dict[str, str] = {}
    for key, row in rows.items():
        if row is None:
            right[key] = None
            continue
        try:
            row = columns(row)
            new = schema.new_types(table, [row])
            if new:
                schema = schema.with_types(CatalogueSchema(**{table: new}))
            right[key] = schema.convert(table, row)
            more |= new
        except DataError as error:
            wrong[key] = error
    return right, wrong, more
