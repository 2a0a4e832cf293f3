"""Routes for who runs the service: placements."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from zhiyin.service.openapi_description import REFUSALS
from zhiyin.service.placements import said
from zhiyin.service.request_json import JsonRoute
from zhiyin.service.request_models import RollbackIn, Setting
from zhiyin.service.route_dependencies import ItemId, ScopeDependencies, Tenant, json_response


def routes(needs: ScopeDependencies) -> APIRouter:
    router = APIRouter(tags=["placements"], responses=REFUSALS, route_class=JsonRoute)

    @router.get("/v1/placements")
    async def all_of(tenant: Tenant = needs.admin) -> Any:
        """All placements with their versions and settings."""
        await tenant.work.do(tenant.placements.refresh)
        return json_response({"placements": tenant.placements.all()})

    @router.get("/v1/placements/{name}")
    async def get(name: ItemId, tenant: Tenant = needs.admin) -> Any:
        """One of them."""
        await tenant.work.do(tenant.placements.refresh)
        return json_response(said(name, *tenant.placements.get(name)))

    @router.put("/v1/placements/{name}")
    async def put(name: ItemId, body: Setting, tenant: Tenant = needs.admin) -> Any:
        """Change settings for all lists from now on. They are checked first: what cannot be changes nothing."""
        settings = body.model_dump(exclude_defaults=True)

        def write() -> int:
            return tenant.placements.put(name, settings, tenant.live.view().answers)

        version = await tenant.writes.do(write)
        return json_response({"name": name, "version": version})

    @router.delete("/v1/placements/{name}")
    async def delete(name: ItemId, tenant: Tenant = needs.admin) -> Any:
        """Lists may no longer name it. Its versions are kept."""
        await tenant.writes.do(tenant.placements.delete, name)
        return json_response({"name": name})

    @router.get("/v1/placements/{name}/versions")
    async def versions(name: ItemId, tenant: Tenant = needs.admin) -> Any:
        """All versions, newest first."""
        return json_response({"name": name, "versions": await tenant.work.do(tenant.placements.versions, name)})

    @router.post("/v1/placements/{name}/rollback")
    async def rollback(name: ItemId, body: RollbackIn, tenant: Tenant = needs.admin) -> Any:
        """Write the settings of an old version as a new one."""

        def write() -> int:
            return tenant.placements.rollback(name, body.version, tenant.live.view().answers)

        version = await tenant.writes.do(write)
        return json_response({"name": name, "version": version})

    return router
