"""Handlers of the state of the service: health, readiness, metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from zhiyin.api import endpoints
from zhiyin.service.authentication import Access, Authenticator
from zhiyin.service.endpoint_dispatch import handles, json_response
from zhiyin.service.health_issues import issues_json
from zhiyin.service.metrics import PLAIN_TEXT


@handles(endpoints.HEALTH)
async def health() -> Any:
    return {"status": "ok"}


@handles(endpoints.READY)
async def ready(authenticator: Authenticator) -> Any:
    def look() -> list[dict[str, Any]]:
        return [{"version": tenant.live.serving and tenant.live.serving.version, "events": tenant.store.last_seq,
                 "waiting": tenant.writer.waiting, **issues_json(tenant.health_issues())}
                for tenant in authenticator.tenants]  # fmt: skip

    states = await authenticator.work.do(look)
    no_version = any(state["version"] is None for state in states)
    status = {"status": "no version"} if no_version else {"status": "ok"}
    # Of several shops only their number is answered: no key is needed for it.
    details = states[0] if len(states) == 1 else {"shops": len(states)}
    return json_response(status | details, 503 if no_version else 200)


@handles(endpoints.METRICS)
async def metrics(authenticator: Authenticator, access: Access | None = None) -> Any:
    # Not by the threads that make lists: metrics are wanted most when those are busy.
    shop = None if access is None else authenticator.name_of(access.tenant)
    return Response(await asyncio.to_thread(authenticator.metrics.render, shop), media_type=PLAIN_TEXT)
