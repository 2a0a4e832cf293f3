"""The application: whose key it is, which routes there are. Routes are thin: they read a request, ask the shop's list
service and write the answer; what takes time is done by a few threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from zhiyin.core.errors import ConfigError
from zhiyin.core.tokens import TokenError, is_token, signer, verified
from zhiyin.core.version import __version__
from zhiyin.service import catalog_routes, event_routes, key_routes, list_routes, pages, placement_routes, schema_routes
from zhiyin.service.errors import RefusedError, handle_errors
from zhiyin.service.fast_path import FastPathMiddleware
from zhiyin.service.health_issues import issues_json
from zhiyin.service.key_cache import digest_of
from zhiyin.service.log_format import access, loop_failed
from zhiyin.service.metrics import PLAIN, Metrics
from zhiyin.service.openapi_description import QUERY, REFUSALS, UNREADY, describe
from zhiyin.service.request_context import CURRENT, LONGEST, After, RequestContextMiddleware
from zhiyin.service.request_limits import WRITERS, Rate, RequestLimitMiddleware, Work
from zhiyin.service.route_dependencies import (
    EncodedSlashMiddleware,
    ScopeDependencies,
    Tenant,
    check_query,
    json_response,
)
from zhiyin.service.telemetry import Spans
from zhiyin.service.tenant import Tenant as Shop
from zhiyin.service.visitors import Visitor
from zhiyin.store.access_keys import AccessKey

BEARER = HTTPBearer(auto_error=False, description="a key (zhiyin key add), or a page token where a route takes one")
_MORE = {
    "page": "a key for pages signs tokens: POST /v1/tokens, and give the token to the page",
    "read": "use a key with the scope read", "events": "use a key with the scope events", "admin": "use an admin key",
}  # fmt: skip
# What the scopes of a key let do, in words.
_MAY = {"read": "read lists", "events": "bring events", "page": "sign page tokens", "admin": "do what an admin does"}
_RENEW = "get a new one from the shop's server: POST /v1/tokens, or PageKey of zhiyin.client"


class Authenticator:
    """Who comes in: whose key it is, what it may do, how often. One for all shops of an application."""

    def __init__(self, shops: Sequence[Shop], work: Work) -> None:
        self.shops, self.work, self.metrics = tuple(shops), work, Metrics(shops, work)
        self.writes = Work(WRITERS, name="zhiyin-write")
        self._rates = {id(shop): Rate(shop.settings.rate) for shop in shops}
        self._names = {id(one.shop): one.name for one in self.metrics.shops}
        for one in self.metrics.shops:
            one.shop.list_service.listed, one.shop.brought = one.listed, one.brought

    def authenticate(self, given: str | None, scope: str, visitors: bool = False) -> Tenant:
        """The shop that a key or a page token opens. visitors: whether a page token may do it.

        Raises RefusedError 401, 403 or 429.
        """
        shop, key, visitor = self.known(given)
        current = CURRENT.get()
        if current is not None:
            current.shop, current.key = self.name_of(shop) or "", key.name
        if visitor is not None:
            if not visitors:
                raise RefusedError(403, "a page token may not do this", "ask from the shop's server, with a key")
            if scope not in visitor.scopes:
                raise RefusedError(403, f"this page token may not {_MAY[scope]}", f"sign one whose scope has {scope}")
        elif "admin" not in key.scopes and scope not in key.scopes:
            may = " and ".join(_MAY[scope] for scope in sorted(key.scopes))
            remedy = _MORE["page"] if "page" in key.scopes else _MORE.get(scope, "use another key")
            raise RefusedError(403, f"this key may not {_MAY[scope]}: it may {may}", remedy)
        self._rates[id(shop)].take(key.name if visitor is None else f"{key.name}\n{visitor.name}")
        shop.keys.use(key)
        return Tenant(shop, self.work, self.writes, key, visitor)

    def known(self, given: str | None) -> tuple[Shop, AccessKey, Visitor | None]:
        """The shop, the key and the visitor of a key or a page token. Raises RefusedError 401 for neither.

        Of one request it is found out once.
        """
        if given is None:
            raise RefusedError(401, "a key is needed", "send the header Authorization: Bearer KEY")
        current = CURRENT.get()
        if current is not None and current.known is not None and current.known[0] == given:
            found: tuple[Shop, AccessKey, Visitor | None] = current.known[1]
            return found
        visitor: Visitor | None = None
        if is_token(given):
            shop, key, visitor = self._visitor(given)
        else:
            shop, key = self._owner(given)
        if shop.keys.expired(key):
            raise RefusedError(401, "this key has expired", "make another: zhiyin key add")
        if current is not None:
            current.known = given, (shop, key, visitor)
        return shop, key, visitor

    def _owner(self, given: str) -> tuple[Shop, AccessKey]:
        """The shop and what is known of a key."""
        digest = digest_of(given)
        # All shops are asked, so that the time it takes does not tell whose key it is.
        known = [(shop, key) for shop in self.shops if (key := shop.keys.find(digest)) is not None]
        if not known:
            raise RefusedError(401, "this key is not known", "send a key of zhiyin key list; it may have been revoked")
        return known[0]

    def _visitor(self, token: str) -> tuple[Shop, AccessKey, Visitor]:
        """Whom a page token names, if the signature is right and the time is, and the page key that signed it."""
        try:
            id = signer(token)
            known = [(shop, key) for shop in self.shops if (key := shop.keys.signer(id)) is not None]
            if not known:
                raise TokenError("the key that signed this page token is not known: it may have been revoked")
            shop, key = known[0]
            return shop, key, Visitor.of(verified(token, key.hash), shop.keys.now() / 1e6)
        except TokenError as error:
            raise RefusedError(401, str(error), _RENEW) from None

    def name_of(self, shop: Shop) -> str | None:
        """What figures and logs call a shop; None where there is only one."""
        return self._names[id(shop)] if len(self.shops) > 1 else None


def _needs(scope: str, visitors: bool = False) -> Any:
    # The authenticator is found by the request: FastAPI keeps dependencies for good, and with them all that they hold.
    async def check(
        request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)] = None
    ) -> Tenant:
        tenant = request.app.state.authenticator.authenticate(given and given.credentials, scope, visitors)
        check_query(request)
        return tenant

    return Depends(check)


def create_app(
    shops: Sequence[Shop], work: Work | None = None, *, longest: float = LONGEST, spans: Spans | None = None
) -> FastAPI:
    """The service of one shop or several. The caller closes the shops.

    longest: seconds that one request may take. spans: where they go, instead of what the settings say.

    Raises ConfigError for shops that share a key, or a store: nothing may be shared between two.
    """
    _apart(shops)
    authenticator = Authenticator(shops, work or Work())
    addresses = sorted({shop.settings.otlp for shop in shops if shop.settings.otlp})
    sent = [spans] if spans is not None else [Spans(address) for address in addresses]
    after: list[After] = [authenticator.metrics.done, access, *(one.done for one in sent)]

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(loop_failed)
        yield
        authenticator.work.close()
        authenticator.writes.close()
        for one in sent:
            await asyncio.to_thread(one.close)

    app = FastAPI(title="Zhiyin", version=__version__, openapi_url=None, docs_url=None, redoc_url=None,
                  redirect_slashes=False, lifespan=life)  # fmt: skip
    app.state.authenticator = authenticator
    handle_errors(app)
    keys = ScopeDependencies(
        _needs("read"), _needs("events"), _needs("page"), _needs("admin"),
        visitor_read=_needs("read", True), visitor_events=_needs("events", True),
    )  # fmt: skip
    # Those asked for most are found first; routes of an included router would be looked through twice.
    for part in (list_routes, event_routes, catalog_routes, placement_routes, schema_routes, key_routes):
        app.router.routes.extend(part.routes(keys).routes)
    _state(app, None if all(shop.settings.metrics_open for shop in shops) else keys)
    pages.mount(app)
    describe(app)
    origins = sorted({origin for shop in shops for origin in shop.settings.origins})
    app.add_middleware(FastPathMiddleware, fast_routes=list_routes.FAST_ROUTES | event_routes.FAST_ROUTES)
    app.add_middleware(EncodedSlashMiddleware)
    app.add_middleware(RequestLimitMiddleware, known=authenticator.known)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST", "OPTIONS"], max_age=600,
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )  # fmt: skip
    root = next((shop.settings.root_path for shop in shops if shop.settings.root_path), "")
    app.add_middleware(RequestContextMiddleware, after=after, seconds=longest, root=root)
    return app


def _state(app: FastAPI, keys: ScopeDependencies | None) -> None:
    """How the service is. keys: of who may see the figures; None: all."""
    plain = [Depends(check_query)]

    @app.get("/health", tags=["state"], dependencies=plain, responses=QUERY)
    async def health() -> Any:
        """Whether the process lives."""
        return json_response({"status": "ok"})

    @app.get("/ready", tags=["state"], dependencies=plain, responses=UNREADY | QUERY)
    async def ready(request: Request) -> Any:
        """Whether it can answer: a version, and a store that can be read. set_aside: what is not used, and how it is
        mended. Without a version events are kept and lists are refused: 503."""
        authenticator: Authenticator = request.app.state.authenticator

        def look() -> list[dict[str, Any]]:
            return [{"version": shop.live.serving and shop.live.serving.version, "events": shop.store.last_seq,
                     "waiting": shop.writer.waiting, **issues_json(shop.health_issues())}
                    for shop in authenticator.shops]  # fmt: skip

        found = await authenticator.work.do(look)
        # Of several shops nobody is told anything without a key.
        missing = any(shop["version"] is None for shop in found)
        said = {"status": "no version"} if missing else {"status": "ok"}
        return json_response(said | (found[0] if len(found) == 1 else {"shops": len(found)}), 503 if missing else 200)

    # Not by the threads that make lists: figures are wanted most when those are busy.
    if keys is None:

        @app.get("/metrics", tags=["state"], response_class=Response, dependencies=plain, responses=QUERY)
        async def open_metrics(request: Request) -> Any:
            """Figures for Prometheus."""
            return Response(await asyncio.to_thread(request.app.state.authenticator.metrics.render), media_type=PLAIN)

    else:

        @app.get("/metrics", tags=["state"], response_class=Response, responses=REFUSALS)
        async def shop_metrics(request: Request, tenant: Tenant = keys.admin) -> Any:
            """Figures for Prometheus; of several shops, those of the key's own."""
            authenticator: Authenticator = request.app.state.authenticator
            told = await asyncio.to_thread(authenticator.metrics.render, authenticator.name_of(tenant.shop))
            return Response(told, media_type=PLAIN)


def _apart(shops: Sequence[Shop]) -> None:
    if not shops:
        raise ConfigError("there is no shop to answer for", remedy="name at least one settings file")
    for n, one in enumerate(shops):
        for other in shops[:n]:
            if one.keys.shares(other.keys):
                raise ConfigError(f"shops {other.name!r} and {one.name!r} share a key",
                                  remedy="revoke it in one of them: zhiyin key revoke NAME -c FILE")  # fmt: skip
            if _place(one) == _place(other):
                raise ConfigError(f"shops {other.name!r} and {one.name!r} share a store",
                                  remedy="give each a store of its own: [service] store")  # fmt: skip


def _place(shop: Shop) -> str:
    store = shop.store
    return store.address if store.path is None else str(store.path.resolve())
