"""The schema of the catalogue: the type of each column of items and of users.

Types are learned from the catalogue when a version is trained, declared in `[schema]` of zhiyin.toml or by
`PUT /v1/schema`, or, for a column that is first seen live, taken from its first value. Every write is converted to the
type of its column where nothing is lost by that, and refused otherwise; filters, rules, views and training build their
columns by type. Whether a column holds several values is a property of the column: values that come later change
nothing about it.

    schema = CatalogueSchema.of(items, users)
    schema.convert("items", {"price": 3, "tags": "new"})     # {"price": 3, "tags": ["new"]}
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.catalogue_types import describe, kind_of_type, type_of_column
from zhiyin.data.catalogue_values import cast_column, convert, first_type, series_of
from zhiyin.data.type_names import HIDDEN, TABLES, parse_type

# -- the schema -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CatalogueSchema:
    """Types of the columns of items and of users, by name. It never changes; `with_types` makes another."""

    items: Mapping[str, str] = dataclasses.field(default_factory=dict)
    users: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, items: pl.DataFrame | None, users: pl.DataFrame | None = None) -> CatalogueSchema:
        """Learned from the frames of a catalogue. Columns without values, and `id`, have no type."""
        return cls(*({column.name: type for column in (() if frame is None else frame)
                      if column.name != "id" and (type := type_of_column(column)) is not None}
                     for frame in (items, users)))  # fmt: skip

    @classmethod
    def from_state(cls, state: Any) -> CatalogueSchema:
        """The schema from what `state` returned, or from a table such as `[schema]`. Raises ConfigError for others."""
        if not isinstance(state, Mapping):
            raise ConfigError("this is no schema", remedy='write { items = { price = "number" } }')
        tables: dict[str, dict[str, str]] = {}
        for table, types in state.items():
            if table not in TABLES or not isinstance(types, Mapping):
                raise ConfigError(f"schema has no table {str(table)[:80]!r}", remedy="items and users")
            tables[table] = {str(name): parse_type(type, str(name)) for name, type in types.items()}
        return cls(**tables)

    def state(self) -> dict[str, dict[str, str]]:
        """All of it as JSON values."""
        return {"items": dict(self.items), "users": dict(self.users)}

    def of_table(self, table: str) -> Mapping[str, str]:
        return self.items if table == "items" else self.users

    def type_of(self, table: str, column: str) -> str | None:
        """The type of a column; None where it is not known yet."""
        if table == "items" and column == HIDDEN:
            return "bool"
        return self.of_table(table).get(column)

    def with_types(self, other: CatalogueSchema, *, keep: bool = False) -> CatalogueSchema:
        """This schema with the types of another. keep: columns that have a type already keep it."""
        if keep:
            return other.with_types(self)
        return CatalogueSchema({**self.items, **other.items}, {**self.users, **other.users})

    def kinds(self, table: str) -> dict[str, str]:
        """Kinds of the columns, as expressions have them."""
        return {name: kind_of_type(type) for name, type in self.of_table(table).items() if name != HIDDEN}

    def new_types(self, table: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Types of columns that have none yet, by their first values. Raises DataError that names the column."""
        new_types: dict[str, str] = {}
        for row in rows:
            for name, value in row.items():
                if name in new_types or self.type_of(table, name) is not None:
                    continue
                try:
                    type = first_type(value)
                except ValueError:
                    raise _misfit_error(name, value, "a list of texts, or a list of numbers") from None
                if type is not None:
                    new_types[name] = type
        return new_types

    def first_types(self, table: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """`new_types` of rows that were stored without types; values without a type are skipped."""
        new_types: dict[str, str] = {}
        for row in rows:
            for name, value in row.items():
                if name in new_types or value is None or name == HIDDEN or self.type_of(table, name) is not None:
                    continue
                with contextlib.suppress(ValueError):
                    type = first_type(value)
                    if type is not None:
                        new_types[name] = type
        return new_types

    def convert(self, table: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of one item or user as their types have them.

        A column without a type becomes null: an empty list has no type. Raises DataError that names
        the column, the value and the type where a value does not fit.
        """
        converted: dict[str, Any] = {}
        for name, value in row.items():
            type = self.type_of(table, name)
            try:
                converted[name] = None if type is None else convert(value, type)
            except (ValueError, OverflowError):
                description, command = describe(type or "text"), ""
                if name != HIDDEN:
                    command = f', or change the type: PUT /v1/schema {{"{table}": {{"{name}": "..."}}}}'
                raise _misfit_error(name, value, description, command) from None
        return converted

    def fitting(self, table: str, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """As `convert`, without what does not fit; also the names of these columns."""
        converted: dict[str, Any] = {}
        misfits: list[str] = []
        for name, value in row.items():
            type = self.type_of(table, name)
            if type is None:
                continue
            try:
                converted[name] = convert(value, type)
            except (ValueError, OverflowError):
                misfits.append(name)
        return converted, misfits

    def shaped(self, table: str, frame: pl.DataFrame) -> pl.DataFrame:
        """A frame with its columns in their types; what does not fit becomes null, what has no type stays."""
        types = self.of_table(table)
        return frame.with_columns(
            cast_column(frame[name], types[name]) for name in frame.columns if name != "id" and name in types
        )

    def frame(
        self, table: str, rows: Sequence[Mapping[str, Any]], names: Iterable[str] | None = None
    ) -> tuple[pl.DataFrame, dict[str, list[int]]]:
        """A frame of rows of JSON values, its columns built by their types; columns without a type are left out.

        names: its columns; None: those that rows name. Also the rows of each column whose values do not fit: they are
        null.
        """
        names_to_build = dict.fromkeys(name for row in rows for name in row) if names is None else dict.fromkeys(names)
        columns, misfits = [], {}
        for name in names_to_build:
            type = None if name in ("id", HIDDEN) else self.of_table(table).get(name)
            if type is None:
                continue
            series, misfit_rows = series_of(name, [row.get(name) for row in rows], type)
            columns.append(series)
            if misfit_rows:
                misfits[name] = misfit_rows
        return pl.DataFrame(columns) if columns else pl.DataFrame(), misfits


def _misfit_error(name: str, value: Any, description: str, remedy_suffix: str = "") -> DataError:
    value_text = str(value) if len(str(value)) <= 40 else str(value)[:37] + "..."
    return DataError(
        f"column {name!r} holds {description}, not {value_text!r}",
        column=name,
        remedy=f"send {description}, or null{remedy_suffix}",
    )
