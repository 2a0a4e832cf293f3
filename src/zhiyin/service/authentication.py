"""Who sends a request: the key or the page token, the shop that it opens, and how many requests it may send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from zhiyin.api.endpoint import Scope
from zhiyin.core.page_tokens import TokenError, is_token, signer, verified
from zhiyin.core.uid import is_fresh_id, seconds_of
from zhiyin.service.errors import RefusedError
from zhiyin.service.key_cache import digest_of
from zhiyin.service.metrics import Metrics
from zhiyin.service.page_token_access import SubjectT, Visitor
from zhiyin.service.request_context import CURRENT
from zhiyin.service.request_limits import WRITE_THREADS, Rate, Work
from zhiyin.service.tenant import Tenant
from zhiyin.store.access_keys import AccessKey
from zhiyin.store.traces import Trace

# Seconds that the trace of a list which another process has just made is waited for, and the first pause meanwhile.
TRACE_WAIT_SECONDS, TRACE_POLL_SECONDS = 3.0, 0.02
_REMEDIES = {
    "page": "a key for pages signs tokens: POST /v1/tokens, and give the token to the page",
    "read": "use a key with the scope read", "events": "use a key with the scope events", "admin": "use an admin key",
}  # fmt: skip
# What a key of each scope may do, in words.
_PERMISSIONS = {"read": "read lists", "events": "bring events", "page": "sign page tokens",
                "admin": "do what an admin does"}  # fmt: skip
_RENEW_TOKEN = "get a new one from the shop's server: POST /v1/tokens, or PageKey of zhiyin.client"


class Access:
    """What the key or page token of a request gives access to: one shop, with its store, versions and placements.

    Parameters
    ----------
    tenant: the shop.
    work: threads that make lists.
    writes: threads that change the store, which may have to wait for it.
    key: the key that was sent, or that signed the page token.
    visitor: whom the page token names; None: the key itself was sent.
    """

    def __init__(
        self, tenant: Tenant, work: Work, writes: Work, key: AccessKey, visitor: Visitor | None = None
    ) -> None:
        self.tenant, self.work, self.writes, self.key, self.visitor = tenant, work, writes, key, visitor
        self.admin = visitor is None and "admin" in key.scopes
        self.live, self.store, self.writer, self.traces = tenant.live, tenant.store, tenant.writer, tenant.traces
        self.placements, self.list_service = tenant.placements, tenant.list_service
        self.experiments, self.evaluator = tenant.experiments, tenant.evaluator

    async def find_list(self, list_id: str) -> Trace | None:
        """The trace of a list; None where there is none. That of a list which another process has just made is waited
        for: it is written a moment after the list is given."""
        pause = TRACE_POLL_SECONDS
        while True:
            trace = await self.work.do(self.traces.find, list_id)
            if trace is not None or not self.live.several or not _just_made(list_id):
                return trace
            await asyncio.sleep(pause)
            pause *= 2

    async def get_list(self, list_id: str) -> Trace:
        """As `find_list`. Raises RefusedError 404 where there is none."""
        trace = await self.find_list(list_id)
        if trace is None:
            raise RefusedError(404, f"list {list_id!r} is not known", "lists are kept for a while only")
        return trace

    def own(self, request: SubjectT, personal: bool = True) -> SubjectT:
        """The request, checked against a page token; a key's is as it was. personal: see `Visitor.own`.

        Raises RefusedError 403 for somebody else's list.
        """
        return request if self.visitor is None else self.visitor.own(request, personal)


def _just_made(list_id: str) -> bool:
    """Whether an id of a list was made within the last TRACE_WAIT_SECONDS; see `fresh_id`."""
    return is_fresh_id(list_id) and abs(time.time() - seconds_of(list_id)) < TRACE_WAIT_SECONDS


class Authenticator:
    """Finds whose key or page token was sent, what it may do, and how often. One for all shops of an application."""

    def __init__(self, tenants: Sequence[Tenant], work: Work) -> None:
        self.tenants, self.work, self.metrics = tuple(tenants), work, Metrics(tenants, work)
        self.writes = Work(WRITE_THREADS, name="zhiyin-write")
        self._rates = {id(tenant): Rate(tenant.settings.rate) for tenant in tenants}
        self._names = {id(one.shop): one.name for one in self.metrics.shops}
        for one in self.metrics.shops:
            one.shop.list_service.on_list, one.shop.on_events = one.on_list, one.on_events
            one.shop.list_service.on_decision = one.on_decision

    def authenticate(self, credentials: str | None, scope: Scope, visitors: bool = False) -> Access:
        """What a key or a page token opens. visitors: whether a page token may do it.

        Raises RefusedError 401, 403 or 429.
        """
        tenant, key, visitor = self.identify(credentials)
        current = CURRENT.get()
        if current is not None:
            current.shop, current.key = self.name_of(tenant) or "", key.name
        if visitor is not None:
            if not visitors:
                raise RefusedError(403, "a page token may not do this", "ask from the shop's server, with a key")
            if scope not in visitor.scopes:
                raise RefusedError(
                    403, f"this page token may not {_PERMISSIONS[scope]}", f"sign one whose scope has {scope}"
                )
        elif "admin" not in key.scopes and scope not in key.scopes:
            allowed = " and ".join(_PERMISSIONS[scope] for scope in sorted(key.scopes))
            remedy = _REMEDIES["page"] if "page" in key.scopes else _REMEDIES.get(scope, "use another key")
            raise RefusedError(403, f"this key may not {_PERMISSIONS[scope]}: it may {allowed}", remedy)
        self._rates[id(tenant)].take(key.name if visitor is None else f"{key.name}\n{visitor.name}")
        tenant.keys.use(key)
        return Access(tenant, self.work, self.writes, key, visitor)

    def identify(self, credentials: str | None) -> tuple[Tenant, AccessKey, Visitor | None]:
        """The shop, the key and the visitor of a key or a page token; looked up once for each request.

        Raises RefusedError 401 where they are not known.
        """
        if credentials is None:
            raise RefusedError(401, "a key is needed", "send the header Authorization: Bearer KEY")
        current = CURRENT.get()
        if current is not None and current.known is not None and current.known[0] == credentials:
            identity: tuple[Tenant, AccessKey, Visitor | None] = current.known[1]
            return identity
        visitor: Visitor | None = None
        if is_token(credentials):
            tenant, key, visitor = self._identify_visitor(credentials)
        else:
            tenant, key = self._identify_key(credentials)
        if tenant.keys.expired(key):
            raise RefusedError(401, "this key has expired", "make another: zhiyin key add")
        if current is not None:
            current.known = credentials, (tenant, key, visitor)
        return tenant, key, visitor

    def _identify_key(self, secret: str) -> tuple[Tenant, AccessKey]:
        digest = digest_of(secret)
        # All shops are asked, so that the time it takes does not tell whose key it is.
        matches = [(tenant, key) for tenant in self.tenants if (key := tenant.keys.find(digest)) is not None]
        if not matches:
            raise RefusedError(401, "this key is not known", "send a key of zhiyin key list; it may have been revoked")
        return matches[0]

    def _identify_visitor(self, token: str) -> tuple[Tenant, AccessKey, Visitor]:
        """Whom a page token names, if the signature and the time are right, and the page key that signed it."""
        try:
            key_id = signer(token)
            matches = [(tenant, key) for tenant in self.tenants if (key := tenant.keys.signer(key_id)) is not None]
            if not matches:
                raise TokenError("the key that signed this page token is not known: it may have been revoked")
            tenant, key = matches[0]
            return tenant, key, Visitor.of(verified(token, key.hash), tenant.keys.now() / 1e6)
        except TokenError as error:
            raise RefusedError(401, str(error), _RENEW_TOKEN) from None

    def name_of(self, tenant: Tenant) -> str | None:
        """The name of a shop in metrics and logs; None where there is only one."""
        return self._names[id(tenant)] if len(self.tenants) > 1 else None
