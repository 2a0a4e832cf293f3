"""Calls for placements, the schema of columns, and the health of the service."""

from __future__ import annotations

from typing import Any

from zhiyin.client.api_call import Call, as_json, as_object, resource_path
from zhiyin.client.api_types import Columns


def list_placements() -> Call[list[dict[str, Any]]]:
    """All placements: {"name", "version", "settings"} each."""
    return Call("GET", "/v1/placements", lambda body: list(body["placements"]))


def get_placement(name: str) -> Call[dict[str, Any]]:
    """One placement."""
    return Call("GET", resource_path("placements", name), as_object)


def put_placement(name: str, settings: Columns) -> Call[dict[str, Any]]:
    """Write the settings of a placement, as its next version."""
    return Call("PUT", resource_path("placements", name), as_object, body=as_json(dict(settings)))


def delete_placement(name: str) -> Call[dict[str, Any]]:
    """Remove a placement."""
    return Call("DELETE", resource_path("placements", name), as_object)


def placement_versions(name: str) -> Call[dict[str, Any]]:
    """All versions of a placement."""
    return Call("GET", resource_path("placements", name, "versions"), as_object)


def rollback_placement(name: str, version: int) -> Call[dict[str, Any]]:
    """Put an older version of a placement in use."""
    return Call("POST", resource_path("placements", name, "rollback"), as_object, body=as_json({"version": version}))


def get_schema() -> Call[dict[str, Any]]:
    """Types of the columns of items and of users: {"version", "items": {column: {"type", "source"}}, "users"}."""
    return Call("GET", "/v1/schema", as_object)


def put_schema(items: Columns | None = None, users: Columns | None = None) -> Call[dict[str, Any]]:
    """Declare types of columns, such as {"price": "number"}; None removes a declaration."""
    return Call("PUT", "/v1/schema", as_object, body=as_json({"items": dict(items or {}), "users": dict(users or {})}))


def health() -> Call[dict[str, Any]]:
    """Whether the process runs; sent once, without a retry."""
    return Call("GET", "/health", as_object, retries_allowed=False)


def ready() -> Call[dict[str, Any]]:
    """Whether the service can answer; sent once. Raises ApiError with status 503 where it cannot yet."""
    return Call("GET", "/ready", as_object, retries_allowed=False)
