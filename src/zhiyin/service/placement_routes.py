"""Handlers of placements."""

from __future__ import annotations

from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.requests import PlacementSettings, RollbackRequest
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles
from zhiyin.service.placements import placement_json, warnings_of


@handles(endpoints.LIST_PLACEMENTS)
async def list_placements(access: Access) -> Any:
    await access.work.do(access.placements.refresh)
    return {"placements": access.placements.all()}


@handles(endpoints.GET_PLACEMENT)
async def get_placement(access: Access, name: str) -> Any:
    await access.work.do(access.placements.refresh)
    return placement_json(name, *access.placements.get(name))


@handles(endpoints.PUT_PLACEMENT)
async def put_placement(access: Access, name: str, body: PlacementSettings) -> Any:
    settings = body.model_dump(exclude_defaults=True)

    def write() -> int:
        return access.placements.put(name, settings, access.live.view().answers)

    version, warnings = await access.writes.do(write), warnings_of(body)
    return {"name": name, "version": version} | ({"warnings": warnings} if warnings else {})


@handles(endpoints.DELETE_PLACEMENT)
async def delete_placement(access: Access, name: str) -> Any:
    def delete() -> None:
        access.experiments.check_placement_unused(name)
        access.placements.delete(name)

    await access.writes.do(delete)
    return {"name": name}


@handles(endpoints.PLACEMENT_VERSIONS)
async def placement_versions(access: Access, name: str) -> Any:
    return {"name": name, "versions": await access.work.do(access.placements.versions, name)}


@handles(endpoints.ROLLBACK_PLACEMENT)
async def rollback_placement(access: Access, name: str, body: RollbackRequest) -> Any:
    def write() -> int:
        return access.placements.rollback(name, body.version, access.live.view().answers)

    return {"name": name, "version": await access.writes.do(write)}
