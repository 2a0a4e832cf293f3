"""What routes share: whose request it is, ids in addresses, answers written fast."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
from typing import Annotated, Any
from urllib.parse import quote, unquote

import orjson
from fastapi import Path, Query, Request
from fastapi.responses import Response
from pydantic import AfterValidator

from zhiyin.core.errors import nearest
from zhiyin.core.limits import MAX_ID_CHARS, MAX_ITEMS
from zhiyin.service.errors import RefusedError
from zhiyin.service.request_limits import Work
from zhiyin.service.request_models import FIELDS, PLAIN, Filter, Id, Language, Page, Text
from zhiyin.service.tenant import Tenant as Shop
from zhiyin.service.visitors import Visitor, W
from zhiyin.store.access_keys import AccessKey
from zhiyin.store.traces import Trace

# What stands in an address for a slash within an id, which routes would take for the end of it: of private use.
_SLASH = "\ue000"
# Seconds that the trace of a list which another process has just made is waited for.
TRACE_WAIT = 3.0
ItemId = Annotated[Id, Path(json_schema_extra=PLAIN), AfterValidator(lambda said: said.replace(_SLASH, "/"))]
KQuery = Annotated[int, Query(ge=1, le=MAX_ITEMS)]
FilterQuery = Annotated[Filter, Query()]


# The same as an array between commas, as `describe` makes of it.
FIELDS_SCHEMA: dict[str, Any] = {
    "type": "array", "items": {"type": "string", "maxLength": MAX_ID_CHARS, "pattern": "^[^,]*$"}, "maxItems": FIELDS,
}  # fmt: skip


def _columns(said: str) -> str:
    found = names(said)
    if len(found) > FIELDS or any(len(name) > MAX_ID_CHARS for name in found):
        raise ValueError(f"at most {FIELDS} names of at most {MAX_ID_CHARS} characters")
    return said


FieldsQuery = Annotated[
    Text,
    Query(
        max_length=FIELDS * (MAX_ID_CHARS + 1),
        description=f"at most {FIELDS} columns, between commas",
        json_schema_extra=FIELDS_SCHEMA,
    ),
    AfterValidator(_columns),
]
LanguageQuery = Annotated[Language, Query()]


PageQuery = Annotated[Page | None, Query(description="`next` of the list before")]


class EncodedSlashMiddleware:
    """Lets ids hold slashes, written %2F."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        raw = scope.get("raw_path") or b""
        if scope["type"] == "http" and b"%2f" in raw.lower():
            kept = re.sub(b"%2f", quote(_SLASH).encode(), raw, flags=re.IGNORECASE)
            scope["path"] = unquote(kept.decode("latin-1"), errors="replace")
        await self.app(scope, receive, send)


class Tenant:
    """The shop that a request's key opens.

    work: the threads that make lists. writes: those that change the store, which may have to wait for it. key: what is
    known of the key. visitor: whom a page token names that the key signed; None: the key itself was sent.
    """

    def __init__(self, shop: Shop, work: Work, writes: Work, key: AccessKey, visitor: Visitor | None = None) -> None:
        self.shop, self.work, self.writes, self.key, self.visitor = shop, work, writes, key, visitor
        self.admin = visitor is None and "admin" in key.scopes
        self.live, self.store, self.writer, self.traces = shop.live, shop.store, shop.writer, shop.traces
        self.placements, self.list_service = shop.placements, shop.list_service

    async def find_list(self, list_id: str) -> Trace | None:
        """The trace of a list; None where there is none. That of a list which another process has just made is waited
        for: it is written a moment after the list is given."""
        pause = 0.02
        while True:
            found = await self.work.do(self.traces.find, list_id)
            if found is not None or not self.live.several or not _just_made(list_id):
                return found
            await asyncio.sleep(pause)
            pause *= 2

    def own(self, who: W, named: bool = True) -> W:
        """A request for a list, as who sends it may have it. named: a list for somebody: a visitor who is not named is.

        Raises RefusedError 403 for somebody else's.
        """
        return who if self.visitor is None else self.visitor.own(who, named)


def _just_made(list_id: str) -> bool:
    """Whether an id of a list was made within the last TRACE_WAIT seconds; see `fresh_id`."""
    made = re.fullmatch(r"([0-9a-f]{12})[0-9a-f]{20}", list_id)
    return made is not None and abs(time.time() - int(made[1], 16) / 1e3) < TRACE_WAIT


@dataclasses.dataclass(frozen=True)
class ScopeDependencies:
    """Dependencies that let in keys of a scope; `visitor_read` and `visitor_events` let in page tokens, too: such a
    route checks with `Tenant.own` or `Visitor.check` every id of a user that it is asked about."""

    read: Any
    events: Any
    page: Any
    admin: Any
    visitor_read: Any
    visitor_events: Any


def check_query(request: Request) -> None:
    """A dependency of every route: as bodies do, queries hold what the route knows and nothing else.

    Raises RefusedError 422 that names the first parameter the route does not take.
    """
    if not request.scope["query_string"]:
        return
    route = request.scope["route"]
    known = _parameters(route.dependant)
    for name in request.query_params:
        if name not in known:
            remedy = nearest(name, known) if known else "leave it out: the route takes no parameters"
            raise RefusedError(422, f"there is no parameter {name!r}", remedy, field=f"query.{name}")


def _parameters(dependant: Any) -> list[str]:
    """Names of the query parameters of a route and of what it depends on."""
    return [field.alias for field in dependant.query_params] + [
        name for part in dependant.dependencies for name in _parameters(part)
    ]


def json_response(said: Any, status: int = 200) -> Response:
    """An answer as JSON, past the checks that are for what others wrote."""
    try:
        body = orjson.dumps(said)
    except TypeError:  # a number beyond 64 bits, half a character
        body = json.dumps(said, separators=(",", ":")).encode()
    return Response(body, status, media_type="application/json")


def names(fields: str) -> list[str]:
    """Columns of a query, each once."""
    return list(dict.fromkeys(name.strip() for name in fields.split(",") if name.strip()))
