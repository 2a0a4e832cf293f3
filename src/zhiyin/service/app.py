"""The application: whose key it is, which routes there are. Routes are thin: they read a request, ask the shop's desk
and write the answer; what takes time is done by a few threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

import zhiyin
from zhiyin.service import admin, events, lists, things
from zhiyin.service.errors import RefusedError, handle_errors
from zhiyin.service.limits import Limited, Rate, Work
from zhiyin.service.routing import Needs, Tenant, fast
from zhiyin.service.tenant import Tenant as Shop

BEARER = HTTPBearer(auto_error=False, description="a key made at the first start")


def create_app(shops: Sequence[Shop], work: Work | None = None) -> FastAPI:
    """The service of one shop or several. The caller closes the shops."""
    work = work or Work()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        work.close()

    app = FastAPI(title="Zhiyin", version=zhiyin.__version__, docs_url="/docs", redoc_url=None, lifespan=life)
    rates = {id(shop): Rate(shop.settings.rate) for shop in shops}

    def needs(scope: str) -> Any:
        async def check(
            given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)] = None,
        ) -> Tenant:
            if given is None:
                raise RefusedError(401, "a key is needed", "send the header Authorization: Bearer KEY")
            for shop in shops:
                found = shop.keys.scopes(given.credentials)
                if found:
                    break
            else:
                raise RefusedError(401, "this key is not known", "send a key that the first start has shown")
            if scope not in found:
                raise RefusedError(403, f"this key may not {scope}", "use another key")
            rates[id(shop)].take("admin" if "admin" in found else min(found))
            return Tenant(shop, work, "admin" in found)

        return Depends(check)

    handle_errors(app)
    for part in (events, things, lists, admin):
        app.include_router(part.routes(Needs(needs("read"), needs("events"), needs("admin"))))

    @app.get("/health", tags=["state"])
    async def health() -> Any:
        """Whether the process lives."""
        return fast({"status": "ok"})

    @app.get("/ready", tags=["state"])
    async def ready(_: Request) -> Any:
        """Whether it can answer: a version in use, and a store that can be read."""

        def look() -> list[dict[str, Any]]:
            return [{"version": shop.live.now.version, "events": shop.store.last, "waiting": shop.writer.waiting}
                    for shop in shops]  # fmt: skip

        found = await work.do(look)
        return fast({"status": "ok"} | (found[0] if len(found) == 1 else {"shops": found}))

    origins = sorted({origin for shop in shops for origin in shop.settings.origins})
    app.add_middleware(Limited)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST", "OPTIONS"],
                           allow_headers=["Authorization", "Content-Type"], max_age=600)  # fmt: skip
    return app
