"""Routes for the types of columns of items and users."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AfterValidator, Field

from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.type_names import HIDDEN, MAX_TABLE_COLUMNS, TABLES
from zhiyin.service.errors import RefusedError
from zhiyin.service.openapi_description import REFUSALS
from zhiyin.service.request_json import JsonRoute
from zhiyin.service.request_models import ID_SCHEMA, Body, Id, Type
from zhiyin.service.route_dependencies import ScopeDependencies, Tenant, json_response
from zhiyin.store.column_types import declare, stored_types

# Names of columns whose types are fixed are refused.
_NAMES = {name: rule for name, rule in ID_SCHEMA.items() if name != "type"} | {"not": {"enum": ["id", HIDDEN]}}


def _free(types: dict[str, str | None]) -> dict[str, str | None]:
    for column in ("id", HIDDEN):
        if column in types:
            raise ValueError(f"the type of {column!r} is fixed: name other columns")
    return types


Types = Annotated[
    dict[Id, Type | None],
    Field(max_length=MAX_TABLE_COLUMNS, json_schema_extra={"propertyNames": _NAMES}),
    AfterValidator(_free),
]


class SchemaIn(Body):
    """Types by column: bool, int, number, text, date, time, texts, piped (texts parted by |), numbers, vector or
    vector(64). null: as it was without a declaration."""

    items: Types = Field(default_factory=dict)
    users: Types = Field(default_factory=dict)


def routes(needs: ScopeDependencies) -> APIRouter:
    router = APIRouter(tags=["schema"], responses=REFUSALS, route_class=JsonRoute)

    @router.get("/v1/schema")
    async def get_schema(tenant: Tenant = needs.admin) -> Any:
        """The type of each column, and where it comes from: the catalogue, the first write, the settings, or a
        declaration."""
        return json_response(await tenant.work.do(_schema_of, tenant))

    @router.put("/v1/schema")
    async def put_schema(body: SchemaIn, tenant: Tenant = needs.admin) -> Any:
        """Declare types of columns; others stay as they are. Values that do not fit are null from then on, and told in
        set_aside. Refused where a rule of the house could not be used any more."""
        changes = {table: dict(getattr(body, table)) for table in TABLES}

        def change() -> dict[str, Any]:
            _check(tenant, changes)
            declare(tenant.store, changes)
            tenant.live.look_at_types()
            return _schema_of(tenant) | {"set_aside": [one.as_json() for one in tenant.shop.health_issues()]}

        return json_response(await tenant.writes.do(change))

    return router


def _schema_of(tenant: Tenant) -> dict[str, Any]:
    schemas = tenant.live.schemas
    return {"version": schemas.refresh().version} | schemas.types_with_source(tenant.live.learned_types)


def _check(tenant: Tenant, changes: dict[str, dict[str, str | None]]) -> None:
    """Raises RefusedError 409 for types that, beside those that are declared, are too many, and for those under which
    rules of the house could not be used."""
    declared = stored_types(tenant.store).declared.state()
    for table, types in changes.items():
        for column, type in types.items():
            if type is None:
                declared[table].pop(column, None)
            else:
                declared[table][column] = type
        if len(declared[table]) > MAX_TABLE_COLUMNS:
            raise RefusedError(409, f"{len(declared[table]):,} types of {table}", f"at most {MAX_TABLE_COLUMNS:,}")
    broken = tenant.live.broken_by(CatalogueSchema.from_state(declared))
    if broken:
        name, reason = next(iter(broken.items()))
        raise RefusedError(409, f"[rules] {name} could not be used any more: {reason}", "change the rule first")
