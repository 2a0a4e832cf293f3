"""The application: shops behind one HTTP interface. Its routes are made of the endpoints of `zhiyin.api`; see
`endpoint_dispatch`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from zhiyin.api import endpoints
from zhiyin.core.errors import ConfigError
from zhiyin.service import (
    ad_routes,
    catalog_routes,
    decision_routes,
    event_routes,
    experiment_routes,
    key_routes,
    link_routes,
    list_routes,
    pages,
    placement_routes,
    policy_routes,
    rating_routes,
    schema_routes,
    state_routes,
    whatif_routes,
)
from zhiyin.service.access_log import log_request
from zhiyin.service.authentication import Authenticator
from zhiyin.service.endpoint_dispatch import DirectRoutes, endpoint_routes
from zhiyin.service.errors import http_error_response
from zhiyin.service.log_format import loop_failed
from zhiyin.service.openapi_description import Description
from zhiyin.service.path_ids import EncodedSlashMiddleware
from zhiyin.service.request_context import MAX_REQUEST_SECONDS, After, RequestContextMiddleware
from zhiyin.service.request_limits import RequestLimitMiddleware, Work
from zhiyin.service.telemetry import Spans
from zhiyin.service.tenant import Tenant

# The modules whose handlers are bound to endpoints when they are imported.
HANDLER_MODULES = (
    event_routes, list_routes, decision_routes, catalog_routes, link_routes, placement_routes, policy_routes,
    schema_routes, key_routes, state_routes, experiment_routes, whatif_routes, ad_routes, rating_routes,
)  # fmt: skip
_CORS_MAX_AGE_SECONDS = 600


def create_app(
    shops: Sequence[Tenant],
    work: Work | None = None,
    *,
    longest: float = MAX_REQUEST_SECONDS,
    spans: Spans | None = None,
) -> Starlette:
    """The service of one shop or several. The caller closes the shops.

    Parameters
    ----------
    work: threads that make lists.
    longest: seconds that one request may take.
    spans: where they go, instead of what the settings say.

    Raises ConfigError for shops that share a key, or a store.
    """
    _check_apart(shops)
    authenticator = Authenticator(shops, work or Work())
    addresses = sorted({shop.settings.otlp for shop in shops if shop.settings.otlp})
    exporters = [spans] if spans is not None else [Spans(address) for address in addresses]
    after: list[After] = [authenticator.metrics.done, log_request, *(exporter.done for exporter in exporters)]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(loop_failed)
        yield
        authenticator.work.close()
        authenticator.writes.close()
        authenticator.metrics.count()
        for exporter in exporters:
            await asyncio.to_thread(exporter.close)

    metrics_open = all(shop.settings.metrics_open for shop in shops)
    routes = endpoint_routes(authenticator, {endpoints.METRICS: endpoints.OPEN_METRICS} if metrics_open else {})
    description = Description([route.definition for route in routes])
    root = next((shop.settings.root_path for shop in shops if shop.settings.root_path), "")
    middleware = [
        Middleware(RequestContextMiddleware, after=after, seconds=longest, root=root),
        *_cors(shops),
        Middleware(RequestLimitMiddleware, known=authenticator.identify),
        Middleware(EncodedSlashMiddleware),
        Middleware(DirectRoutes, routes=routes),
    ]
    app = Starlette(
        routes=[*routes, *pages.routes(), *description.routes()], middleware=middleware, lifespan=lifespan,
        exception_handlers={HTTPException: http_error_response},
    )  # fmt: skip
    app.router.redirect_slashes = False
    app.state.authenticator = authenticator
    return app


def _cors(shops: Sequence[Tenant]) -> list[Middleware]:
    """Lets pages of the shops' origins ask the service."""
    origins = sorted({origin for shop in shops for origin in shop.settings.origins})
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST", "OPTIONS"],
            max_age=_CORS_MAX_AGE_SECONDS, allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    ]  # fmt: skip


def _check_apart(shops: Sequence[Tenant]) -> None:
    """Raises ConfigError for shops that share a key, or a store."""
    if not shops:
        raise ConfigError("there is no shop to answer for", remedy="name at least one settings file")
    for n, shop in enumerate(shops):
        for other in shops[:n]:
            if shop.keys.shares(other.keys):
                raise ConfigError(f"shops {other.name!r} and {shop.name!r} share a key",
                                  remedy="revoke it in one of them: zhiyin key revoke NAME -c FILE")  # fmt: skip
            if _store_address(shop) == _store_address(other):
                raise ConfigError(f"shops {other.name!r} and {shop.name!r} share a store",
                                  remedy="give each a store of its own: [service] store")  # fmt: skip


def _store_address(shop: Tenant) -> str:
    store = shop.store
    return store.address if store.path is None else str(store.path.resolve())
