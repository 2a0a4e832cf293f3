"""A request built and its answer read, without a network."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from zhiyin.client.errors import ApiError
from zhiyin.core.errors import ConfigError

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how its answer is read."""

    method: str
    path: str
    read: Callable[[Any], T]
    params: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | None = None
    type: str = "application/json"
    tries: bool = True

    def request(self) -> dict[str, Any]:
        """Arguments of `httpx.Client.request`."""
        headers = {"Content-Type": self.type} if self.body is not None else {}
        return {
            "method": self.method,
            "url": self.path,
            "params": self.params,
            "content": self.body,
            "headers": headers,
        }

    def result(self, answer: httpx.Response | Exception) -> T:
        """The value of an answer. Raises ApiError for one that is no success."""
        if isinstance(answer, Exception):
            raise ApiError(0, f"the service did not answer ({type(answer).__name__})", "is it running at this address?")
        try:
            said = answer.json()
        except ValueError:
            said = None
        # Rows of which all were rejected are a 400 that tells each one's fate.
        told = isinstance(said, dict) and answer.status_code == 400 and "rejected" in said
        if answer.is_success or told:
            try:
                return self.read(said)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise ApiError(
                    answer.status_code, "the answer cannot be understood", "is this the address of a Zhiyin service?"
                ) from None
        said = said if isinstance(said, dict) else {}
        message = str(said.get("error") or f"the service answered {answer.status_code}")
        raise ApiError(answer.status_code, message, str(said.get("remedy") or ""), said.get("field"),
                       seconds_of(answer.headers.get("Retry-After", "")))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Calls(Generic[T]):
    """Requests that follow each other, and how their values become one."""

    calls: Iterator[Call[Any]]
    join: Callable[[list[Any]], T]


def seconds_of(retry_after: str) -> float:
    """Seconds that a header Retry-After asks to wait for, a number or a date; 0 where it cannot be read."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError, IndexError):
        return 0.0


def path_of(*parts: str) -> str:
    """The path of a resource; ids may hold anything."""
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


def as_json(value: Any) -> bytes:
    """A body. Raises ConfigError for what JSON has no words for."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"this cannot be sent as JSON: {error}", remedy="use texts, finite numbers, lists") from None


def said_of(**values: Any) -> dict[str, Any]:
    """What was given; the service has its own defaults for the rest."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v is not None}


def params_of(**values: Any) -> dict[str, str]:
    """What was given, as parameters of a query."""
    texts = {name: ",".join(value) if isinstance(value, list) else value for name, value in said_of(**values).items()}
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in texts.items()}


def as_it_is(said: Any) -> dict[str, Any]:
    """An answer that is passed on as it came."""
    return dict(said)


def fields_of(kind: type[Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataclass knows of an answer: a newer service may say more."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in said.items() if name in names and value is not None}
