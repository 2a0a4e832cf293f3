"""Calls for items and users: one or many, written, read and searched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.endpoint import Endpoint
from zhiyin.client.api_call import Call, CallSequence, as_json, endpoint_call
from zhiyin.client.api_types import CatalogEntry, Columns, Item, Page, WriteResult

MAX_ROWS_PER_REQUEST, MAX_BYTES_PER_REQUEST = 1_000, 1 << 20


def put_item(id: str, columns: Columns) -> Call[int]:
    """Write all columns of an item; its version. Hidden by `{"hidden": True}`."""
    return endpoint_call(endpoints.PUT_ITEM, id, read=_read_version, body=columns)


def patch_item(id: str, columns: Columns) -> Call[int]:
    """Change the columns named, leave the others; its version."""
    return endpoint_call(endpoints.PATCH_ITEM, id, read=_read_version, body=columns)


def get_item(id: str) -> Call[CatalogEntry]:
    """Columns and version of an item."""
    return endpoint_call(endpoints.GET_ITEM, id, read=_read_entry)


def delete_item(id: str) -> Call[int]:
    """Delete an item, which is not shown any more; its version."""
    return endpoint_call(endpoints.DELETE_ITEM, id, read=_read_version)


def put_items(items: Iterable[tuple[str, Columns | None]]) -> CallSequence[WriteResult]:
    """Write many items, sent as they are read; None for columns deletes."""
    return _write_many(endpoints.PUT_ITEMS, items)


def search(
    text: str, *, k: int | None = None, fields: Sequence[str] | None = None, page: str | None = None
) -> Call[Page[Item]]:
    """Full-text search of items. page: `next` of the previous result."""
    query = {"search": text, "k": k, "fields": fields, "page": page}
    return endpoint_call(endpoints.SEARCH, read=_read_items, query=query)


def put_user(id: str, columns: Columns) -> Call[int]:
    """Write all columns of a user; its version."""
    return endpoint_call(endpoints.PUT_USER, id, read=_read_version, body=columns)


def patch_user(id: str, columns: Columns) -> Call[int]:
    """Change the columns named, leave the others; its version."""
    return endpoint_call(endpoints.PATCH_USER, id, read=_read_version, body=columns)


def get_user(id: str) -> Call[CatalogEntry]:
    """Columns and version of a user."""
    return endpoint_call(endpoints.GET_USER, id, read=_read_entry)


def delete_user(id: str) -> Call[dict[str, Any]]:
    """Remove all data of a user; counts of what was removed and of what is left."""
    return endpoint_call(endpoints.DELETE_USER, id, read=lambda body: dict(body["proof"]))


def put_users(users: Iterable[tuple[str, Columns | None]]) -> CallSequence[WriteResult]:
    """Write many users, sent as they are read."""
    return _write_many(endpoints.PUT_USERS, users)


def _read_entry(body: Any) -> CatalogEntry:
    return CatalogEntry(body["id"], body["columns"], body["version"])


def _read_items(body: Any) -> Page[Item]:
    items = [Item(row["item"], columns=row.get("columns") or {}) for row in body["items"]]
    return Page(items, body.get("next"))


def _write_many(endpoint: Endpoint, rows: Iterable[tuple[str, Columns | None]]) -> CallSequence[WriteResult]:
    return write_lines(
        endpoint, ({"id": key, "columns": columns if columns is None else dict(columns)} for key, columns in rows)
    )


def write_lines(endpoint: Endpoint, rows: Iterable[Mapping[str, Any]]) -> CallSequence[WriteResult]:
    """Send rows as lines of JSON, in requests of bounded size."""

    def calls() -> Iterator[Call[tuple[int, WriteResult]]]:
        lines: list[bytes] = []
        size = 0
        for row in rows:
            line = as_json(row) + b"\n"
            if lines and (len(lines) == MAX_ROWS_PER_REQUEST or size + len(line) > MAX_BYTES_PER_REQUEST):
                yield build_call(lines)
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        if lines:
            yield build_call(lines)

    def build_call(lines: list[bytes]) -> Call[tuple[int, WriteResult]]:
        def read(body: Any) -> tuple[int, WriteResult]:
            return len(lines), WriteResult(int(body["accepted"]), list(body["rejected"]))

        return endpoint_call(endpoint, read=read, body=b"".join(lines))

    def join(parts: list[tuple[int, WriteResult]]) -> WriteResult:
        first_line, rejected = 0, []
        for n_lines, part in parts:
            rejected += [row | {"line": row["line"] + first_line} for row in part.rejected]
            first_line += n_lines
        return WriteResult(sum(part.accepted for _, part in parts), rejected)

    return CallSequence(calls(), join)


def _read_version(body: Any) -> int:
    return int(body["version"])
