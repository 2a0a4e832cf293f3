"""What every request goes through, whatever it asks for: an id, a time limit, headers, and being counted.

It stands outside of everything else, so that what is refused early and what goes wrong is seen as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from zhiyin.core.run import log
from zhiyin.core.uid import fresh_id
from zhiyin.service.errors import error_response
from zhiyin.service.log_format import stack_of

# Seconds that one request may take, whatever it does.
MAX_REQUEST_SECONDS = 30.0
# A request's id as the caller gave it: short and plain, and nobody's key.
_SANE = re.compile(rb"(?!zy_)[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# For every answer that does not speak of them itself.
_HEADERS = (
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store")
)  # fmt: skip


@dataclasses.dataclass(slots=True, eq=False)
class RequestRecord:
    """A request while it is answered, and what became of it.

    Parameters
    ----------
    receive: of the server, tells when the client is gone. shop: whose key it brought; "": nobody's, as yet. key: the
        name of that key. known: what was sent as a key, and what it was found to be.
    route: template, such as /v1/items/{key}; "none" where it is none of ours. begun: nanoseconds since 1970.
    lists: of each list that it made, when that was done (nanoseconds since 1970) and the seconds of its stages.
    """

    id: str
    receive: Any
    method: str
    begun: int
    shop: str = ""
    key: str = ""
    known: tuple[str, Any] | None = None
    route: str = "none"
    status: int = 0
    seconds: float = 0.0
    headers: Sequence[tuple[bytes, bytes]] = ()
    lists: list[tuple[int, dict[str, float]]] = dataclasses.field(default_factory=list)


# The request that this task or thread works for.
CURRENT: ContextVar[RequestRecord | None] = ContextVar("zhiyin-request", default=None)
After = Callable[[RequestRecord], None]


class RequestContextMiddleware:
    """See the module. after: each is called with a request that is done, and must neither wait nor raise.

    seconds: a request that takes longer is answered with 503. root: path under which a proxy serves all of it, whether
    or not it passes that path on.
    """

    def __init__(
        self, app: Any, after: Sequence[After] = (), seconds: float = MAX_REQUEST_SECONDS, root: str = ""
    ) -> None:
        self.app, self.after, self.seconds, self.root = app, after, seconds, root

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        if self.root:
            scope["root_path"] = self.root
            if scope["path"].startswith(self.root + "/"):
                scope["path"] = scope["path"].removeprefix(self.root)
                scope["raw_path"] = (scope.get("raw_path") or b"").removeprefix(self.root.encode())
        method = scope["method"] if scope["method"] in _METHODS else "other"
        record = RequestRecord(_id(scope["headers"]), receive, method, time.time_ns(), headers=scope["headers"])

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", record.id.encode())]
                names = {name for name, _ in headers}
                message = message | {"headers": headers + [one for one in _HEADERS if one[0] not in names]}
            await send(message)

        token = CURRENT.set(record)
        try:
            async with asyncio.timeout(self.seconds) as limit:
                await self.app(scope, receive, send_with_headers)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                if not record.status:
                    why = f"this took longer than {self.seconds:g} seconds"
                    await error_response(503, why, "ask for less at once, or come again")(
                        scope, receive, send_with_headers
                    )
                return
            # Its message may hold what users did: the log says what kind it was, and where.
            log.error("service: %s %s: %s", method, _route(scope), stack_of(error))
            if not record.status:
                await error_response(500, "something went wrong here", "look into the service's log")(
                    scope, receive, send_with_headers
                )
        finally:
            CURRENT.reset(token)
            record.route, record.seconds = _route(scope), time.perf_counter() - started
            for observe in self.after:
                observe(record)


def _id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    request_id = next((value for name, value in headers if name == b"x-request-id"), b"")
    return request_id.decode() if _SANE.fullmatch(request_id) else fresh_id()


def _route(scope: dict[str, Any]) -> str:
    return getattr(scope.get("route"), "path", None) or "none"
