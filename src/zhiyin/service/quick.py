"""The routes that are asked for most, by a short way: found by their path, read by one model, answered.

FastAPI has the same routes, describes them, and answers whatever is not plain here: a body that cannot be read, a key
that is missing. It takes as long to find out what a route needs as a list takes to make.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Response

from zhiyin.core.errors import ZhiyinError
from zhiyin.service.errors import RefusedError, answer_to
from zhiyin.service.routing import Tenant


@dataclasses.dataclass(frozen=True)
class Lane:
    """A route of POST. needs: scope of the key. visitors: whether page tokens may do it, too.

    read: what a body of a content type says; raises where it is not plain. answer: as the route's own function.
    """

    needs: str
    read: Callable[[bytes, str], Any]
    answer: Callable[[Any, Tenant], Awaitable[Response]]
    visitors: bool = False


class Quick:
    """See the module. lanes: by path. Bodies come whole, as `Limited` gives them."""

    def __init__(self, app: Any, lanes: Mapping[str, Lane]) -> None:
        self.app, self.lanes = app, lanes

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        plain = scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]
        lane = self.lanes.get(scope["path"]) if plain else None
        if lane is None:
            await self.app(scope, receive, send)
            return
        message = await receive()
        headers = dict(scope["headers"])
        how, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        try:
            if message["type"] != "http.request" or message.get("more_body") or how.lower() != "bearer" or not key:
                raise ValueError
            given = lane.read(message["body"], headers.get(b"content-type", b"").decode("latin-1").lower())
        except (ValueError, RecursionError, RefusedError):
            await self.app(scope, _again(message, receive), send)
            return
        scope["route"] = _Named(scope["path"])
        try:
            tenant = scope["app"].state.door.enter(key.strip(), lane.needs, lane.visitors)
            answer = await lane.answer(given, tenant)
        except (RefusedError, ZhiyinError, TimeoutError) as error:
            answer = answer_to(error)
        await answer(scope, receive, send)


@dataclasses.dataclass(frozen=True, slots=True)
class _Named:
    """What a route is called in figures and logs."""

    path: str


def _again(first: Any, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """`receive`, with a message that was taken from it in front."""
    kept = [first]

    async def next_one() -> Any:
        return kept.pop() if kept else await receive()

    return next_one
