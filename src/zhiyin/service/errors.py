"""Errors as responses: {"error", "remedy", "field"}, with a status."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from zhiyin.core.errors import UnknownItemError, ZhiyinError
from zhiyin.core.run import log
from zhiyin.core.validation_errors import FieldError
from zhiyin.core.work_limits import StoppedError
from zhiyin.pipeline.ad_candidates import BidColumnError, NoProbabilitiesError
from zhiyin.service.campaigns import CampaignConflictError, TooManyCampaignsError, UnknownCampaignError
from zhiyin.service.experiment_checks import ExperimentConflictError, TooManyExperimentsError, UnknownExperimentError
from zhiyin.service.loaded_version import NoVersionError, UnknownVersionError
from zhiyin.service.log_format import stack_of
from zhiyin.service.placements import TooManyPlacementsError, UnknownPlacementError
from zhiyin.service.policy_administration import UnknownPolicyError
from zhiyin.service.policy_controls import PolicyConflictError
from zhiyin.store.access_keys import KeyConflictError, UnknownKeyError
from zhiyin.store.errors import StoreAwayError, StoreFullError
from zhiyin.store.group_commit import CommitTimeoutError, StoreBusyError, StoreClosedError


class RefusedError(Exception):
    """A request is answered with an error. retry: seconds until it may succeed. field: of the request that is wrong."""

    def __init__(
        self, status: int, message: str, remedy: str = "", *, retry: float = 1.0, field: str | None = None
    ) -> None:
        self.status, self.message, self.remedy, self.retry, self.field = status, message, remedy, retry, field


class InvalidRequestError(RefusedError):
    """A part of a request is not of its type; its field is in the response even where there is none."""

    def __init__(self, message: str, field: str | None, remedy: str = "") -> None:
        super().__init__(422, message, remedy or "see /docs", field=field)

    @classmethod
    def of(cls, error: FieldError, place: Sequence[str] = ()) -> InvalidRequestError:
        """Of the first error of a value. place: where the value stands in the request; empty: in its body."""
        field = ".".join(_printable(part) for part in (*place, *error.path))
        return cls(f"{field}: {error.message}" if field else error.message, field or None, error.remedy)


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
    UnknownExperimentError: 404,
    UnknownCampaignError: 404,
    UnknownVersionError: 404,
    UnknownPolicyError: 404,
    UnknownKeyError: 404,
    KeyConflictError: 409,
    TooManyPlacementsError: 409,
    TooManyCampaignsError: 409,
    CampaignConflictError: 409,
    BidColumnError: 409,
    NoProbabilitiesError: 409,
    TooManyExperimentsError: 409,
    ExperimentConflictError: 409,
    PolicyConflictError: 409,
}


def error_response(
    status: int, message: str, remedy: str | None = None, retry: float = 1.0, **fields: Any
) -> JSONResponse:
    """A response with an error. retry: seconds until the request may succeed, sent with status 429 and 503."""
    headers = {"Retry-After": str(max(1, math.ceil(retry)))} if status in (429, 503) else None
    fields = {name: _printable(value) if isinstance(value, str) else value for name, value in fields.items()}
    return JSONResponse({"error": _printable(message), "remedy": _printable(remedy or ""), **fields}, status, headers)


def status_of(error: ZhiyinError) -> int:
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)


def answer_to(error: RefusedError | ZhiyinError | TimeoutError) -> Response:
    """The response to a request that failed."""
    if isinstance(error, RefusedError):
        has_field = error.field is not None or isinstance(error, InvalidRequestError)
        fields = {"field": error.field} if has_field else {}
        return error_response(error.status, error.message, error.remedy, error.retry, **fields)
    if isinstance(error, ZhiyinError):
        return error_response(status_of(error), error.message, error.remedy, field=error.column)
    # Its cause is not known here: a database, Redis, or anything else that is asked over a network.
    log.warning("service: something that was asked did not answer in time: %s", stack_of(error))
    return error_response(
        504, "something that the service asks did not answer in time", "come again; the log says what it was"
    )


async def http_error_response(request: Request, error: Exception) -> Response:
    """The response to a request that no route takes; a handler of `starlette.exceptions.HTTPException`."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers = {"Allow": ", ".join(sorted(_allowed_methods(request)))}
    response = error_response(
        error.status_code, str(error.detail), "see /docs" if error.status_code in (404, 405) else ""
    )
    response.headers.update(headers)
    return response


def _allowed_methods(request: Request) -> set[str]:
    """The methods of all routes that have the path of a request."""
    routes = [route for route in request.app.router.routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in routes for method in getattr(route, "methods", None) or ()}


def _printable(value: Any) -> str:
    """As UTF-8 can hold it."""
    return str(value).encode("utf-8", "replace").decode()
