"""Handlers of the types of columns of items and users."""

from __future__ import annotations

from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.requests import SchemaRequest
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.type_names import MAX_TABLE_COLUMNS, TABLES
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles
from zhiyin.service.errors import RefusedError
from zhiyin.store.column_types import declare, stored_types


@handles(endpoints.GET_SCHEMA)
async def get_schema(access: Access) -> Any:
    return await access.work.do(_schema_json, access)


@handles(endpoints.PUT_SCHEMA)
async def put_schema(access: Access, body: SchemaRequest) -> Any:
    changes = {table: dict(getattr(body, table)) for table in TABLES}

    def change() -> dict[str, Any]:
        _check_types(access, changes)
        declare(access.store, changes)
        access.live.refresh_types()
        return _schema_json(access) | {"set_aside": [issue.as_json() for issue in access.tenant.health_issues()]}

    return await access.writes.do(change)


def _schema_json(access: Access) -> dict[str, Any]:
    schemas = access.live.schemas
    return {"version": schemas.refresh().version} | schemas.types_with_source(access.live.learned_types)


def _check_types(access: Access, changes: dict[str, dict[str, str | None]]) -> None:
    """Raises RefusedError 409 for types that are too many together with those declared before, and for those under
    which a rule of the settings could not be used."""
    declared = stored_types(access.store).declared.state()
    for table, types in changes.items():
        for column, type in types.items():
            if type is None:
                declared[table].pop(column, None)
            else:
                declared[table][column] = type
        if len(declared[table]) > MAX_TABLE_COLUMNS:
            raise RefusedError(409, f"{len(declared[table]):,} types of {table}", f"at most {MAX_TABLE_COLUMNS:,}")
    broken = access.live.rules_broken_by(CatalogueSchema.from_state(declared))
    if broken:
        name, reason = next(iter(broken.items()))
        raise RefusedError(409, f"[rules] {name} could not be used any more: {reason}", "change the rule first")
