"""Routes made of the endpoints of `zhiyin.api`: a request is authenticated, decoded by its types, and handled.

A handler is bound to its endpoint by `@handles(endpoint)` and names what it needs:

- `access`: what the key gives access to (`Access`); only of an endpoint with a scope.
- the ids of the path, by their names there.
- `query`: the parameters, as `endpoint.query`.
- `body`: the body, as `endpoint.body`: a model, a dict (`JsonObject`) or bytes (`RawBody`).
- `content_type`: of a `RawBody`.
- `authenticator`: of the application, for endpoints about all shops.

It returns what is sent as JSON, or a `Response` where the status is not 200.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.routing import Match, Route

from zhiyin.api.endpoint import Endpoint, JsonObject, RawBody
from zhiyin.api.endpoints import ENDPOINTS
from zhiyin.api.requests import Id
from zhiyin.core.errors import ZhiyinError, suggest
from zhiyin.core.validation_errors import first_field_error
from zhiyin.service.authentication import Authenticator
from zhiyin.service.errors import InvalidRequestError, RefusedError, answer_to
from zhiyin.service.path_ids import decode_slashes
from zhiyin.service.request_json import parsed, read_off_loop
from zhiyin.service.request_limits import bearer_credentials, header

Handler = Callable[..., Awaitable[Any]]
H = TypeVar("H", bound=Handler)
# The handler of each endpoint.
HANDLERS: dict[Endpoint, Handler] = {}
_ID: TypeAdapter[str] = TypeAdapter(Id)


def handles(endpoint: Endpoint) -> Callable[[H], H]:
    """Bind a handler to an endpoint; see the module for its parameters.

    Raises TypeError for parameters that the endpoint does not have, and where it does not take those that it has.
    """
    required = set(endpoint.path_parameters)
    required |= {"query"} if endpoint.query is not None else set()
    required |= {"body"} if endpoint.body is not None else set()
    allowed = required | {"authenticator"}
    allowed |= {"access"} if endpoint.scope is not None else set()
    allowed |= {"content_type"} if isinstance(endpoint.body, RawBody) else set()

    def bind(handler: H) -> H:
        parameters = set(inspect.signature(handler).parameters)
        if not required <= parameters <= allowed:
            raise TypeError(
                f"the handler of {endpoint.name} takes {sorted(parameters)}: {sorted(required)} are needed, "
                f"{sorted(allowed)} are allowed"
            )
        HANDLERS[endpoint] = handler
        return handler

    return bind


class NamedRoute(Route):
    """A route of one method, no more, that metrics and logs know by its path."""

    def __init__(self, path: str, app: Any, method: str = "GET", name: str | None = None) -> None:
        super().__init__(path, app, methods=[method], name=name)
        self.methods = {method}  # Starlette adds HEAD to GET

    def matches(self, scope: Any) -> tuple[Match, Any]:
        match, child_scope = super().matches(scope)
        if match is not Match.NONE:
            child_scope["route"] = self
        return match, child_scope


class EndpointRoute(NamedRoute):
    """The route of an endpoint."""

    def __init__(self, endpoint: Endpoint, handler: Handler, authenticator: Authenticator) -> None:
        self.definition = endpoint
        super().__init__(endpoint.path, _EndpointApp(endpoint, handler, authenticator), endpoint.method, endpoint.name)


def endpoint_routes(authenticator: Authenticator, replace: Mapping[Endpoint, Endpoint]) -> list[EndpointRoute]:
    """A route for each endpoint that has a handler, in the order of the table, those without ids in their paths first.

    replace: other endpoints, for the handlers of those that they stand in place of.
    """
    position = {endpoint: number for number, endpoint in enumerate(ENDPOINTS.values())}
    handlers = sorted(HANDLERS.items(), key=lambda entry: position.get(entry[0], len(position)))
    routes = [EndpointRoute(replace.get(one, one), handler, authenticator) for one, handler in handlers]
    return sorted(routes, key=lambda route: len(route.param_convertors))


class _EndpointApp:
    """The ASGI application of one endpoint."""

    def __init__(self, endpoint: Endpoint, handler: Handler, authenticator: Authenticator) -> None:
        self._endpoint, self._handler, self._authenticator = endpoint, handler, authenticator
        self._parameters = frozenset(inspect.signature(handler).parameters)
        self._decode_body = _body_decoder(endpoint.body)
        query = endpoint.query
        self._query_names = [] if query is None else list(query.model_fields)
        for model in (query, endpoint.body):
            if isinstance(model, type):
                model.model_rebuild()  # built now, not at the first request

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            result = await self._handler(**await self._arguments(scope, receive))
            response = result if isinstance(result, Response) else json_response(result)
        except (RefusedError, ZhiyinError, TimeoutError) as error:
            response = answer_to(error)
        await response(scope, receive, send)

    async def _arguments(self, scope: Any, receive: Any) -> dict[str, Any]:
        """The arguments of the handler. Raises RefusedError."""
        endpoint, arguments = self._endpoint, dict[str, Any]()
        if endpoint.scope is not None:
            access = self._authenticator.authenticate(bearer_credentials(scope), endpoint.scope, endpoint.visitors)
            if "access" in self._parameters:
                arguments["access"] = access
        if "authenticator" in self._parameters:
            arguments["authenticator"] = self._authenticator
        parameters = self._query_parameters(scope["query_string"])
        for name, value in scope["path_params"].items():
            arguments[name] = decode_slashes(_validated(_ID, value, "path", name))
        if endpoint.query is not None:
            arguments["query"] = _validated(endpoint.query, parameters, "query")
        if endpoint.body is not None:
            content, content_type = await _read_body(receive), header(scope, b"content-type").lower()
            arguments["body"] = await read_off_loop(self._decode_body, content, content_type)
            if "content_type" in self._parameters:
                arguments["content_type"] = content_type
        return arguments

    def _query_parameters(self, query_string: bytes) -> dict[str, str]:
        """Raises RefusedError 422 that names the first parameter which the endpoint does not take."""
        if not query_string:
            return {}
        parameters = dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True))
        for name in parameters:
            if name not in self._query_names:
                known = self._query_names
                remedy = suggest(name, known) if known else "leave it out: the route takes no parameters"
                raise RefusedError(422, f"there is no parameter {name!r}", remedy, field=f"query.{name}")
        return parameters


def _body_decoder(kind: type[BaseModel] | JsonObject | RawBody | None) -> Callable[[bytes, str], Any]:
    """Decodes a body, given its content type."""

    def decode_json(content: bytes, content_type: str) -> dict[str, Any]:
        subtype = content_type.partition(";")[0].strip().partition("/")[2]
        if subtype != "json" and not subtype.endswith("+json"):
            raise RefusedError(422, "the body is not said to be JSON", "send the header Content-Type: application/json")
        if not content:
            raise InvalidRequestError("Field required", None)
        return parsed(content)

    def decode_model(content: bytes, content_type: str) -> Any:
        return _validated(model, decode_json(content, content_type))

    if isinstance(kind, RawBody) or kind is None:
        return lambda content, content_type: content
    if isinstance(kind, JsonObject):
        return decode_json
    model = kind
    return decode_model


def _validated(kind: type[BaseModel] | TypeAdapter[Any], value: Any, *place: str) -> Any:
    """The value by its type. Raises InvalidRequestError that names the field, below `place`, for the first error."""
    try:
        return kind.validate_python(value) if isinstance(kind, TypeAdapter) else kind.model_validate(value)
    except ValidationError as error:
        model = None if isinstance(kind, TypeAdapter) else kind
        raise InvalidRequestError.of(first_field_error(error, model), place) from None


async def _read_body(receive: Callable[[], Awaitable[Any]]) -> bytes:
    """The body; empty where the client is gone."""
    message = await receive()
    if message["type"] != "http.request":
        return b""
    content: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        content += message.get("body", b"")
    return content


class JsonResponse(Response):
    """A response whose body is JSON already."""

    media_type = "application/json"

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.body, self.status_code, self.background = body, status, None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]


def json_response(value: Any, status: int = 200) -> Response:
    """A response of JSON."""
    try:
        body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # a number beyond 64 bits, half a character
        body = json.dumps(value, separators=(",", ":")).encode()
    return JsonResponse(body, status)


class DirectRoutes:
    """Calls the endpoints whose paths have no parameters by one look-up; all other requests go on to the router.

    Parameters
    ----------
    app: the rest of the application, with all routes.
    routes: those of the endpoints.
    """

    def __init__(self, app: Any, routes: Sequence[EndpointRoute]) -> None:
        self._app = app
        self._routes = {(route.definition.method, route.path): route for route in routes if not route.param_convertors}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        route = None
        if scope["type"] == "http" and not scope.get("root_path"):
            route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"], scope["path_params"] = route, {}
        await route.app(scope, receive, send)
