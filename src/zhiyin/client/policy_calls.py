"""Calls for policies of placements: how they do, and the controls that act on the next request."""

from __future__ import annotations

from typing import Any, Literal

from zhiyin.api import endpoints
from zhiyin.client.api_call import Call, as_object, endpoint_call, present_fields

PolicyMode = Literal["shadow", "apprentice", "guarded", "online"]


def list_policies() -> Call[list[dict[str, Any]]]:
    """The policies of all placements, as they decide now: {"name", "kind", "mode", "snapshot", "reason", ...} each."""
    return endpoint_call(endpoints.LIST_POLICIES, read=lambda body: list(body["policies"]))


def get_policy(name: str) -> Call[dict[str, Any]]:
    """The policy of a placement, with its settings and what was decided about it."""
    return endpoint_call(endpoints.GET_POLICY, name, read=as_object)


def promote_policy(name: str, *, mode: PolicyMode | None = None, force: bool | None = None) -> Call[dict[str, Any]]:
    """Let a policy decide more. Raises ApiError with status 409 where the log does not show it to be better.

    Parameters
    ----------
    mode: that it gets; None: the next of shadow, apprentice, guarded, online.
    force: also where the log does not show it.
    """
    return endpoint_call(
        endpoints.PROMOTE_POLICY, name, read=as_object, body=present_fields(mode=mode, force=force)
    )  # fmt: skip


def rollback_policy(name: str, *, snapshot: int | None = None) -> Call[dict[str, Any]]:
    """Take back the last promotion or choice of a snapshot; with `snapshot`, have that one decide until `unfreeze`."""
    return endpoint_call(
        endpoints.ROLLBACK_POLICY, name, read=as_object, body=present_fields(snapshot=snapshot)
    )  # fmt: skip


def freeze_policy(name: str) -> Call[dict[str, Any]]:
    """Learn nothing from now on; the present snapshot goes on deciding."""
    return endpoint_call(endpoints.FREEZE_POLICY, name, read=as_object)


def unfreeze_policy(name: str) -> Call[dict[str, Any]]:
    """Learn again."""
    return endpoint_call(endpoints.UNFREEZE_POLICY, name, read=as_object)


def kill_policy(name: str) -> Call[dict[str, Any]]:
    """Have the baseline make every list from the next request on."""
    return endpoint_call(endpoints.KILL_POLICY, name, read=as_object)


def revive_policy(name: str) -> Call[dict[str, Any]]:
    """Let a killed policy decide again."""
    return endpoint_call(endpoints.REVIVE_POLICY, name, read=as_object)
