"""Placements, and whether the service is well."""

from __future__ import annotations

from typing import Any

from zhiyin.client.api_call import Call, as_it_is, as_json, path_of
from zhiyin.client.api_types import Columns


def placements() -> Call[list[dict[str, Any]]]:
    """All placements: {"name", "version", "settings"} each."""
    return Call("GET", "/v1/placements", lambda said: list(said["placements"]))


def placement(name: str) -> Call[dict[str, Any]]:
    """One placement."""
    return Call("GET", path_of("placements", name), as_it_is)


def put_placement(name: str, settings: Columns) -> Call[dict[str, Any]]:
    """Write the settings of a placement, as its next version."""
    return Call("PUT", path_of("placements", name), as_it_is, body=as_json(dict(settings)))


def delete_placement(name: str) -> Call[dict[str, Any]]:
    """Remove a placement."""
    return Call("DELETE", path_of("placements", name), as_it_is)


def placement_versions(name: str) -> Call[dict[str, Any]]:
    """All versions of a placement."""
    return Call("GET", path_of("placements", name, "versions"), as_it_is)


def rollback_placement(name: str, version: int) -> Call[dict[str, Any]]:
    """Put an older version of a placement in use."""
    return Call("POST", path_of("placements", name, "rollback"), as_it_is, body=as_json({"version": version}))


def schema() -> Call[dict[str, Any]]:
    """Types of the columns of items and of users: {"version", "items": {column: {"type", "source"}}, "users"}."""
    return Call("GET", "/v1/schema", as_it_is)


def put_schema(items: Columns | None = None, users: Columns | None = None) -> Call[dict[str, Any]]:
    """Declare types of columns, such as {"price": "number"}; None takes a declaration back."""
    return Call("PUT", "/v1/schema", as_it_is, body=as_json({"items": dict(items or {}), "users": dict(users or {})}))


def health() -> Call[dict[str, Any]]:
    """Whether the process lives; asked once, without another try."""
    return Call("GET", "/health", as_it_is, tries=False)


def ready() -> Call[dict[str, Any]]:
    """Whether it can answer; asked once. Raises ApiError with status 503 where it cannot yet."""
    return Call("GET", "/ready", as_it_is, tries=False)
