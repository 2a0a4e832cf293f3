"""What expressions may speak of: the columns of items, users and context, and the kind of each.

A kind is one of bool, number, text, time, texts and numbers; the last two are multi-valued.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import polars as pl

from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.catalogue_types import holds_several
from zhiyin.data.learned_links import LINK_KINDS

SCOPES = ("item", "user", "context")


@dataclasses.dataclass(frozen=True)
class ColumnKinds:
    """What an expression may speak of: kinds of columns by scope and name.

    A kind is one of bool, number, text, time, texts, numbers; the last two are multi-valued.
    """

    kinds: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, items: Any, user: Any = None, context: Any = None, *, multi: tuple[str, ...] = ()) -> ColumnKinds:
        """Columns of a frame, of a Polars schema, or of a mapping from name to a Polars or Python type.

        multi: item columns of text that hold several values as "a|b"; in a frame they are found by their contents as
        `CatalogueSchema` finds them.
        """
        return cls(
            {scope: _kinds_of(given, scope, multi) for scope, given in zip(SCOPES, (items, user, context), strict=True)}
        )

    @classmethod
    def of_schema(cls, schema: CatalogueSchema, items: Any, user: Any = None, context: Any = None) -> ColumnKinds:
        """Columns of items and users as a schema has them, whatever any row holds; of the frames' own schemas the ids
        and columns without values. Users have the columns of their links too."""
        kinds = {"context": _kinds_of(context, "context")}
        for scope, table, given in (("item", "items", items), ("user", "users", user)):
            dtypes = given.schema if isinstance(given, pl.DataFrame) else given or {}
            plain = {name: dtype for name, dtype in dtypes.items() if name == "id" or dtype == pl.Null}
            kinds[scope] = _kinds_of(plain, scope) | schema.kinds(table)
        kinds["user"] = LINK_KINDS | kinds["user"]
        return cls(kinds)

    def find(self, scope: str, name: str) -> str | None:
        """The column as it is spelled: exactly, or the only one that differs in case alone."""
        kinds = self.kinds[scope]
        if name in kinds:
            return name
        matches = [column for column in kinds if column.lower() == name.lower()]
        return matches[0] if len(matches) == 1 else None

    def names(self) -> list[str]:
        """All columns as an expression writes them."""
        return [name if scope == "item" else f"{scope}.{name}" for scope in SCOPES for name in self.kinds[scope]]


def _kinds_of(given: Any, scope: str, multi: tuple[str, ...] = ()) -> dict[str, str]:
    if given is None:
        return {}
    schema = given.schema if isinstance(given, pl.DataFrame) else given
    kinds = {}
    for name, dtype in schema.items():
        kind = column_kind(dtype)
        if kind is None:
            continue  # columns of a type that no expression can speak of, such as structs
        if kind == "text" and scope == "item":
            piped = isinstance(given, pl.DataFrame) and holds_several(given[name])
            kind = "texts" if piped or name in multi else "text"
        kinds[name] = kind
    return kinds


def column_kind(dtype: Any) -> str | None:
    """The kind of a column of a Polars or Python type; None for types that expressions do not speak of."""
    python = {bool: "bool", int: "number", float: "number", str: "text", datetime.datetime: "time",
              datetime.date: "time", list: "texts", tuple: "texts", set: "texts"}  # fmt: skip
    if isinstance(dtype, type) and dtype in python:
        return python[dtype]
    if dtype == pl.Boolean:
        return "bool"
    if isinstance(dtype, pl.List | pl.Array):
        inner = column_kind(dtype.inner)
        return {"text": "texts", "number": "numbers", "null": "texts"}.get(inner or "")
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    if isinstance(dtype, pl.Datetime | pl.Date) or dtype in (pl.Datetime, pl.Date):
        return "time"
    if dtype == pl.Null:
        return "null"
    return "number" if hasattr(dtype, "is_numeric") and dtype.is_numeric() else None
