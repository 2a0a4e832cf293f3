"""Handlers of keys and page tokens: who runs a shop makes and revokes keys, its web server signs tokens for pages."""

from __future__ import annotations

import asyncio
from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.requests import KeyRequest, TokenRequest
from zhiyin.core.page_tokens import new_session, page_claims, sign
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles
from zhiyin.service.errors import RefusedError
from zhiyin.store.access_keys import AccessKey


@handles(endpoints.LIST_KEYS)
async def list_keys(access: Access) -> Any:
    keys = access.tenant.keys
    all_keys = await access.work.do(keys.all)
    return {"keys": [key_json(key, keys.now()) for key in all_keys]}


@handles(endpoints.ADD_KEY)
async def add_key(access: Access, body: KeyRequest) -> Any:
    keys = access.tenant.keys
    key, secret = await access.writes.do(keys.add, body.name, body.scopes, body.expires)
    await _until_all_processes_know(access)
    return {"key": secret} | key_json(key, keys.now())


@handles(endpoints.REVOKE_KEY)
async def revoke_key(access: Access, name: str) -> Any:
    key = await access.writes.do(access.tenant.keys.revoke, name)
    await _until_all_processes_know(access)
    return {"name": key.name, "id": key.id}


@handles(endpoints.PAGE_TOKEN)
async def page_token(access: Access, body: TokenRequest) -> Any:
    keys = access.tenant.keys
    key = access.key if "page" in access.key.scopes else keys.page_key()
    if key is None:
        raise RefusedError(409, "there is no key to sign page tokens by", "zhiyin key add web --scope page")
    session = new_session() if body.user is None and body.session is None else body.session
    now = keys.now() / 1e6
    claims = page_claims(body.user, session, body.expires, tuple(body.scope), now)
    return {"token": sign(claims, key.hash), "user": body.user, "session": session, "expires": claims["exp"]}


async def _until_all_processes_know(access: Access) -> None:
    """So that the key is valid, or revoked, whichever process takes the next request."""
    if access.live.several:
        await asyncio.sleep(access.tenant.keys.settling_seconds)


def key_json(key: AccessKey, now: int) -> dict[str, Any]:
    """What answers hold of a key. now: microseconds UTC, as all its times."""
    return {"name": key.name, "id": key.id, "scopes": sorted(key.scopes), "created": key.created,
            "expires": key.expires, "expired": key.expired(now), "used": key.used}  # fmt: skip
