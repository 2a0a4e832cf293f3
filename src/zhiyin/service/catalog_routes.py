"""Routes for items and users: columns with versions, many at once, search."""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.texts import text
from zhiyin.service.errors import RefusedError
from zhiyin.service.list_service import next_page, unpacked
from zhiyin.service.openapi_description import REFUSALS
from zhiyin.service.request_json import JsonRoute
from zhiyin.service.request_models import ID_SCHEMA, Text, columns_schema
from zhiyin.service.route_dependencies import (
    FieldsQuery,
    ItemId,
    KQuery,
    PageQuery,
    ScopeDependencies,
    Tenant,
    json_response,
    names,
)
from zhiyin.service.version_view import plain
from zhiyin.store.records import columns

# Lines of one request, and those told of that were rejected.
LINES, TOLD = 10_000, 100


def routes(needs: ScopeDependencies) -> APIRouter:
    router = APIRouter(responses=REFUSALS, route_class=JsonRoute)
    for name, one in (("items", "item"), ("users", "user")):
        _table(router, needs, name, one)

    @router.get("/v1/items", tags=["items"])
    async def search(
        search: Annotated[Text, Query(max_length=200)] = "",
        k: KQuery = 10,
        fields: FieldsQuery = "",
        page: PageQuery = None,
        tenant: Tenant = needs.visitor_read,
    ) -> Any:
        """Items whose title or id holds all words; without words the most popular ones."""

        def look() -> dict[str, Any]:
            view, wanted = tenant.live.view(), names(fields) or None
            paged = unpacked(page, "/v1/items") if page else []
            found = view.search(search, k + len(paged) + 1)
            found = found[~np.isin(found, view.encode(paged))] if paged else found
            codes = found[:k]
            items = [str(raw) for raw in view.ids.raw(codes)]
            return {
                "items": [{"item": item, "columns": view.row(int(code), wanted)} for item, code in zip(items, codes)],
                "next": next_page([*paged, *items], len(found) > k, "/v1/items"),
            }

        return json_response(await tenant.work.do(look))

    return router


def _table(router: APIRouter, needs: ScopeDependencies, name: str, one: str) -> None:
    content = columns_schema(name)
    body_of_columns = {"requestBody": {"content": {"application/json": {"schema": content}}}}
    lines = {"requestBody": {"required": True, "content": {"application/x-ndjson": {"schema": _lines_schema(content)}}}}

    def change(tenant: Tenant, key: str, body: dict[str, Any], keep: bool) -> dict[str, Any]:
        right, wrong = tenant.live.accept(name, {key: body})
        if wrong:
            raise wrong[key]
        return {"id": key, "version": _write(tenant, name, right, keep=keep)[key]}

    @router.put(f"/v1/{name}/{{key}}", tags=[name], operation_id=f"put_{one}", openapi_extra=body_of_columns)
    async def put(key: ItemId, body: dict[str, Any], tenant: Tenant = needs.admin) -> Any:
        """Write all columns. An item with `hidden: true` is not shown."""
        return json_response(await tenant.writes.do(change, tenant, key, body, False))

    @router.patch(f"/v1/{name}/{{key}}", tags=[name], operation_id=f"patch_{one}", openapi_extra=body_of_columns)
    async def patch(key: ItemId, body: dict[str, Any], tenant: Tenant = needs.admin) -> Any:
        """Change the columns named. The others stay as they are; those of the catalogue's file go on following it."""
        return json_response(await tenant.writes.do(change, tenant, key, body, True))

    @router.get(f"/v1/{name}/{{key}}", tags=[name], operation_id=f"get_{one}")
    async def get(key: ItemId, tenant: Tenant = needs.visitor_read if name == "items" else needs.read) -> Any:
        """Columns and version; version 0: as the catalogue of the version in use has it."""

        def look() -> dict[str, Any]:
            found, below = tenant.store.get(name, key), _catalogued(tenant, name, key)
            gone = found is None and (below is None or tenant.store.is_deleted(name, key))
            if gone:
                raise RefusedError(404, f"{one} {key!r} is not known", f"PUT /v1/{name}/{key} first")
            known = (below or {}) | (found[0] if found is not None else {})
            known = {column: value for column, value in known.items() if value is not None}
            return {"id": key, "columns": known, "version": 0 if found is None else found[1]}

        return json_response(await tenant.work.do(look))

    @router.delete(f"/v1/{name}/{{key}}", tags=[name], operation_id=f"delete_{one}")
    async def delete(key: ItemId, tenant: Tenant = needs.admin) -> Any:
        """Items: no longer shown. Users: all of them is removed, with the proof."""

        def remove() -> dict[str, Any]:
            if name == "users":
                proof = tenant.store.forget(key, tenant.live.made)
                tenant.live.forget(key)
                return {"id": key, "proof": proof}
            return {"id": key, "version": _write(tenant, name, {key: None})[key]}

        return json_response(await tenant.writes.do(remove))

    @router.post(f"/v1/{name}", tags=[name], operation_id=f"post_{name}", openapi_extra=lines)
    async def bulk(request: Request, tenant: Tenant = needs.admin) -> Any:
        """Many at once, a line each; each is kept or rejected with its reason."""
        body = await request.body()

        def write() -> dict[str, Any]:
            right, wrong = _lines(body, tenant, name)
            _write(tenant, name, right)
            return {"accepted": len(right), "rejected": wrong}

        found = await tenant.writes.do(write)
        return json_response(found, 400 if found["rejected"] and not found["accepted"] else 200)


