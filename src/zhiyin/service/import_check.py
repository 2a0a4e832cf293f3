"""Items and users of an export checked against the types of a store's columns before they are loaded.

It is the check that writes over HTTP go through, `service/schema_keeper.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.type_names import TABLES
from zhiyin.pipeline.bundles import Bundles
from zhiyin.service.schema_keeper import SchemaKeeper, convert_rows
from zhiyin.store.column_types import add_first, types_of
from zhiyin.store.database import COLUMN_TYPES, Store, exported_rows


@dataclasses.dataclass(frozen=True)
class Misfit:
    """A row that cannot be kept. table: items or users. reason: the column, its type and the value."""

    table: str
    key: str
    reason: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class CheckedRows:
    """Items and users of an export.

    Parameters
    ----------
    rows: columns by table and id, converted to their types. new_types: of columns that have none yet, by table.
    misfits: rows that cannot be kept, in the order of the export.
    """

    rows: dict[str, dict[str, Any]]
    new_types: dict[str, dict[str, str]]
    misfits: list[Misfit]

    def load(self, store: Store, folder: Path, run: Any = None) -> int:
        """Take in an export with these rows; see `Store.load`. Raises DataError where there are misfits."""
        new = store.load(folder, run, self.rows)
        for table, types in self.new_types.items():
            if types:
                add_first(store, table, types)
        return new


def check_rows(store: Store, folder: Path, learned: CatalogueSchema, settings: CatalogueSchema) -> CheckedRows:
    """Check the items and users of an export against the types that count once it is loaded. Nothing is written.

    learned: types of the catalogue of the version in use. settings: of the settings file.
    Raises DataError for a folder that is no export, or is damaged.
    """
    keeper = SchemaKeeper(store, settings)
    there, _ = store.all(COLUMN_TYPES)
    coming = exported_rows(folder, COLUMN_TYPES)
    both = {key: {**(there.get(key) or {}), **(coming.get(key) or {})} for key in {*there, *coming}}
    schema = keeper.over(learned, types_of(both))
    made = CheckedRows({}, {}, [])
    for table in TABLES:
        found = exported_rows(folder, table)
        objects = {key: row for key, row in found.items() if isinstance(row, dict)}
        right, wrong, made.new_types[table] = convert_rows(table, objects, schema)
        made.rows[table] = {key: row for key, row in right.items() if row is not None}
        wrong |= {key: DataError("it is no JSON object") for key in found.keys() - objects.keys()}
        made.misfits.extend(
            Misfit(table, key, wrong[key].message, wrong[key].remedy or "") for key in found if key in wrong
        )
    return made


def learned_types(bundles: Bundles) -> CatalogueSchema:
    """Types of the catalogue of the version in use; none where no version is, or it cannot be read."""
    try:
        bundle = bundles.current
        catalogue = None if bundle is None else Catalogue.load(bundle.folder)
    except DataError:
        return CatalogueSchema()
    return CatalogueSchema() if catalogue is None else catalogue.types
