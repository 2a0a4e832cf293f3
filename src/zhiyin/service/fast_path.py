"""The routes that are asked for most, by a short way: found by their path, let in by their key, read by one model,
answered.

FastAPI has the same routes, describes them, and answers whatever is not plain here: no body, a key that is missing. It
takes as long to find out what a route needs as a list takes to make.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Response
from pydantic import ValidationError

from zhiyin.core.errors import ZhiyinError
from zhiyin.service.errors import RefusedError, answer_to, unreadable
from zhiyin.service.request_json import read_off_loop
from zhiyin.service.request_limits import header, resumed
from zhiyin.service.route_dependencies import Tenant


@dataclasses.dataclass(frozen=True)
class FastRoute:
    """A route of POST. needs: scope of the key. visitors: whether page tokens may do it, too.

    read: what a body of a content type says; raises ValidationError or RefusedError. json: whether it reads JSON only.
    answer: as the route's own function.
    """

    needs: str
    read: Callable[[bytes, str], Any]
    answer: Callable[[Any, Tenant], Awaitable[Response]]
    visitors: bool = False
    json: bool = True


class FastPathMiddleware:
    """See the module. fast_routes: by path. Bodies come whole, as `RequestLimitMiddleware` gives them."""

    def __init__(self, app: Any, fast_routes: Mapping[str, FastRoute]) -> None:
        self.app, self.fast_routes = app, fast_routes

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        plain = scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]
        route = self.fast_routes.get(scope["path"]) if plain else None
        if route is None:
            await self.app(scope, receive, send)
            return
        message = await receive()
        how, _, key = header(scope, b"authorization").partition(" ")
        kind = header(scope, b"content-type").lower()
        plain = message["type"] == "http.request" and not message.get("more_body") and how.lower() == "bearer"
        if not (plain and key.strip() and (not route.json or (message["body"] and "json" in kind))):
            await self.app(scope, resumed(message, receive), send)
            return
        scope["route"] = _Named(scope["path"])
        try:
            tenant = scope["app"].state.authenticator.authenticate(key.strip(), route.needs, route.visitors)
            given = await read_off_loop(route.read, message["body"], kind)
            answer = await route.answer(given, tenant)
        except (RefusedError, ZhiyinError, TimeoutError) as error:
            answer = answer_to(error)
        except ValidationError as error:
            answer = unreadable(error.errors(include_url=False, include_context=False, include_input=False)[0])
        await answer(scope, receive, send)


@dataclasses.dataclass(frozen=True, slots=True)
class _Named:
    """What a route is called in figures and logs."""

    path: str