def _lines_schema(content: dict[str, Any]) -> dict[str, Any]:
    """Of lines of JSON, as an array of what stands in one each."""
    return {
        "type": "array", "minItems": 1, "maxItems": LINES,
        "items": {
            "type": "object", "required": ["id", "columns"], "additionalProperties": False,
            "properties": {"id": ID_SCHEMA, "columns": {"anyOf": [content, {"type": "null"}]}},
        },
        "description": 'a line each, such as {"id": "i1", "columns": {"price": 3}}; columns null: deleted',
    }  # fmt: skip


def _write(tenant: Tenant, name: str, things: dict[str, Any], *, keep: bool = False) -> dict[str, int]:
    """Keep columns, None to delete, and let them count. keep: columns that are not named stay. Returns versions."""
    view = tenant.live.serving
    gone = [key for key, value in things.items() if value is None]
    if name == "items" and gone and view is not None:
        # What only the catalogue of the version knows is written first, so that there is something to delete.
        codes = view.encode(gone)
        tenant.store.put(name, {
            key: {"hidden": True} for key, code in zip(gone, codes) if code >= 0 and tenant.store.get(name, key) is None
        })  # fmt: skip
    if keep:
        versions = tenant.store.patch(name, things)
    else:
        below = {key: _catalogued(tenant, name, key) or {} for key, value in things.items() if value is not None}
        versions = tenant.store.replace(name, things, below)
    tenant.live.changed(name, things)
    return versions


def _catalogued(tenant: Tenant, name: str, key: str) -> dict[str, Any] | None:
    """Columns as the catalogue of the version in use has them, NULLs left out; None for one it does not have, and for a
    user who was forgotten since."""
    view = tenant.live.serving
    if view is None:
        return None
    loaded = view.loaded
    frame = loaded.items if name == "items" else loaded.users
    if name == "items":
        code = int(loaded.known.item_ids.encode([key])[0])
    else:
        code = loaded.learned(key, tenant.store.forgotten_at(key))
    if code < 0 or frame is None:
        return None
    return {column: plain(value) for column, value in frame.row(code, named=True).items()
            if value is not None and column != "id"}  # fmt: skip


def _lines(body: bytes, tenant: Tenant, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Columns by id as their types have them, and the lines that are wrong. Of an id the last line counts."""
    if body.count(b"\n") + body.count(b"\r") > 4 * LINES:
        raise RefusedError(422, "too many lines at once", f"from 1 to {LINES:,} lines of JSON")
    lines = body.splitlines()
    if not 1 <= len(lines) <= LINES:
        raise RefusedError(422, f"{len(lines):,} lines", f"from 1 to {LINES:,} lines of JSON")
    read: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    wrong: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
            if not isinstance(said, dict) or set(said) != {"id", "columns"}:
                raise DataError("this is no id and columns", remedy='{"id": "i1", "columns": {"price": 3}}')
            key = text(said["id"], "id", MAX_ID_CHARS)
            read[key] = None if said["columns"] is None else columns(said["columns"])
            numbers[key] = number
        except (ValueError, RecursionError):
            wrong.append({"line": number, "reason": "this is no JSON"})
        except ZhiyinError as error:
            wrong.append({"line": number, "reason": f"{error.message}; {error.remedy}"})
    right, unfit = tenant.live.accept(name, read)
    wrong += [{"line": numbers[key], "reason": f"{error.message}; {error.remedy}"} for key, error in unfit.items()]
    return right, sorted(wrong, key=lambda line: int(line["line"]))[:TOLD]
