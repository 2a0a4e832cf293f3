"""Handlers of policies of placements, and of their controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.requests import PolicyRollbackRequest, PromoteRequest
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles


@handles(endpoints.LIST_POLICIES)
async def list_policies(access: Access) -> Any:
    def read() -> list[dict[str, Any]]:
        administration = access.tenant.policy_administration
        return [_present(access, administration.summary(name)) for name in administration.names()]

    return {"policies": await access.work.do(read)}


@handles(endpoints.GET_POLICY)
async def get_policy(access: Access, name: str) -> Any:
    return await access.work.do(_details, access, name)


@handles(endpoints.PROMOTE_POLICY)
async def promote_policy(access: Access, name: str, body: PromoteRequest) -> Any:
    return await _decided(
        access, name, lambda: access.tenant.policy_administration.promote(name, body.mode, body.force)
    )


@handles(endpoints.ROLLBACK_POLICY)
async def rollback_policy(access: Access, name: str, body: PolicyRollbackRequest) -> Any:
    return await _decided(access, name, lambda: access.tenant.policy_administration.rollback(name, body.snapshot))


@handles(endpoints.FREEZE_POLICY)
async def freeze_policy(access: Access, name: str) -> Any:
    return await _decided(access, name, lambda: access.tenant.policy_administration.freeze(name))


@handles(endpoints.UNFREEZE_POLICY)
async def unfreeze_policy(access: Access, name: str) -> Any:
    return await _decided(access, name, lambda: access.tenant.policy_administration.unfreeze(name))


@handles(endpoints.KILL_POLICY)
async def kill_policy(access: Access, name: str) -> Any:
    return await _decided(access, name, lambda: access.tenant.policy_administration.kill(name))


@handles(endpoints.REVIVE_POLICY)
async def revive_policy(access: Access, name: str) -> Any:
    return await _decided(access, name, lambda: access.tenant.policy_administration.revive(name))


async def _decided(access: Access, name: str, decide: Callable[[], Any]) -> dict[str, Any]:
    """The policy after a change of its controls."""
    await access.writes.do(decide)
    return await access.work.do(_details, access, name)


def _details(access: Access, name: str) -> dict[str, Any]:
    return _present(access, access.tenant.policy_administration.details(name))


def _present(access: Access, summary: dict[str, Any]) -> dict[str, Any]:
    """A summary with what this process knows: the snapshot that decides, and what exploring has cost."""
    policies, name = access.tenant.policies, summary["name"]
    served = policies.at(name)
    reason = summary["reason"] if summary["reason"] in ("killed", "frozen") else served.reason
    return summary | {
        "snapshot": served.snapshot, "reason": reason, "loss_spent": round(policies.loss_of_day(name), 9),
    }  # fmt: skip
