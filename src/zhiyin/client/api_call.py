"""Requests and how their responses are read, without a network."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from zhiyin.api.endpoint import Endpoint, RawBody
from zhiyin.client.api_types import Columns
from zhiyin.client.errors import ApiError
from zhiyin.core.errors import ConfigError

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how its response is read.

    Parameters
    ----------
    method, path, params, body, content_type: of the request.
    read: makes the value from the JSON of the response.
    retries_allowed: whether the request may be sent again.
    endpoint: that the request is for; None where only its path is known.
    is_text: whether a success is a text, not JSON.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    params: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/json"
    retries_allowed: bool = True
    endpoint: Endpoint | None = None
    is_text: bool = False

    def request(self) -> dict[str, Any]:
        """Arguments of `httpx.Client.request`."""
        headers = {"Content-Type": self.content_type} if self.body is not None else {}
        return {
            "method": self.method,
            "url": self.path,
            "params": self.params,
            "content": self.body,
            "headers": headers,
        }

    def result(self, response: httpx.Response | Exception) -> T:
        """The value of a response. Raises ApiError for one that is no success."""
        if isinstance(response, Exception):
            raise ApiError(
                0, f"the service did not answer ({type(response).__name__})", "is it running at this address?"
            )
        if self.is_text and response.is_success:
            return self.read(response.text)
        try:
            body = response.json()
        except ValueError:
            body = None
        # A request of which all rows were rejected is a 400 with a result for each row.
        has_row_results = isinstance(body, dict) and response.status_code == 400 and "rejected" in body
        if response.is_success or has_row_results:
            try:
                return self.read(body)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise ApiError(
                    response.status_code, "the answer cannot be understood", "is this the address of a Zhiyin service?"
                ) from None
        body = body if isinstance(body, dict) else {}
        message = str(body.get("error") or f"the service answered {response.status_code}")
        raise ApiError(response.status_code, message, str(body.get("remedy") or ""), body.get("field"),
                       retry_after_seconds(response.headers.get("Retry-After", "")))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CallSequence(Generic[T]):
    """Requests that are sent one after another, and how their values are joined."""

    calls: Iterator[Call[Any]]
    join: Callable[[list[Any]], T]


def retry_after_seconds(retry_after: str) -> float:
    """Seconds of a Retry-After header, which holds a number or a date; 0 where it cannot be parsed."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError, IndexError):
        return 0.0


def endpoint_call(
    endpoint: Endpoint,
    *ids: str,
    read: Callable[[Any], T],
    query: Columns | BaseModel | None = None,
    body: Columns | BaseModel | bytes | None = None,
    retries_allowed: bool = True,
) -> Call[T]:
    """The call of an endpoint.

    Parameters
    ----------
    ids: those of the endpoint's path, in order.
    read: makes the value from the JSON of the response.
    query: parameters; those that are None are left out.
    body: fields of a JSON object; bytes: as they are, of an endpoint that takes rows lines of JSON.

    Raises ConfigError for what the endpoint does not take.
    """
    if not isinstance(endpoint, Endpoint):
        raise ConfigError(f"{endpoint!r:.80} is no endpoint", remedy="one of zhiyin.api.endpoints, such as RECOMMEND")
    if body is not None and endpoint.body is None:
        raise ConfigError(f"{endpoint.name} takes no body", remedy="leave body out; query has the parameters")
    if query is not None and not isinstance(query, Mapping | BaseModel):
        raise ConfigError(f"query is a {type(query).__name__}", remedy="parameters by name, such as {'k': 5}")
    if body is not None and not isinstance(body, Mapping | BaseModel | bytes):
        raise ConfigError(f"body is a {type(body).__name__}", remedy="fields by name, or bytes of JSON")
    if not all(str(id) for id in ids):
        raise ConfigError("an id is empty", remedy="ids have 1 to 256 characters")
    path, params = endpoint.address(*ids), query_params(**_fields_of(query)) if query is not None else {}
    content = body if body is None or isinstance(body, bytes) else as_json(_fields_of(body))
    has_lines = isinstance(body, bytes) and isinstance(endpoint.body, RawBody)
    content_type = "application/x-ndjson" if has_lines else "application/json"
    is_text = endpoint.response is None
    return Call(endpoint.method, path, read, params, content, content_type, retries_allowed, endpoint, is_text)


def call(
    endpoint: Endpoint,
    *ids: str,
    query: Columns | BaseModel | None = None,
    body: Columns | BaseModel | bytes | None = None,
) -> Call[Any]:
    """Call any endpoint of `zhiyin.api.endpoints`; the JSON of its response, or the text of one that is none.

    Parameters
    ----------
    ids: those of the endpoint's path, in order.
    query: parameters, by name or as the endpoint's type.
    body: fields of a JSON object, by name or as the endpoint's type; bytes: lines of JSON.
    """
    return endpoint_call(endpoint, *ids, read=lambda response: response, query=query, body=body)


def _fields_of(value: Columns | BaseModel) -> dict[str, Any]:
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else dict(value)


def as_json(value: Any) -> bytes:
    """A request body. Raises ConfigError for a value that JSON cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"this cannot be sent as JSON: {error}", remedy="use texts, finite numbers, lists") from None


def present_fields(**values: Any) -> dict[str, Any]:
    """The fields that are not None; the service has defaults for the others."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v is not None}


def query_params(**values: Any) -> dict[str, str]:
    """The fields that are not None, as query parameters."""
    texts = {
        name: ",".join(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in present_fields(**values).items()
    }
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in texts.items()}


def as_object(body: Any) -> dict[str, Any]:
    """A JSON object, unchanged."""
    return dict(body)


def known_fields(kind: type[Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a response that a dataclass has; a newer service may send others."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in body.items() if name in names and value is not None}
