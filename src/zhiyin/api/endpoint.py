"""What an endpoint of the HTTP interface is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel

Scope = Literal["read", "events", "page", "admin"]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class JsonObject:
    """A body that is a JSON object of any names, as a JSON Schema describes it; the handler gets the dict."""

    schema: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class RawBody:
    """A body that its handler decodes. schemas: makes the JSON Schemas that describe it, by media type."""

    schemas: Callable[[], Mapping[str, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Endpoint:
    """One endpoint: all that the service, its description and the clients have to agree on.

    Parameters
    ----------
    name: of the endpoint, of its call in the Python client, and its `operationId`.
    method, path: such as "GET" and "/v1/items/{key}"; a name in braces is an id, percent-encoded.
    scope: that a key must have; None: no key is needed.
    response: type of a success, sent with status 200; None: text.
    description: for /openapi.json and /docs.
    tags: groups of the description.
    query: type of the parameters after the question mark; None: there are none.
    body: type of a JSON body, or a body of another kind; None: there is none.
    visitors: whether page tokens may use it. Its handler then has to check every id of a user that a request names.
    row_results: whether an answer with status 400 may be a `response`, too: a result for each row that was refused.
    refusals: status codes of /openapi.json other than 200; None: all that a request with a key may get.
    """

    name: str
    method: Method
    path: str
    scope: Scope | None
    response: type[BaseModel] | None
    description: str
    tags: tuple[str, ...]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | JsonObject | RawBody | None = None
    visitors: bool = False
    row_results: bool = False
    refusals: tuple[int, ...] | None = None

    @property
    def path_parameters(self) -> tuple[str, ...]:
        """Names of the ids in the path, in order."""
        return tuple(_PATH_PARAMETER.findall(self.path))

    def address(self, *ids: str) -> str:
        """The path with its ids, percent-encoded. Raises TypeError where there are too many or too few of them."""
        names = self.path_parameters
        if len(names) != len(ids):
            raise TypeError(f"{self.name} takes {len(names)} ids in its path, not {len(ids)}")
        values = dict(zip(names, ids))
        return _PATH_PARAMETER.sub(lambda match: _path_segment(str(values[match[1]])), self.path)


def _path_segment(id: str) -> str:
    """An id in a path. "." and ".." are encoded too: clients take them for steps between folders."""
    return id.replace(".", "%2E") if id in (".", "..") else quote(id, safe="")
