"""Calls for placements, the schema of columns, and the health of the service."""

from __future__ import annotations

from typing import Any

from zhiyin.api import endpoints
from zhiyin.client.api_call import Call, as_object, endpoint_call
from zhiyin.client.api_types import Columns


def list_placements() -> Call[list[dict[str, Any]]]:
    """All placements: {"name", "version", "settings"} each."""
    return endpoint_call(endpoints.LIST_PLACEMENTS, read=lambda body: list(body["placements"]))


def get_placement(name: str) -> Call[dict[str, Any]]:
    """One placement."""
    return endpoint_call(endpoints.GET_PLACEMENT, name, read=as_object)


def put_placement(name: str, settings: Columns) -> Call[dict[str, Any]]:
    """Write the settings of a placement, as its next version."""
    return endpoint_call(endpoints.PUT_PLACEMENT, name, read=as_object, body=settings)


def delete_placement(name: str) -> Call[dict[str, Any]]:
    """Remove a placement."""
    return endpoint_call(endpoints.DELETE_PLACEMENT, name, read=as_object)


def placement_versions(name: str) -> Call[dict[str, Any]]:
    """All versions of a placement."""
    return endpoint_call(endpoints.PLACEMENT_VERSIONS, name, read=as_object)


def rollback_placement(name: str, version: int) -> Call[dict[str, Any]]:
    """Put an older version of a placement in use."""
    return endpoint_call(endpoints.ROLLBACK_PLACEMENT, name, read=as_object, body={"version": version})


def whatif(
    placement: str = "default",
    *,
    settings: Columns | None = None,
    rules: Columns | None = None,
    version: int | None = None,
    as_placement: str | None = None,
    mode: str | None = None,
    snapshot: int | None = None,
    since: int | None = None,
    until: int | None = None,
    limit: int | None = None,
    confidence: float | None = None,
    interval: str | None = None,
) -> Call[dict[str, Any]]:
    """What another configuration would have earned on the logged lists of a placement; sent once.

    Parameters
    ----------
    settings: of the placement, in place of its own. rules: all of [rules], in place of those in use.
    version: of the models. as_placement: whose settings make the lists. mode, snapshot: of its policy.
    since, until: when the lists were made, microseconds UTC. limit: the newest so many.
    confidence, interval: of the intervals.
    """
    body = {
        "placement": placement, "settings": settings, "rules": rules, "version": version, "as_placement": as_placement,
        "mode": mode, "snapshot": snapshot, "since": since, "until": until, "limit": limit, "confidence": confidence,
        "interval": interval,
    }  # fmt: skip
    body = {name: value for name, value in body.items() if value is not None}
    return endpoint_call(endpoints.WHATIF, read=as_object, body=body, retries_allowed=False)


def get_schema() -> Call[dict[str, Any]]:
    """Types of the columns of items and of users: {"version", "items": {column: {"type", "source"}}, "users"}."""
    return endpoint_call(endpoints.GET_SCHEMA, read=as_object)


def put_schema(items: Columns | None = None, users: Columns | None = None) -> Call[dict[str, Any]]:
    """Declare types of columns, such as {"price": "number"}; None removes a declaration."""
    types = {"items": dict(items or {}), "users": dict(users or {})}
    return endpoint_call(endpoints.PUT_SCHEMA, read=as_object, body=types)


def health() -> Call[dict[str, Any]]:
    """Whether the process runs; sent once, without a retry."""
    return endpoint_call(endpoints.HEALTH, read=as_object, retries_allowed=False)


def ready() -> Call[dict[str, Any]]:
    """Whether the service can answer; sent once. Raises ApiError with status 503 where it cannot yet."""
    return endpoint_call(endpoints.READY, read=as_object, retries_allowed=False)
