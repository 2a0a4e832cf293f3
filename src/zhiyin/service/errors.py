"""What goes wrong, as answers: {"error", "remedy", "field"}, with a status that says whose fault it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from zhiyin.core.errors import UnknownItemError, ZhiyinError
from zhiyin.core.metering import StoppedError
from zhiyin.core.run import log
from zhiyin.service.log_format import stack_of
from zhiyin.service.placements import TooManyPlacementsError, UnknownPlacementError
from zhiyin.service.version_view import NoVersionError
from zhiyin.store.access_keys import KeyConflictError, UnknownKeyError
from zhiyin.store.errors import StoreAwayError, StoreFullError
from zhiyin.store.group_commit import CommitTimeoutError, StoreBusyError, StoreClosedError


class RefusedError(Exception):
    """An answer that is no success. retry: seconds after which it may be one. field: what is wrong of the request."""

    def __init__(
        self, status: int, message: str, remedy: str = "", *, retry: float = 1.0, field: str | None = None
    ) -> None:
        self.status, self.message, self.remedy, self.retry, self.field = status, message, remedy, retry, field


_STATUS: dict[type[ZhiyinError], int] = {
    CommitTimeoutError: 503,
    StoreBusyError: 503,
    StoreClosedError: 503,
    StoreAwayError: 503,
    StoreFullError: 507,
    StoppedError: 503,
    NoVersionError: 503,
    UnknownItemError: 404,
    UnknownPlacementError: 404,
    UnknownKeyError: 404,
    KeyConflictError: 409,
    TooManyPlacementsError: 409,
}


def say(status: int, message: str, remedy: str | None = None, retry: float = 1.0, **more: Any) -> JSONResponse:
    headers = {"Retry-After": str(max(1, math.ceil(retry)))} if status in (429, 503) else None
    more = {name: _sane(value) if isinstance(value, str) else value for name, value in more.items()}
    return JSONResponse({"error": _sane(message), "remedy": _sane(remedy or ""), **more}, status, headers)


def status_of(error: ZhiyinError) -> int:
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)


def answer_to(error: RefusedError | ZhiyinError | TimeoutError) -> Response:
    """What a request is told of what went wrong with it."""
    if isinstance(error, RefusedError):
        more = {} if error.field is None else {"field": error.field}
        return say(error.status, error.message, error.remedy, error.retry, **more)
    if isinstance(error, ZhiyinError):
        return say(status_of(error), error.message, error.remedy, field=error.column)
    # Its cause is not known here: a database, Redis, or anything else that is asked over a network.
    log.warning("service: something that was asked did not answer in time: %s", stack_of(error))
    return say(504, "something that the service asks did not answer in time", "come again; the log says what it was")


def unreadable(first: Mapping[str, Any]) -> Response:
    """What a request is told of the first of pydantic's errors about it."""
    place = ".".join(_sane(part) for part in first["loc"] if part not in ("body", "[key]"))
    message = str(first["msg"]).removeprefix("Value error, ")
    return say(422, f"{place}: {message}" if place else message, "see /docs", field=place or None)


def handle_errors(app: FastAPI) -> None:
    """Every error as an answer; what is our fault is for `request_context`."""

    @app.exception_handler(RefusedError)
    @app.exception_handler(ZhiyinError)
    @app.exception_handler(TimeoutError)
    async def refused(_: Request, error: RefusedError | ZhiyinError | TimeoutError) -> Response:
        return answer_to(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["loc"] == ("body",) and "json" not in request.headers.get("content-type", "").lower():
            return say(422, "the body is not said to be JSON", "send the header Content-Type: application/json")
        return unreadable(first)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            error.headers = {"Allow": ", ".join(sorted(_methods(request)))}
        remedy = {404: "see /docs", 405: "see /docs"}.get(error.status_code, "")
        answer = say(error.status_code, str(error.detail), remedy)
        answer.headers.update(error.headers or {})
        return answer


def _methods(request: Request) -> set[str]:
    """What the address of a request can be asked by."""
    routes = [route for route in request.app.router.routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in routes for method in getattr(route, "methods", None) or ()}


def _sane(text: Any) -> str:
    return str(text).encode("utf-8", "replace").decode()
