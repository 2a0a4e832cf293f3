"""Routes for keys and page tokens: who runs a shop makes and revokes keys, its web server signs tokens for pages."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from zhiyin.core.tokens import new_session, page_claims, sign
from zhiyin.service.errors import RefusedError
from zhiyin.service.openapi_description import REFUSALS
from zhiyin.service.request_json import JsonRoute
from zhiyin.service.request_models import KeyIn, TokenIn
from zhiyin.service.route_dependencies import ItemId, ScopeDependencies, Tenant, json_response
from zhiyin.store.access_keys import AccessKey


def routes(needs: ScopeDependencies) -> APIRouter:
    router = APIRouter(tags=["keys"], responses=REFUSALS, route_class=JsonRoute)

    @router.get("/v1/keys")
    async def all_of(tenant: Tenant = needs.admin) -> Any:
        """All keys: what is kept of them, never the keys themselves."""
        keys = tenant.shop.keys
        found = await tenant.work.do(keys.all)
        return json_response({"keys": [told(key, keys.now()) for key in found]})

    @router.post("/v1/keys")
    async def add(body: KeyIn, tenant: Tenant = needs.admin) -> Any:
        """Make a key. It is shown in this answer and never again. Of several processes that answer, the others have
        looked by then."""
        keys = tenant.shop.keys
        key, secret = await tenant.writes.do(keys.add, body.name, body.scopes, body.expires)
        await _until_all_know(tenant)
        return json_response({"key": secret} | told(key, keys.now()))

    @router.delete("/v1/keys/{name}")
    async def revoke(name: ItemId, tenant: Tenant = needs.admin) -> Any:
        """Revoke a key, and the page tokens that it signed: at once here; where several processes answer, the answer
        waits until they have looked. The last admin key stays."""
        key = await tenant.writes.do(tenant.shop.keys.revoke, name)
        await _until_all_know(tenant)
        return json_response({"name": key.name, "id": key.id})

    @router.post("/v1/tokens", tags=["tokens"])
    async def token(body: TokenIn, tenant: Tenant = needs.page) -> Any:
        """Sign a page token for a user, a session, or both; without any, for a new session. It lets a page bring events
        and read lists of these alone, until it expires (by default in an hour, at most in 7 days) or its key is
        revoked. An admin key has it signed by the newest page key."""
        keys = tenant.shop.keys
        key = tenant.key if "page" in tenant.key.scopes else keys.page_key()
        if key is None:
            raise RefusedError(409, "there is no key to sign page tokens by", "zhiyin key add web --scope page")
        session = new_session() if body.user is None and body.session is None else body.session
        now = keys.now() / 1e6
        claims = page_claims(body.user, session, body.expires, tuple(body.scope), now)
        return json_response(
            {"token": sign(claims, key.hash), "user": body.user, "session": session, "expires": claims["exp"]}
        )

    return router


async def _until_all_know(tenant: Tenant) -> None:
    """So that whoever was answered finds the key made, or revoked, whichever process takes the next request."""
    if tenant.live.several:
        await asyncio.sleep(tenant.shop.keys.settling)


def told(key: AccessKey, now: int) -> dict[str, Any]:
    """What people are told of a key. now: microseconds UTC, as all moments."""
    return {"name": key.name, "id": key.id, "scopes": sorted(key.scopes), "created": key.created,
            "expires": key.expires, "expired": key.expired(now), "used": key.used}  # fmt: skip
