"""How the service describes itself: /openapi.json, made of the endpoints and their types, and /docs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from zhiyin.api.endpoint import Endpoint, JsonObject, RawBody
from zhiyin.api.requests import Id
from zhiyin.api.responses import Refusal
from zhiyin.core.version import __version__
from zhiyin.service.docs_page import REF, page_of
from zhiyin.service.endpoint_dispatch import NamedRoute

_RETRY_AFTER = {"Retry-After": {"description": "seconds until it may succeed", "schema": {"type": "string"}}}
REFUSALS: dict[int, str] = {
    400: "It has the form that is described, and cannot be done: a filter that cannot be read or names no column, a "
    "page of another route, a value that its column cannot hold, events or lines of which none could be kept",
    401: "No key, or one that is not known",
    403: "The key may not do this",
    404: "There is no such thing: what the address names, or an item, a placement or a version that the body names",
    409: "What is there forbids it: a name that is taken, too many keys, placements or columns, the last admin key, a "
    "type under which a rule of the house could not be used",
    408: "The request came too slowly",
    413: "The request is too large",
    422: "It has not the form that is described: a field is missing, unknown, of the wrong kind or out of its range",
    431: "The headers are too large, or the address",
    429: "The key sends too many requests",
    500: "Something went wrong here",
    503: "Too much is at work, or the store is away: come again",
    504: "Something that the service asks did not answer in time",
    507: "The disk is full",
}
_SECURITY = {"HTTPBearer": {
    "type": "http", "scheme": "bearer",
    "description": "a key (zhiyin key add), or a page token where a route takes one",
}}  # fmt: skip
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
References = dict[type[BaseModel], dict[str, Any]]


class Description:
    """The description of an application's endpoints; made once, then sent as it is: anyone may ask for it, as often as
    they like."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._document: dict[str, Any] | None = None
        self._contents: dict[tuple[str, str], bytes] = {}

    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        if self._document is None:
            self._document = openapi_document(self._endpoints)
        return self._document

    def routes(self) -> list[NamedRoute]:
        """The routes of /openapi.json and /docs."""

        async def openapi(request: Request) -> Response:
            return self._send(request, "openapi", _compact_json, "application/json")

        async def docs(request: Request) -> Response:
            return self._send(request, "docs", page_of, "text/html")

        return [NamedRoute("/openapi.json", openapi), NamedRoute("/docs", docs)]

    def _send(self, request: Request, name: str, render: Callable[[dict[str, Any]], str], media_type: str) -> Response:
        root = str(request.scope.get("root_path", ""))  # where a proxy serves it; of the settings, so there is one
        if (name, root) not in self._contents:
            servers = {"servers": [{"url": root}]} if root else {}
            self._contents[name, root] = render(self.document() | servers).encode()
        headers = {"Content-Security-Policy": _POLICY}
        return Response(self._contents[name, root], headers=headers, media_type=media_type)


def _compact_json(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def openapi_document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document of endpoints."""
    endpoints = list(endpoints)
    bodies = {one.body: None for one in endpoints if isinstance(one.body, type)}
    answers = {one.response: None for one in endpoints if one.response is not None}
    request_references, request_schemas = _schemas([*bodies, Refusal], "validation")
    response_references, response_schemas = _schemas(answers, "serialization")
    references = request_references | response_references
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, references)
    return {
        "openapi": "3.1.0", "info": {"title": "Zhiyin", "version": __version__}, "paths": paths,
        "components": {"schemas": _without_nulls(request_schemas) | response_schemas, "securitySchemes": _SECURITY},
    }  # fmt: skip


def _schemas(models: Iterable[type[BaseModel]], mode: JsonSchemaMode) -> tuple[References, dict[str, Any]]:
    """A reference to each model, and the JSON Schemas of all models and of what they hold, by name."""
    models = sorted(models, key=lambda model: model.__name__)
    references, schemas = models_json_schema([(model, mode) for model in models], ref_template=REF + "{model}")
    return {model: references[model, mode] for model in models}, schemas.get("$defs", {})


def _operation(endpoint: Endpoint, references: References) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": list(endpoint.tags), "summary": endpoint.name.replace("_", " ").title(),
        "description": endpoint.description, "operationId": endpoint.name,
    }  # fmt: skip
    if endpoint.scope is not None:
        operation["security"] = [{name: []} for name in _SECURITY]
    if parameters := _parameters(endpoint):
        operation["parameters"] = parameters
    if endpoint.body is not None:
        contents = {
            media_type: {"schema": schema} for media_type, schema in _body_schemas(endpoint, references).items()
        }
        operation["requestBody"] = {"required": True, "content": contents}
    operation["responses"] = _responses(endpoint, references)
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    id_schema = TypeAdapter(Id).json_schema()
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": id_schema | {"title": name.title().replace("_", " ")}}
        for name in endpoint.path_parameters
    ]
    if endpoint.query is None:
        return parameters
    schema = endpoint.query.model_json_schema()
    for name, value_schema in schema["properties"].items():
        value_schema = _without_nulls(value_schema)
        parameter = {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": value_schema,
        }
        if "description" in value_schema:
            parameter["description"] = value_schema["description"]
        if value_schema.get("type") == "array":  # read from one text, between commas
            parameter |= {"style": "form", "explode": False}
            for key in ("maxLength", "default"):
                value_schema.pop(key, None)
        parameters.append(parameter)
    return parameters


def _body_schemas(endpoint: Endpoint, references: References) -> dict[str, Any]:
    """JSON Schemas of a body, by media type."""
    if isinstance(endpoint.body, RawBody):
        return {media_type: _without_nulls(schema) for media_type, schema in endpoint.body.schemas().items()}
    if isinstance(endpoint.body, JsonObject):
        return {"application/json": endpoint.body.schema}
    assert endpoint.body is not None
    return {"application/json": references[endpoint.body]}


def _responses(endpoint: Endpoint, references: References) -> dict[str, Any]:
    if endpoint.response is None:
        success: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        success = {"application/json": {"schema": references[endpoint.response]}}
    responses: dict[str, Any] = {"200": {"description": "Successful Response", "content": success}}
    for status in REFUSALS if endpoint.refusals is None else endpoint.refusals:
        schema = references[Refusal]
        if status == 400 and endpoint.row_results and endpoint.response is not None:
            schema = {"anyOf": [schema, references[endpoint.response]]}
        headers = {"headers": _RETRY_AFTER} if status in (429, 503) else {}
        content = {"application/json": {"schema": schema}}
        responses[str(status)] = {"description": REFUSALS[status], **headers, "content": content}
    return responses


def _without_nulls(schema: Any) -> Any:
    """A JSON Schema without defaults that are null: a field that is left out says the same."""
    if isinstance(schema, dict):
        return {key: _without_nulls(part) for key, part in schema.items() if part is not None}
    return [_without_nulls(part) for part in schema] if isinstance(schema, list) else schema
