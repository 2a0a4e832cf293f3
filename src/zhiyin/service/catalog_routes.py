"""Handlers of items and users: their columns, with versions; many at once; search."""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
from starlette.responses import Response

from zhiyin.api import endpoints
from zhiyin.api.requests import MAX_LINES_PER_REQUEST, SearchQuery, column_names
from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.text_validation import text
from zhiyin.service.authentication import Access
from zhiyin.service.catalogue_overlay import json_value
from zhiyin.service.endpoint_dispatch import handles, json_response
from zhiyin.service.errors import RefusedError
from zhiyin.service.page_cursor import decode_cursor, next_cursor
from zhiyin.store.records import columns

Table = Literal["items", "users"]
MAX_REPORTED_LINES = 100


@handles(endpoints.SEARCH)
async def search(access: Access, query: SearchQuery) -> Any:
    def work() -> dict[str, Any]:
        view, fields = access.live.view(), column_names(query.fields) or None
        shown = decode_cursor(query.page, "/v1/items") if query.page else []
        matches = view.search(query.search, query.k + len(shown) + 1)
        matches = matches[~np.isin(matches, view.encode(shown))] if shown else matches
        codes = matches[: query.k]
        items = [str(raw) for raw in view.ids.raw(codes)]
        return {
            "items": [{"item": item, "columns": view.row(int(code), fields)} for item, code in zip(items, codes)],
            "next": next_cursor([*shown, *items], len(matches) > query.k, "/v1/items"),
        }

    return await access.work.do(work)


@handles(endpoints.PUT_ITEM)
async def put_item(access: Access, key: str, body: dict[str, Any]) -> Any:
    return await access.writes.do(_write_row, access, "items", key, body, False)


@handles(endpoints.PUT_USER)
async def put_user(access: Access, key: str, body: dict[str, Any]) -> Any:
    return await access.writes.do(_write_row, access, "users", key, body, False)


@handles(endpoints.PATCH_ITEM)
async def patch_item(access: Access, key: str, body: dict[str, Any]) -> Any:
    return await access.writes.do(_write_row, access, "items", key, body, True)


@handles(endpoints.PATCH_USER)
async def patch_user(access: Access, key: str, body: dict[str, Any]) -> Any:
    return await access.writes.do(_write_row, access, "users", key, body, True)


@handles(endpoints.GET_ITEM)
async def get_item(access: Access, key: str) -> Any:
    return await access.work.do(_read_row, access, "items", key)


@handles(endpoints.GET_USER)
async def get_user(access: Access, key: str) -> Any:
    return await access.work.do(_read_row, access, "users", key)


@handles(endpoints.DELETE_ITEM)
async def delete_item(access: Access, key: str) -> Any:
    def delete() -> dict[str, Any]:
        return {"id": key, "version": _write(access, "items", {key: None})[key]}

    return await access.writes.do(delete)


@handles(endpoints.DELETE_USER)
async def delete_user(access: Access, key: str) -> Any:
    def forget() -> dict[str, Any]:
        proof = access.store.forget(key, access.live.version_created)
        access.live.forget(key)
        return {"id": key, "proof": proof}

    return await access.writes.do(forget)


@handles(endpoints.PUT_ITEMS)
async def put_items(access: Access, body: bytes) -> Any:
    return await _write_lines(access, "items", body)


@handles(endpoints.PUT_USERS)
async def put_users(access: Access, body: bytes) -> Any:
    return await _write_lines(access, "users", body)


def _read_row(access: Access, table: Table, key: str) -> dict[str, Any]:
    row, catalogue_columns = access.store.get(table, key), _catalogue_columns(access, table, key)
    if row is None and (catalogue_columns is None or access.store.is_deleted(table, key)):
        raise RefusedError(404, f"{table.removesuffix('s')} {key!r} is not known", f"PUT /v1/{table}/{key} first")
    merged = (catalogue_columns or {}) | (row[0] if row is not None else {})
    present = {column: value for column, value in merged.items() if value is not None}
    return {"id": key, "columns": present, "version": 0 if row is None else row[1]}


