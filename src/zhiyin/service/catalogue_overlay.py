"""Items of the store laid over the catalogue of a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.ids import Ids

Columns = Mapping[str, Any]


def overlay_items(
    items: pl.DataFrame,
    ids: Ids,
    catalogue: pl.DataFrame,
    changes: Mapping[str, Columns | None],
    schema: CatalogueSchema,
) -> tuple[pl.DataFrame, dict[str, list[str]]]:
    """The items after changes: changed rows replaced, new ones appended in the order they came.

    A column that a change does not name is as the catalogue of the version has it; one that it names as null is null.
    A value that does not fit the type of its column is null.

    Parameters
    ----------
    items: items before the changes, in the order of their codes.
    ids: codes of the items.
    catalogue: items of the version.
    changes: columns by id; None: deleted, whose columns stay.
    schema: types of the columns.

    Returns the items, and by column the ids whose value does not fit its type.
    """
    keys = list(changes)
    rows: list[Columns] = [value or {} for value in changes.values()]
    frame, invalid = schema.frame("items", rows)
    frame = pl.DataFrame({"id": pl.Series(keys, dtype=pl.String)}).hstack(frame)
    codes = ids.encode(keys)
    # The types may be others than when `items` and the catalogue were built.
    base = schema.shaped("items", items.with_columns(pl.col("id").cast(pl.String)))
    frame = _fill_from_catalogue(frame, rows, codes, catalogue, schema)
    sources = np.arange(len(items) + int((codes < 0).sum()))
    replaced = (codes >= 0) & np.array([value is not None for value in changes.values()])
    sources[codes[replaced]] = len(items) + np.flatnonzero(replaced)
    # Appended in the order they came, deleted ones too: codes must be the same for every process that reads the store.
    sources[len(items) :] = len(items) + np.flatnonzero(codes < 0)
    merged = pl.concat([base, frame], how="diagonal_relaxed")[sources]
    return merged, {name: [keys[row] for row in bad] for name, bad in invalid.items()}


def _fill_from_catalogue(
    frame: pl.DataFrame, rows: Sequence[Columns], codes: np.ndarray, catalogue: pl.DataFrame, schema: CatalogueSchema
) -> pl.DataFrame:
    """Changed rows, with the columns that they do not name taken from the catalogue.

    Parameters
    ----------
    codes: int[n], codes of the rows; new items have codes beyond the catalogue, or -1.
    """
    in_catalogue = (codes >= 0) & (codes < len(catalogue))
    if not in_catalogue.any():
        return frame
    learned = schema.shaped("items", catalogue[np.where(in_catalogue, codes, 0)].drop("id"))
    columns = []
    for old in learned:
        if old.name not in frame.columns:
            columns.append(old if in_catalogue.all() else old.set(~pl.Series(in_catalogue), None))
            continue
        new = frame[old.name]
        is_new = pl.Series([old.name in row for row in rows]) | ~pl.Series(in_catalogue)
        parts = pl.DataFrame([new.alias("new"), old.alias("old"), is_new.alias("is_new")])
        columns.append(parts.select(pl.when("is_new").then("new").otherwise("old").alias(old.name)).to_series())
    return frame.with_columns(columns)


def json_value(value: Any) -> Any:
    """A value of a catalogue in types of JSON."""
    if isinstance(value, str | bool | int | float):
        return value if not isinstance(value, float) or np.isfinite(value) else None
    if isinstance(value, list):
        return [json_value(part) for part in value]
    return str(value)
