"""Items and users: one or many, written, read and found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zhiyin.client.api_call import Call, Calls, as_json, params_of, path_of
from zhiyin.client.api_types import Columns, Item, Page, Thing, Written

LINES, BYTES = 1_000, 1 << 20  # of a request of items or users


def put_item(id: str, columns: Columns) -> Call[int]:
    """Write all columns of an item; its version. Hidden by `{"hidden": True}`."""
    return Call("PUT", path_of("items", id), _version, body=as_json(dict(columns)))


def patch_item(id: str, columns: Columns) -> Call[int]:
    """Change the columns named, leave the others; its version."""
    return Call("PATCH", path_of("items", id), _version, body=as_json(dict(columns)))


def get_item(id: str) -> Call[Thing]:
    """Columns and version of an item."""
    return Call("GET", path_of("items", id), _thing)


def delete_item(id: str) -> Call[int]:
    """No longer shown; its version."""
    return Call("DELETE", path_of("items", id), _version)


def put_items(items: Iterable[tuple[str, Columns | None]]) -> Calls[Written]:
    """Write many items, sent as they are read; None for columns deletes."""
    return _many("items", items)


def search(
    text: str, *, k: int | None = None, fields: Sequence[str] | None = None, page: str | None = None
) -> Call[Page[Item]]:
    """Items that a text finds. page: `next` of the items before."""
    asked = params_of(search=text, k=k, fields=None if fields is None else list(fields), page=page)
    return Call("GET", "/v1/items", _found, asked)


def put_user(id: str, columns: Columns) -> Call[int]:
    """Write all columns of a user; its version."""
    return Call("PUT", path_of("users", id), _version, body=as_json(dict(columns)))


def patch_user(id: str, columns: Columns) -> Call[int]:
    """Change the columns named, leave the others; its version."""
    return Call("PATCH", path_of("users", id), _version, body=as_json(dict(columns)))


def get_user(id: str) -> Call[Thing]:
    """Columns and version of a user."""
    return Call("GET", path_of("users", id), _thing)


def delete_user(id: str) -> Call[dict[str, Any]]:
    """Remove all of a user; the proof."""
    return Call("DELETE", path_of("users", id), lambda said: dict(said["proof"]))


def put_users(users: Iterable[tuple[str, Columns | None]]) -> Calls[Written]:
    """Write many users, sent as they are read."""
    return _many("users", users)


def _thing(said: Any) -> Thing:
    return Thing(said["id"], said["columns"], said["version"])


def _found(said: Any) -> Page[Item]:
    items = [Item(row["item"], columns=row.get("columns") or {}) for row in said["items"]]
    return Page(items, said.get("next"))


def _many(table: str, things: Iterable[tuple[str, Columns | None]]) -> Calls[Written]:
    def calls() -> Iterator[Call[tuple[int, Written]]]:
        lines: list[bytes] = []
        size = 0
        for key, columns in things:
            line = as_json({"id": key, "columns": columns if columns is None else dict(columns)}) + b"\n"
            if lines and (len(lines) == LINES or size + len(line) > BYTES):
                yield call(lines)
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        if lines:
            yield call(lines)

    def call(lines: list[bytes]) -> Call[tuple[int, Written]]:
        def read(said: Any) -> tuple[int, Written]:
            return len(lines), Written(int(said["accepted"]), list(said["rejected"]))

        return Call("POST", path_of(table), read, body=b"".join(lines), type="application/x-ndjson")

    def join(parts: list[tuple[int, Written]]) -> Written:
        before, rejected = 0, []
        for sent, part in parts:
            rejected += [row | {"line": row["line"] + before} for row in part.rejected]
            before += sent
        return Written(sum(part.accepted for _, part in parts), rejected)

    return Calls(calls(), join)


def _version(said: Any) -> int:
    return int(said["version"])