def _write_row(access: Access, table: Table, key: str, values: dict[str, Any], keep_others: bool) -> dict[str, Any]:
    """keep_others: columns that are not named stay."""
    accepted, errors = access.live.accept(table, {key: values})
    if errors:
        raise errors[key]
    return {"id": key, "version": _write(access, table, accepted, keep_others=keep_others)[key]}


async def _write_lines(access: Access, table: Table, body: bytes) -> Response:
    def work() -> dict[str, Any]:
        accepted, rejected = _read_lines(body, access, table)
        _write(access, table, accepted)
        return {"accepted": len(accepted), "rejected": rejected}

    result = await access.writes.do(work)
    return json_response(result, 400 if result["rejected"] and not result["accepted"] else 200)


def _write(access: Access, table: Table, rows: dict[str, Any], *, keep_others: bool = False) -> dict[str, int]:
    """Store columns by id, None to delete, and use them from now on; the version of each id.

    keep_others: columns that are not named stay.
    """
    view = access.live.serving
    deleted = [key for key, values in rows.items() if values is None]
    if table == "items" and deleted and view is not None:
        # What only the catalogue of the version knows is written first, so that there is something to delete.
        codes = view.encode(deleted)
        access.store.put(table, {
            key: {"hidden": True}
            for key, code in zip(deleted, codes) if code >= 0 and access.store.get(table, key) is None
        })  # fmt: skip
    if keep_others:
        versions = access.store.patch(table, rows)
    else:
        catalogued = {
            key: _catalogue_columns(access, table, key) or {} for key, values in rows.items() if values is not None
        }
        versions = access.store.replace(table, rows, catalogued)
    access.live.record_changes(table, rows)
    return versions


def _catalogue_columns(access: Access, table: Table, key: str) -> dict[str, Any] | None:
    """Columns in the catalogue of the version in use, without NULLs; None for an id that it does not have, and for a
    user who was forgotten since."""
    view = access.live.serving
    if view is None:
        return None
    loaded = view.loaded
    frame = loaded.items if table == "items" else loaded.users
    if table == "items":
        code = int(loaded.context.item_ids.encode([key])[0])
    else:
        code = loaded.learned_user_code(key, access.store.forgotten_at(key))
    if code < 0 or frame is None:
        return None
    return {column: json_value(value) for column, value in frame.row(code, named=True).items()
            if value is not None and column != "id"}  # fmt: skip


def _read_lines(body: bytes, access: Access, table: Table) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Columns by id, converted to their types, and the lines that are wrong. Of an id the last line counts."""
    if body.count(b"\n") + body.count(b"\r") > 4 * MAX_LINES_PER_REQUEST:
        raise RefusedError(422, "too many lines at once", f"from 1 to {MAX_LINES_PER_REQUEST:,} lines of JSON")
    lines = body.splitlines()
    if not 1 <= len(lines) <= MAX_LINES_PER_REQUEST:
        raise RefusedError(422, f"{len(lines):,} lines", f"from 1 to {MAX_LINES_PER_REQUEST:,} lines of JSON")
    rows: dict[str, Any] = {}
    line_numbers: dict[str, int] = {}
    rejected: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or set(row) != {"id", "columns"}:
                raise DataError("this is no id and columns", remedy='{"id": "i1", "columns": {"price": 3}}')
            key = text(row["id"], "id", MAX_ID_CHARS)
            rows[key] = None if row["columns"] is None else columns(row["columns"])
            line_numbers[key] = number
        except (ValueError, RecursionError):
            rejected.append({"line": number, "reason": "this is no JSON"})
        except ZhiyinError as error:
            rejected.append({"line": number, "reason": f"{error.message}; {error.remedy}"})
    accepted, errors = access.live.accept(table, rows)
    rejected += [{"line": line_numbers[key], "reason": f"{error.message}; {error.remedy}"}
                 for key, error in errors.items()]  # fmt: skip
    return accepted, sorted(rejected, key=lambda line: int(line["line"]))[:MAX_REPORTED_LINES]
